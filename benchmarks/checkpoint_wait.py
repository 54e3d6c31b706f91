"""How long training waits for checkpoints: R-50-FPN, SGD with momentum, written to a local disk.

A run in one process saves after every other step; a step waits for the copy of the state, and for
the write of the checkpoint before where that is not done yet. Steps are short here (images of
320 px) so that the second part shows; at the default interval only the copy is left. The share at
the default interval is what one checkpoint costs over the time between two: at the step's time of
`train.json`, measured here, and at that which detectron2 published for eight V100, the shortest
that we know of.

Run as `python benchmarks/checkpoint_wait.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _seeded import machine

from raymrcnn.config import override
from raymrcnn.data.synthetic import write_synthetic
from raymrcnn.recipes import r50_fpn_1x
from raymrcnn.train.checkpoint import load_newest
from raymrcnn.train.job import TrainJob, prepare
from raymrcnn.train.worker import Channel, train_worker

HERE = Path(__file__).parent / "results"
EVERY = 2
V100_STEP_S = 0.261  # detectron2's MODEL_ZOO.md, R50-FPN, 8 cards, 16 images


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two checkpoints, no file")
    quick = parser.parse_args().quick
    steps = EVERY * (2 if quick else 5)
    default = r50_fpn_1x()
    recipe = override(default, [
        f"optim.max_iter={steps}", "optim.steps=[]", "optim.batch_size=1", "optim.warmup_iters=1",
        "optim.base_lr=1e-6",  # a network without learnt norms diverges at the recipe's rate
        f"checkpoint.every={EVERY}", f"log_every={EVERY}", "checkpoint.keep=2",
        "model.init=scratch", "data.short_side=320", "data.long_side=533",
    ])  # fmt: skip
    records: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_synthetic(home / "data", 8, seed=0)
        job = prepare(TrainJob(recipe=recipe, data_root=home / "data", run_dir=home / "run"))
        train_worker(
            job, torch.device("cpu"), Channel(tell=records.append, stop_asked=lambda: False)
        )
        newest = home / "run" / (home / "run" / "last").read_text().strip()
        num_bytes = sum(path.stat().st_size for path in newest.iterdir())
        began = time.perf_counter()
        assert load_newest(home / "run", print) is not None
        read_s = time.perf_counter() - began
    # A record is written before the checkpoint of its step, so it tells what the one before cost.
    found = [record for record in records if "loss" in record][1:]
    waits = [record["checkpoint_wait_s"] for record in found]
    wait_s = statistics.median(waits)
    here_s = json.loads((HERE / "train.json").read_text())["seconds_per_step"]["raymrcnn"]
    every = default.checkpoint.every
    result = {
        "benchmark": "checkpoint_wait",
        "what": "seconds that training waits for one checkpoint of R-50-FPN, local disk",
        "checkpoint_mb": round(num_bytes / 1e6, 1),
        "wait_s": round(wait_s, 3),
        "waits_s": [round(s, 3) for s in waits],
        "step_s": round(statistics.median(1 / r["images_per_s"] for r in found), 2),
        "read_and_verify_s": round(read_s, 2),
        "default_interval_steps": every,
        "share_at_default_interval": {
            f"here, {here_s:.1f} s a step": round(wait_s / (every * here_s), 7),
            f"at {V100_STEP_S} s a step": round(wait_s / (every * V100_STEP_S), 5),
        },
        **machine(),
    }
    print(json.dumps(result, indent=2))
    if not quick:
        (HERE / "checkpoint_wait.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
