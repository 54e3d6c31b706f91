"""What Ray costs: images a second of one worker under Ray Train against the same loop in-process.

Both train the small recipe on made-up images and write metrics; each rate is that of the steps
after the first logged ones, which warm up, by the run's own clock; in turn, medians. Starting Ray
is not part of it. Run as `python benchmarks/ray_train.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _seeded import machine

from raymrcnn.config import override
from raymrcnn.data.synthetic import write_synthetic
from raymrcnn.device.accelerator import CPU
from raymrcnn.device.on_ray import ray_session, worker_device
from raymrcnn.recipes import tiny
from raymrcnn.train.job import PreparedJob, TrainJob, prepare
from raymrcnn.train.on_ray import run_training
from raymrcnn.train.worker import Channel, train_worker

RESULTS = Path(__file__).parent / "results" / "ray_train.json"
LOG_EVERY, WARM_UP = 5, 2  # steps a record; records that warm up


def job(data: Path, run: Path, steps: int) -> PreparedJob:
    changes = [f"optim.max_iter={steps}", "optim.steps=[]", f"log_every={LOG_EVERY}"]
    return prepare(TrainJob(recipe=override(tiny(), changes), data_root=data, run_dir=run))


def in_process(one: PreparedJob, tell: Callable[[dict[str, Any]], None]) -> None:
    device = worker_device(CPU, 1)  # as of a worker that is alone on its machine
    train_worker(one, device, Channel(tell=tell, stop_asked=lambda: False))


def through_ray(one: PreparedJob, tell: Callable[[dict[str, Any]], None]) -> None:
    run_training(one, cluster=None, on_news=tell, stop=threading.Event())


def rate(train: Callable[..., None], one: PreparedJob) -> float:
    """Images a second by the records' own clock."""
    records: list[dict[str, Any]] = []
    train(one, lambda item: records.append(item) if "step" in item else None)
    first, last = records[WARM_UP], records[-1]
    images = (last["step"] - first["step"]) * one.job.recipe.optim.batch_size
    return images / float(last["seconds"] - first["seconds"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short pair, no file")
    quick = parser.parse_args().quick
    pairs, steps = (1, 20) if quick else (3, 40)
    bare, under_ray = [], []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_synthetic(home / "data", 80, seed=0)
        with ray_session(None, CPU, 1):
            for k in range(pairs):
                bare.append(rate(in_process, job(home / "data", home / f"bare{k}", steps)))
                under_ray.append(rate(through_ray, job(home / "data", home / f"ray{k}", steps)))
    result = {
        "benchmark": "ray_train",
        "what": "images/s of training, the small recipe, one worker",
        "in_process": round(statistics.median(bare), 2),
        "under_ray": round(statistics.median(under_ray), 2),
        "ratio": round(statistics.median(r / b for r, b in zip(under_ray, bare, strict=True)), 3),
        "pairs": pairs,
        "steps": steps,
        **machine(),
    }
    print(json.dumps(result, indent=2))
    if not quick:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
