"""What 1, 2 and 4 training processes cost each other on one machine, joined by gloo over loopback.

The all-reduce of the gradient of R-50-FPN (float32), and steps of the small recipe: the same global
batch, shared by more processes, which share the machine's processors too. Medians; the numbers of
processes in turn. Run as `python benchmarks/scaling.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _seeded import machine
from scaling_model import GRADIENT_BYTES

from raymrcnn.config import override
from raymrcnn.data.synthetic import write_synthetic
from raymrcnn.recipes import tiny
from raymrcnn.train.job import PreparedJob, TrainJob, prepare
from raymrcnn.train.worker import Channel, train_worker

RESULTS = Path(__file__).parent / "results" / "scaling.json"
PROCESSES = (1, 2, 4)
LOG_EVERY, WARM_UP = 2, 2  # steps a record; records that warm up


def rank(index: int, world: int, meet: str, job: PreparedJob, repeats: int, told: Any) -> None:
    """One process: all-reduces, then a training run."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=index, world_size=world)
    seconds = []
    gradient = torch.ones(GRADIENT_BYTES["R-50"] // 4)
    for _ in range(repeats + 1 if world > 1 else 0):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - began)
    del gradient
    records: list[dict[str, Any]] = []
    channel = Channel(tell=records.append, stop_asked=lambda: False)
    train_worker(job, torch.device("cpu"), channel, rank=index, world_size=world)
    if index == 0:
        steps = [record for record in records if "loss" in record]
        rates = [record["images_per_s"] for record in steps[WARM_UP:]]
        batch = job.job.recipe.optim.batch_size
        told.put((statistics.median(seconds[1:] or [0.0]), batch / statistics.median(rates)))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def measure(world: int, job: PreparedJob, home: Path, repeats: int) -> tuple[float, float]:
    """Seconds of an all-reduce and of a step."""
    context = multiprocessing.get_context("forkserver")
    told, meet = context.SimpleQueue(), str(home / f"meet-{time.time_ns()}")
    processes = [
        context.Process(target=rank, args=(k, world, meet, job, repeats, told))
        for k in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode
    found: tuple[float, float] = told.get()
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of few steps, no file")
    quick = parser.parse_args().quick
    os.environ["OMP_NUM_THREADS"] = "1"
    rounds, steps, repeats = (1, 8, 1) if quick else (3, 16, 3)
    found: dict[int, list[tuple[float, float]]] = {world: [] for world in PROCESSES}
    changes = [f"optim.max_iter={steps}", "optim.steps=[]", f"log_every={LOG_EVERY}",
               "checkpoint.every=1000"]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_synthetic(home / "data", 40, seed=0)
        for k in range(rounds):
            for world in PROCESSES:
                recipe = override(tiny(), changes)
                run = home / f"run-{k}-{world}"
                job = prepare(TrainJob(recipe=recipe, data_root=home / "data", run_dir=run))
                found[world].append(measure(world, job, home, repeats))
    gradient = GRADIENT_BYTES["R-50"]
    exchange = {w: statistics.median(s for s, _ in of) for w, of in found.items() if w > 1}
    step = {w: statistics.median(s for _, s in of) for w, of in found.items()}
    result = {
        "benchmark": "scaling",
        "what": "1, 2, 4 processes on one machine, gloo over loopback",
        "gradient_mb": round(gradient / 1e6, 1),
        "all_reduce_s": {str(w): round(s, 3) for w, s in exchange.items()},
        "gb_per_s": {
            str(w): round(2 * (w - 1) / w * gradient / s / 1e9, 2) for w, s in exchange.items()
        },
        "batch": tiny().optim.batch_size,
        "step_s": {str(w): round(s, 3) for w, s in step.items()},
        "times_one_process": {
            str(w): round(statistics.median(a / b for (_, a), (_, b) in
                                            zip(found[1], found[w], strict=True)), 2)
            for w in PROCESSES
        },
        "rounds": rounds,
        "steps": steps,
        **machine(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if not quick:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
