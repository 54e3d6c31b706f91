"""A training run small enough for a test: half a million parameters, seconds for ten steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raymrcnn.config import Recipe, override
from raymrcnn.recipes import tiny
from raymrcnn.train.job import PreparedJob, TrainJob, prepare
from raymrcnn.train.worker import Channel, train_worker

SMALL = (
    "model.fpn_channels=16",
    "model.box_head_channels=32",
    "model.mask_head_channels=16",
    "model.box_samples_per_image=8",
    "data.short_side=64",
    "data.long_side=96",
    "optim.batch_size=4",
    "optim.max_iter=6",
    "optim.warmup_iters=2",
    "optim.steps=[4]",
    "checkpoint.every=2",
    "log_every=2",
)


def small_recipe(*changes: str) -> Recipe:
    return override(tiny(), [*SMALL, *changes])


def prepared(data: Path, run: Path, *changes: str, **options: Any) -> PreparedJob:
    job = TrainJob(recipe=small_recipe(*changes), data_root=data, run_dir=run, **options)
    return prepare(job)


def run_here(job: PreparedJob, stop_after: int | None = None) -> tuple[int, list[dict[str, Any]]]:
    """Train in this process; stop before its time after so many looks at the wish to stop."""
    told: list[dict[str, Any]] = []
    looks = iter(range(10**9))
    channel = Channel(
        tell=told.append,
        stop_asked=lambda: stop_after is not None and next(looks) + 1 >= stop_after,
    )
    torch.set_num_threads(1)
    return train_worker(job, torch.device("cpu"), channel), told
