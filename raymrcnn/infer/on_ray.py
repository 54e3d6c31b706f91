"""A prediction job on Ray Data: blocks of images stream through a pool of actors, one a card.

Each actor reads, decodes, predicts, pastes and commits its block itself (see `labeler`), so what
passes through Ray is block numbers in and small summaries out, whatever the number of images.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import ray

from raymrcnn.device.accelerator import CPU, ROWS
from raymrcnn.device.choice.on_ray import label_selector
from raymrcnn.device.on_ray import quiet_loggers, ray_session, worker_device, worker_resources
from raymrcnn.errors import RaymrcnnError, RunError
from raymrcnn.infer.job import InferJob, PreparedInfer, load_predictor
from raymrcnn.infer.labeler import BlockSummary, Labeler
from raymrcnn.infer.sink import Predictions, finish, image_ids
from raymrcnn.rundir import SCORES, write_json
from raymrcnn.score.coco import Scores
from raymrcnn.score.on_ray import score_predictions

IN_FLIGHT = 2  # blocks an actor holds: one decodes while the other is on the device
MAX_RAY_BLOCKS = 10_000


def run_inference(
    prepared: PreparedInfer,
    *,
    cluster: str | None,
    on_block: Callable[[BlockSummary], None],
) -> tuple[Predictions, Scores | None]:
    """Label what is not labelled yet, gather the failures, and score where asked.

    Args:
        prepared: the job.
        cluster: see `ray_session`.
        on_block: called in this thread for each block as it is committed.

    Raises:
        RaymrcnnError: of an actor, as it was raised there; or more failures than allowed.
    """
    job, predictions = prepared.job, prepared.predictions
    scores_path = predictions.folder / SCORES
    wants_scores = prepared.index is not None and job.score
    if predictions.complete and (scores_path.exists() or not wants_scores):
        return predictions, None
    accelerator = ROWS[job.accelerator]
    with ray_session(cluster, accelerator, job.workers):
        if not predictions.complete:
            predictions = _label(prepared, on_block)
        if not wants_scores:
            return predictions, None
        assert prepared.index is not None
        scores = score_predictions(
            predictions.folder,
            prepared.index,
            images=image_ids(predictions.folder) if job.limit else "all",
        )
        write_json(scores_path, scores.to_json())
        return predictions, scores


def _label(prepared: PreparedInfer, on_block: Callable[[BlockSummary], None]) -> Predictions:
    predictions, allowed = prepared.predictions, prepared.job.max_failures
    failed, first = predictions.failures()
    _require_few(failed, first, allowed)
    began, done = time.perf_counter(), 0
    wait_s = device_s = 0.0
    for summary in _summaries(prepared, predictions.pending()):
        on_block(summary)
        done += summary.num_images
        failed += summary.num_failures
        wait_s += summary.wait_s
        device_s += summary.device_s
        first = first or summary.error
        _require_few(failed, first, allowed)
    seconds = time.perf_counter() - began
    return finish(
        predictions,
        {
            "seconds": seconds,
            "images_per_s": done / max(seconds, 1e-9),
            "device_wait_share": wait_s / max(wait_s + device_s, 1e-9),
        },
    )


def _require_few(failed: int, first: str, allowed: int) -> None:
    if 0 <= allowed < failed:
        raise RunError(
            f"{failed} images failed, the first being {first}",
            where="--max-failures",
            todo="look at them, and run the same command with a higher limit to go on",
        )


def _summaries(prepared: PreparedInfer, pending: list[int]) -> Iterator[BlockSummary]:
    if not pending:
        return
    job = prepared.job
    accelerator = ROWS[job.accelerator]
    resources = worker_resources(accelerator)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    quiet_loggers()  # ray.data sets its own levels when it is imported
    blocks = ray.data.from_numpy(np.array(pending, np.int64)).repartition(
        min(len(pending), MAX_RAY_BLOCKS)
    )
    labelled = blocks.map_batches(
        _Actor,
        batch_size=1,
        # Small, so that an actor that dies is started again from the call alone.
        fn_constructor_kwargs={
            "job": job,
            "predictions": prepared.predictions,
            "workers": min(job.workers, len(pending)),
        },
        compute=ray.data.ActorPoolStrategy(
            size=min(job.workers, len(pending)),
            max_tasks_in_flight_per_actor=2 * IN_FLIGHT,
            # On a CPU decoding and predicting would only take turns at the same cores.
            max_concurrent_calls_per_actor=1 if accelerator is CPU else IN_FLIGHT,
            enable_true_multi_threading=accelerator is not CPU,
        ),
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU"),
        resources={k: v for k, v in resources.items() if k not in ("CPU", "GPU")},
        label_selector=label_selector(accelerator, job.card_model),
    )
    try:
        for row in labelled.iter_rows():
            yield BlockSummary(**row)
    except ray.exceptions.RayError as error:
        raise _explained(error) from error


class _Actor:
    """One card of the pool."""

    def __init__(self, job: InferJob, predictions: Predictions, workers: int) -> None:
        quiet_loggers()
        self._predictions = predictions
        accelerator = ROWS[job.accelerator]
        predictor = load_predictor(
            job.weights,
            accelerator,
            worker_device(accelerator, workers),
            job.dtype,
            job.score_threshold,
            job.max_detections,
            digest=predictions.manifest["fingerprint"]["weights"],
        )
        cores = os.cpu_count() or 1
        self._labeler = Labeler(
            predictor,
            predictions.folder,
            job.batch_size,
            decode_threads=1 if accelerator is CPU else max(2, cores // max(workers, 1)),
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        summaries = [
            self._labeler.label_block(block, self._predictions.rows_of(block))
            for block in batch["data"].tolist()
        ]
        rows = [asdict(summary) for summary in summaries]
        return {name: [row[name] for row in rows] for name in rows[0]}


def _explained(error: BaseException) -> RaymrcnnError:
    """The error of an actor in one line."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        for candidate in (cause, inner):
            if isinstance(candidate, RaymrcnnError):
                return candidate
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunError(
        f"an actor failed: {lines[-1].strip() if lines else type(error).__name__}",
        todo="run the same command again to go on",
    )
