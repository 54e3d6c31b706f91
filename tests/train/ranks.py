"""Runs one training job in several processes joined by gloo, without Ray."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raymrcnn.train.job import PreparedJob
from raymrcnn.train.worker import Channel, train_worker


def run_in_ranks(
    job: PreparedJob,
    world_size: int,
    rendezvous: Path,
    prepare_rank: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """What rank 0 told of a run of so many processes, each of which may be prepared."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["raymrcnn.train.worker"])
    told: Any = context.SimpleQueue()
    ranks = [
        context.Process(target=_rank, args=(job, rank, world_size, rendezvous, told, prepare_rank))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    records = []
    while (record := told.get()) is not None:
        records.append(record)
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * world_size
    return records


def _rank(
    job: PreparedJob,
    rank: int,
    world_size: int,
    rendezvous: Path,
    told: Any,
    prepare_rank: Callable[[], None] | None,
) -> None:
    if prepare_rank is not None:
        prepare_rank()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size
        )
        channel = Channel(tell=told.put, stop_asked=lambda: False)
        train_worker(job, torch.device("cpu"), channel, rank=rank, world_size=world_size)
        dist.barrier()
        dist.destroy_process_group()
    finally:
        if rank == 0:
            told.put(None)
