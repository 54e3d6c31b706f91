"""A prediction job on Ray Data: blocks of images stream through a pool of actors, one a card.

Each actor reads, decodes, predicts, pastes and commits its block itself (see `labeler`), so what
passes through Ray is block numbers in and small summaries out, whatever the number of images.
Weights and the index of the data set travel once to each node, through the object store. With
decode workers, and only then, pixels travel too: from them to the cards.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn.data.fetch import Fetcher
from raymrcnn.device.accelerator import CPU, ROWS, Accelerator
from raymrcnn.device.choice.on_ray import Cards, label_selector
from raymrcnn.device.failures.on_ray import ray_errors
from raymrcnn.device.on_ray import (
    card_errors,
    quiet_loggers,
    ray_session,
    worker_device,
    worker_resources,
)
from raymrcnn.errors import RaymrcnnError, RunError
from raymrcnn.infer.decode_workers.on_ray import RemoteDecoder, start_decoders
from raymrcnn.infer.gather import finish
from raymrcnn.infer.job import InferJob, PreparedInfer, predictor_of
from raymrcnn.infer.labeler import BlockLabeler, BlockSummary, Decoder, Labeler
from raymrcnn.infer.sink import Predictions, image_ids, part_place, read_images
from raymrcnn.infer.threads import choose_num_threads
from raymrcnn.infer.tries import MOST_TRIES, Tries
from raymrcnn.score.coco import Scores
from raymrcnn.score.files import read_scores, write_scores
from raymrcnn.score.on_ray import EarlyMatching, score_predictions

IN_FLIGHT = 2  # blocks an actor holds: one decodes while the other is on the device
MAX_RAY_BLOCKS = 10_000
STAGES = ("decode_s", "device_s", "paste_s", "commit_s")

# Memory that an actor is declared to take, bytes: a process with torch; copies of the weights; an
# image decoded; and on a CPU the activations of an image of 800 x 1333.
_PROCESS, _WEIGHT_COPIES, _DECODED, _ACTIVATIONS = 1 << 30, 3, 4 << 20, 320 << 20

T = TypeVar("T")
OnBlock = Callable[[BlockSummary], None]
MakeLabeler = Callable[[int], BlockLabeler]  # given the number of actors on its machine


def run_inference(
    prepared: PreparedInfer,
    *,
    cluster: str | None,
    on_block: OnBlock | None = None,
    make_labeler: MakeLabeler | None = None,
) -> tuple[Predictions, Scores | dict[str, Any] | None]:
    """Label what is not labelled yet, gather the failures, and score where asked.

    Scores that were there before come as the document that they were written as. The folder is
    held by the caller, who opened it: see `open_predictions`.

    Args:
        prepared: the job.
        cluster: see `ray_session`.
        on_block: called in this thread for each block as it is committed.
        make_labeler: called in each actor; None: a predictor with the job's weights.

    Raises:
        RaymrcnnError: of an actor, as it was raised there; or more failures than allowed.
    """
    folder, index = prepared.predictions.folder, prepared.index
    if index is None or not prepared.job.score:
        return _run(prepared, cluster, on_block, make_labeler), None
    there = read_scores(folder) if prepared.predictions.complete else None
    # Somebody may have scored against other annotations since.
    if isinstance(there, dict) and there.get("annotations") == index.fingerprint:
        return prepared.predictions, there
    accelerator = ROWS[prepared.job.accelerator]
    with ray_session(cluster, accelerator, prepared.job.workers):
        # On a CPU labelling and matching would take turns at the same cores.
        early = None if accelerator is CPU else EarlyMatching(index)

        def committed(summary: BlockSummary) -> None:
            if early is not None:
                early.add(part_place(folder, summary.block))
            if on_block is not None:
                on_block(summary)

        predictions = _run(prepared, cluster, committed, make_labeler)
        limited = image_ids(folder) if prepared.job.limit else None
        scores = score_predictions(
            folder, index, images="all" if limited is None else limited, early=early
        )
    scores = replace(scores, annotations=index.fingerprint)
    write_scores(folder, scores)
    return predictions, scores


def _run(
    prepared: PreparedInfer,
    cluster: str | None,
    on_block: OnBlock | None,
    make_labeler: MakeLabeler | None,
) -> Predictions:
    """Label what is left; in the session that the caller opened, where it did."""
    if prepared.predictions.complete:
        return prepared.predictions
    with ray_session(cluster, ROWS[prepared.job.accelerator], prepared.job.workers):
        return _label(prepared, on_block, make_labeler)


def default_workers(cards: Cards, cluster: str | None) -> int:
    """An actor for each card, and on CPUs one for each machine of the cluster."""
    if cards.accelerator is not CPU or cluster is None:
        return cards.workers
    with ray_session(cluster, CPU, 1):
        return len(_nodes(CPU))


def _label(
    prepared: PreparedInfer,
    on_block: OnBlock | None,
    make_labeler: MakeLabeler | None,
) -> Predictions:
    predictions, allowed = prepared.predictions, prepared.job.max_failures
    failed, first = predictions.failures()
    _require_few(failed, first, allowed)
    began, done = time.perf_counter(), 0
    spent = dict.fromkeys((*STAGES, "idle_s"), 0.0)
    for summary in _summaries(prepared, predictions.pending(), make_labeler):
        if not done:
            began = time.perf_counter() - summary.seconds  # without the start of the actors
        if on_block is not None:
            on_block(summary)
        done += summary.num_images
        failed += summary.num_failures
        for stage in spent:
            spent[stage] += getattr(summary, stage)
        first = first or summary.error
        _require_few(failed, first, allowed)
    seconds = time.perf_counter() - began
    idle_s = spent.pop("idle_s")
    return finish(
        predictions,
        {
            "seconds": seconds,
            "images_per_s": done / max(seconds, 1e-9),
            "device_wait_share": idle_s / max(idle_s + spent["device_s"], 1e-9),
            "stages": spent,
        },
    )


def _require_few(failed: int, first: str, allowed: int) -> None:
    if 0 <= allowed < failed:
        raise RunError(
            f"{failed} images failed, the first being {first}",
            where="--max-failures",
            todo="look at them, and run the same command with a higher limit to go on",
        )


def _summaries(
    prepared: PreparedInfer, pending: list[int], make_labeler: MakeLabeler | None
) -> Iterator[BlockSummary]:
    if not pending:
        return
    job = prepared.job
    accelerator = ROWS[job.accelerator]
    resources = worker_resources(accelerator)
    workers = min(job.workers, len(pending))
    workers_here, node_memory = _shares(accelerator, workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3  # of which a node that dies is one
    quiet_loggers()  # ray.data sets its own levels when it is imported
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries)
    tries: Any = actor.options(scheduling_strategy=here).remote()
    store = ray.put(prepared.store)  # held while there are actors, which may be started again
    decoders = start_decoders(job, store, accelerator, tries) if make_labeler is None else []
    make = make_labeler or _make_labeler(prepared, store, decoders)
    blocks = ray.data.from_numpy(np.array(pending, np.int64)).repartition(
        min(len(pending), MAX_RAY_BLOCKS)
    )
    labelled = blocks.map_batches(
        _Actor,
        batch_size=1,
        # Small, so that an actor that dies is started again from the call alone.
        fn_constructor_kwargs={
            "make_labeler": make,
            "predictions": prepared.predictions,
            "workers_here": workers_here,
            "accelerator": accelerator.name,
            "tries": tries,
        },
        compute=ray.data.ActorPoolStrategy(
            size=workers,
            max_tasks_in_flight_per_actor=2 * IN_FLIGHT,
            # On a CPU decoding and predicting would only take turns at the same cores.
            max_concurrent_calls_per_actor=1 if accelerator is CPU else IN_FLIGHT,
            # Else the labeler would be called in a thread of its own, to which glibc gives heaps
            # that go back to the system when they are freed: a sixth of the time on a CPU.
            enable_true_multi_threading=True,
        ),
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU"),
        resources={k: v for k, v in resources.items() if k not in ("CPU", "GPU")},
        label_selector=label_selector(accelerator, job.card_model),
        memory=min(_memory_of(prepared), node_memory) if node_memory else None,
    )
    try:
        with ray_errors("an actor failed", "run the same command again to go on"):
            # Without prefetching: it would hold back what is told of each block until the next.
            for batch in labelled.iter_batches(batch_size=None, prefetch_batches=0):
                for told in map(pickle.loads, batch["told"]):
                    if isinstance(told, RaymrcnnError):
                        raise told
                    yield told
    finally:
        for actor in (tries, *decoders):
            ray.kill(actor)


def _shares(accelerator: Accelerator, workers: int) -> tuple[int, int]:
    """Actors on a machine, and the bytes of memory that one of them may take there at most."""
    nodes = _nodes(accelerator)
    here = -(-workers // max(len(nodes), 1))
    memories = [int(node["memory"]) for node in nodes if node.get("memory")]
    return here, int(min(memories) * 0.9 / here) if memories else 0


def _nodes(accelerator: Accelerator) -> list[dict[str, float]]:
    """The resources of each machine that has such a card, or a core."""
    return [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get(accelerator.ray_resource, 0) >= 1
    ]


def _memory_of(prepared: PreparedInfer) -> int:
    """Bytes that an actor will take, roughly, so that Ray does not put too much on a node."""
    job, source = prepared.job, prepared.source
    weights = sum(t.numel() * t.element_size() for t in source.state.values()) if source else 0
    per_image = 3 * _DECODED + (_ACTIVATIONS if job.accelerator == CPU.name else 0)
    return _PROCESS + _WEIGHT_COPIES * weights + job.batch_size * per_image


@dataclass(frozen=True)
class _CardLabeler:
    """Makes the labeler of an actor; small, what is large is in the object store."""

    job: InferJob
    predictions: Predictions
    source: Any  # a reference to the weights' source, without tensors, and to
    state: Any  # the tensors as arrays
    store: Any  # of the data set's images, or None
    decoders: list[Any]

    def __call__(self, workers_here: int) -> Labeler:
        accelerator = ROWS[self.job.accelerator]
        device = worker_device(accelerator, workers_here)
        source, arrays, store = ray.get([self.source, self.state, self.store])
        state = {name: torch.as_tensor(np.array(value)) for name, value in arrays.items()}
        predictor = predictor_of(self.job, replace(source, state=state), device)
        if accelerator is CPU:  # whose cores are busy with the network
            choose_num_threads(predictor.rehearse, torch.get_num_threads())
            share = 1
        else:
            predictor.rehearse(source.short_side // 64 * 64, source.long_side // 64 * 64)
            share = max(2, len(os.sched_getaffinity(0)) // workers_here)
        num_remote = -(-len(self.decoders) // max(self.job.workers, 1))
        return Labeler(
            predictor,
            self.predictions.folder,
            self.job.batch_size,
            decode_threads=2 * num_remote if num_remote else share,
            decode=RemoteDecoder(self.decoders) if self.decoders else Decoder(Fetcher(store)),
        )


def _make_labeler(prepared: PreparedInfer, store: Any, decoders: list[Any]) -> _CardLabeler:
    source = prepared.source
    assert source is not None, "a job without weights brings its labeler"
    arrays = {  # NumPy has no bfloat16
        k: (v.float() if v.dtype is torch.bfloat16 else v).numpy() for k, v in source.state.items()
    }
    return _CardLabeler(
        job=prepared.job,
        predictions=prepared.predictions,
        source=ray.put(replace(source, state={})),
        state=ray.put(arrays),
        store=store,
        decoders=decoders,
    )


class _Actor:
    """One card of the pool."""

    def __init__(
        self,
        make_labeler: MakeLabeler,
        predictions: Predictions,
        workers_here: int,
        accelerator: str,
        tries: Any,
    ) -> None:
        quiet_loggers()
        self._predictions, self._tries = predictions, tries
        self._accelerator = ROWS[accelerator]
        self._labeler = _or_error(self._accelerator, lambda: make_labeler(workers_here))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"told": [pickle.dumps(self._labelled(block)) for block in batch["data"].tolist()]}

    def _labelled(self, block: int) -> BlockSummary | RaymrcnnError:
        labeler = self._labeler
        if isinstance(labeler, RaymrcnnError):
            return labeler
        rows = self._predictions.rows_of(block)
        if not ray.get(self._tries.begin.remote(f"block {block}")):
            return _or_error(self._accelerator, lambda: self._ended_by(rows))
        return _or_error(self._accelerator, lambda: labeler.label_block(block, rows))

    def _ended_by(self, rows: range) -> RunError:
        refs = read_images(self._predictions.folder, rows)
        return RunError(
            f"the process that labelled images {refs[0].file_name} to {refs[-1].file_name} was "
            f"ended each of {MOST_TRIES} times, as memory that runs out or a damaged image may do",
            where=str(self._predictions.folder),
            todo="take a bad image out, or use --decode-workers, a smaller --batch-size or more "
            "memory, and run the same command again to go on",
        )


def _or_error(accelerator: Accelerator, work: Callable[[], T]) -> T | RaymrcnnError:
    """What `work` gives, or the error that a user is to read, as a value.

    Raised in an actor, Ray Data would tell it as the text of a traceback in an error of its own,
    and at an actor's start would start that again and again.
    """
    try:
        with card_errors(accelerator):
            return work()
    except RaymrcnnError as error:
        return error
