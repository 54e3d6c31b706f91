"""Training batches of one worker, made ahead of their use, in threads or in processes.

The order comes from `raymrcnn.data.order`; this module only has the samples made. Processes are
never plainly forked: a fork after a device was initialised hangs or corrupts it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from raymrcnn.data.dataset import Job, SampleMaker, TrainDataset
from raymrcnn.data.order import batches, epochs_of, rank_slice
from raymrcnn.errors import RaymrcnnError, RunError
from raymrcnn.structures import BatchPlan, Target

__all__ = ["TrainBatch", "TrainDataset", "train_batches"]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """What one worker trains on in one step."""

    step: int
    epoch: int  # of the first image of the global batch
    image_ids: tuple[int, ...]
    batch_ids: tuple[int, ...]  # of the global batch
    images: list[torch.Tensor]  # each uint8 [3, height, width] RGB
    targets: list[Target]
    plan: BatchPlan  # for these images


@dataclass(frozen=True, kw_only=True)
class _Request:
    step: int
    epoch: int
    batch_ids: tuple[int, ...]
    jobs: tuple[Job, ...]
    plan: BatchPlan


def train_batches(
    dataset: TrainDataset,
    seed: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    num_workers: int = 0,
    *,
    prefetch: int = 2,
) -> Iterator[TrainBatch]:
    """One worker's share of the global batches, from `start_step` on, without end.

    Args:
        dataset: what to train on.
        seed: of the order.
        batch_size: images a step over all workers.
        rank: of this worker, 0 to world_size - 1.
        world_size: number of workers.
        start_step: the first step to give, counted from 0.
        num_workers: processes that make samples; 0: a thread of this process does.
        prefetch: batches made ahead, by the thread or by each process.

    Raises:
        DataError: a sample cannot be made.
        RunError: a process that makes samples was killed.
    """
    requests = _requests(dataset, seed, batch_size, rank, world_size, start_step)
    if num_workers:
        return _from_processes(dataset.make, requests, num_workers, prefetch)
    return _from_thread((_made(dataset.make, request) for request in requests), prefetch)


def _requests(
    dataset: TrainDataset, seed: int, batch_size: int, rank: int, world_size: int, start_step: int
) -> Iterator[_Request]:
    for step, entries in batches(seed, dataset.groups, batch_size, start_step, dataset.repeats):
        epochs = epochs_of(step, dataset.epoch_size, batch_size)
        draws = [dataset.draw(e, epoch) for e, epoch in zip(entries.tolist(), epochs, strict=True)]
        mine = rank_slice(np.arange(batch_size), rank, world_size).tolist()
        yield _Request(
            step=step,
            epoch=int(epochs[0]),
            batch_ids=tuple(draw.image_id for draw in draws),
            jobs=tuple(dataset.job(draws[k]) for k in mine),
            plan=BatchPlan(
                seeds=tuple(draws[k].sampling_seed for k in mine),
                short_sides=tuple(draws[k].short_side for k in mine),
                batch_sizes=tuple((*dataset.size_of(draw), draw.short_side) for draw in draws),
            ),
        )


def _made(make: SampleMaker, request: _Request) -> TrainBatch:
    samples = [make(job) for job in request.jobs]
    return TrainBatch(
        step=request.step,
        epoch=request.epoch,
        batch_ids=request.batch_ids,
        image_ids=tuple(job.image_id for job in request.jobs),
        images=[image for image, _ in samples],
        targets=[target for _, target in samples],
        plan=request.plan,
    )


def _from_thread(made: Iterator[TrainBatch], prefetch: int) -> Iterator[TrainBatch]:
    ready: queue.Queue[TrainBatch | BaseException] = queue.Queue(maxsize=prefetch)
    stop = threading.Event()

    def put(item: TrainBatch | BaseException) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for batch in made:
                put(batch)
                if stop.is_set():
                    return
        except BaseException as error:  # raised again where the batches are used
            put(error)

    thread = threading.Thread(target=work, name="raymrcnn-loader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _from_processes(
    make: SampleMaker, requests: Iterator[_Request], num_workers: int, prefetch: int
) -> Iterator[TrainBatch]:
    loader: DataLoader[Any] = DataLoader(
        _Workshop(make),
        batch_size=None,  # a request is a batch already
        sampler=requests,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        collate_fn=_as_it_is,
        # Its own: from torch's global generator it would take a draw that a resumed run repeats.
        generator=torch.Generator(),
        worker_init_fn=_leave_interrupts_to_the_parent,
        multiprocessing_context=_start_method(),
    )
    try:
        for item in loader:
            if isinstance(item, RaymrcnnError):
                raise item
            yield item
    except (RuntimeError, OSError, EOFError) as error:
        # A process that dies while it hands a batch over breaks the connection instead.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a process that loads images died ({' '.join(str(error).split())[:200]})",
            where="data.loader_workers",
            todo="it may lack memory or /dev/shm: lower data.loader_workers, or 0 for a thread",
        ) from None


class _Workshop(Dataset[Any]):
    """What a DataLoader takes for its data set: makes the batch of a request."""

    def __init__(self, make: SampleMaker) -> None:
        self.make = make

    def __getitem__(self, request: _Request) -> TrainBatch | RaymrcnnError:
        try:
            return _made(self.make, request)
        except RaymrcnnError as error:
            # As a value: raised in the worker, it would arrive as the text of a traceback.
            return error


def _as_it_is(item: Any) -> Any:
    return item


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_method() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Each worker is then forked from a process that has torch imported and no device touched.
    context.set_forkserver_preload(["raymrcnn.data.loader"])
    return context
