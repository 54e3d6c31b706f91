"""`train`: one call, one run."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Union

from raymrcnn import rundir, storage
from raymrcnn.api.inference import InferResult, draw, infer
from raymrcnn.config import Recipe
from raymrcnn.device.accelerator import CPU, num_cards
from raymrcnn.device.choice.on_ray import Cards, chosen_cards, require_known_batch
from raymrcnn.errors import ConfigError, DataError, OutputError
from raymrcnn.recipes import recipe_named
from raymrcnn.score.coco import Scores
from raymrcnn.train.job import (
    HANG_TIMEOUT_S,
    Failures,
    PreparedJob,
    Resume,
    TrainJob,
    write_run_json,
)
from raymrcnn.train.job import prepare as prepare_train
from raymrcnn.train.lease import leased
from raymrcnn.train.trackers import Trackers, require_trackers
from raymrcnn.train.validation import Cancelled, Wanted, best_step, steps_due, validated
from raymrcnn.weights.source import absolute_source

Path_ = Union[str, "os.PathLike[str]"]
IMAGES_DRAWN = 8  # of a scored checkpoint


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training run stands."""

    run_dir: storage.Place
    step: int  # updates done
    status: str  # "complete" or "interrupted"
    resumed_from: int  # updates done before this start
    best_step: int | None = None  # of the checkpoints scored on the way, by mask AP
    scores: dict[str, Any] | None = None  # of that one: {"bbox": {...}, "segm": {...}, ...}


def train(
    data: Path_,
    recipe: str | Recipe = "r50_fpn_1x",
    *,
    out: Path_,
    workers: int | tuple[int, int] = 0,
    device: str = "auto",
    weights: str | None = None,
    allow_partial: bool = False,
    resume: Resume = "auto",
    cluster: str | None = None,
    accelerator: str | None = None,
    force: bool = False,
    track: Sequence[str] = (),
    max_failures: int = 3,
    hang_timeout_s: float = HANG_TIMEOUT_S,
    on_start: Callable[[TrainJob, int], None] | None = None,
    on_news: Callable[[dict[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train on a COCO data set; the same call again goes on where the last one ended.

    Args:
        data: root of the data set.
        recipe: its name, a JSON file of one, or a recipe of your own.
        out: the run folder, a path or a URI.
        workers: processes, one a card; 0: every card, and 1 on a CPU; or the fewest and the most:
            the run begins with those that there are, goes on with fewer where some are lost, and
            with more where some come.
        device: auto, cpu, cuda or mlu.
        weights: initial weights: a file, a run folder or a torchvision weight name.
        allow_partial: whether weights may lack tensors, which start anew, and have others.
        resume: auto; never: refuse a folder with a run; must: refuse one without.
        cluster: HOST:PORT of a Ray cluster, or auto; None: this machine.
        accelerator: only cards of this model, as MLU370-X8; None: any.
        force: try a batch that the cards are known not to take.
        track: mlflow, wandb: services that follow the run, besides TensorBoard.
        max_failures: workers' deaths after which the run goes on from its newest checkpoint.
        hang_timeout_s: seconds without a step after which what hangs is ended, as a failure.
        on_start: called with the job and the updates done before, once all input was checked.
        on_news: called with each metrics record, with {"note": text}, and with
            {"step", "validation", "best"} for each checkpoint that was scored.
        stop: set it to have the run saved and ended.

    Raises:
        RaymrcnnError: see its kinds.
    """
    require_trackers(track)
    fewest, most = workers if isinstance(workers, tuple) else (workers, None)
    if most is not None and not 0 < fewest <= most:
        raise ConfigError(f"{fewest}:{most} is no range", where="--workers", todo="write it as 4:8")
    with chosen_cards(device, fewest, accelerator, cluster) as cards:
        job = TrainJob(
            recipe=recipe_named(recipe) if isinstance(recipe, str) else recipe,
            data_root=storage.place(data),
            run_dir=storage.settled(out),
            accelerator=cards.accelerator.name,
            card_model=cards.model,
            workers=cards.workers if most is None else _most(cards, most, cluster),
            min_workers=None if most is None else fewest,
            weights=absolute_source(weights),
            allow_partial=allow_partial,
        )
        require_known_batch(cards, -(-job.recipe.optim.batch_size // cards.workers), force=force)
        return _train(
            job,
            prepare_train(job, resume),
            cluster=cluster,
            failures=Failures(most=max_failures, hang_timeout_s=hang_timeout_s),
            track=track,
            on_start=on_start,
            on_news=on_news or (lambda item: None),
            stop=stop or threading.Event(),
        )


def _train(
    job: TrainJob,
    prepared: PreparedJob,
    *,
    cluster: str | None,
    failures: Failures,
    track: Sequence[str],
    on_start: Callable[[TrainJob, int], None] | None,
    on_news: Callable[[dict[str, Any]], None],
    stop: threading.Event,
) -> TrainResult:
    from raymrcnn.train.on_ray import run_training

    last, every = job.recipe.optim.max_iter, job.recipe.validate.every
    if on_start is not None:
        on_start(job, prepared.start)
    if prepared.start >= last and not steps_due(job.run_dir, every, last):
        return _train_result(job, prepared.start, "complete", prepared.start)
    with _alone(job.run_dir, on_news) as require_alone:
        trackers = Trackers(job.run_dir, prepared.start, track, job.recipe, on_news)

        def heard(item: dict[str, Any]) -> None:
            require_alone()
            trackers.take(item)
            on_news(item)

        try:
            step = run_training(
                prepared,
                cluster=cluster,
                failures=failures,
                on_news=heard,
                stop=stop,
                validate=partial(_validate, job),
            )
        except BaseException as error:
            with contextlib.suppress(DataError, OutputError):  # what went wrong first matters
                kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                write_run_json(prepared, kind)
            raise
        finally:
            trackers.close()
    status = "complete" if step >= last else "interrupted"
    write_run_json(prepared, status)
    return _train_result(job, step, status, prepared.start)


@contextlib.contextmanager
def _alone(
    run: storage.Place, on_news: Callable[[dict[str, Any]], None]
) -> Iterator[Callable[[], None]]:
    """Keep other processes out of a run; yields what raises where one came nevertheless."""
    if isinstance(run, str):
        with leased(run, lambda text: on_news({"note": text})) as require:
            yield require
    else:
        with rundir.exclusive(run):
            yield lambda: None


def _validate(job: TrainJob, wanted: Wanted) -> dict[str, Any]:
    """Label the validation split with a checkpoint, as `infer` would, and score it."""

    def on_block(_: object) -> None:
        if wanted.cancelled():
            raise Cancelled

    def labelled() -> InferResult:
        return infer(
            str(wanted.checkpoint),
            wanted.predictions,
            data=job.data_root,
            split=job.recipe.data.val_split,
            limit=job.recipe.validate.limit,
            device=job.accelerator,
            workers=wanted.workers,
            on_block=on_block,
        )

    try:
        result = labelled()
    except OutputError:  # it holds the results of a checkpoint that was trained again since
        _remove(wanted.predictions)
        result = labelled()
    _draw(wanted.predictions, IMAGES_DRAWN)
    scores = result.scores
    document: dict[str, Any] = (
        scores.to_json() if isinstance(scores, Scores) else dict(scores or {})
    )
    kept: dict[str, Any] = {kind: document[kind] for kind in ("bbox", "segm") if kind in document}
    return {**kept, "num_images": result.manifest["num_images"]}


def _remove(predictions: storage.Place) -> None:
    if isinstance(predictions, str):
        storage.remove_below(predictions)
    else:
        shutil.rmtree(predictions)


def _draw(predictions: storage.Place, count: int) -> None:
    """Draw into a predictions folder; into one behind a URI by way of this machine's disk."""
    if not isinstance(predictions, str):
        draw(predictions, count)
        return
    with tempfile.TemporaryDirectory(prefix="raymrcnn-drawn-") as spool, rundir.disk_errors(spool):
        for name in storage.names(predictions):
            if name.endswith((".parquet", ".json")):
                storage.download(storage.join(predictions, name), Path(spool, name))
        draw(spool, count)
        for path in Path(spool, rundir.OVERLAYS).iterdir():
            storage.upload(path, storage.join(predictions, rundir.OVERLAYS, path.name))


def _most(cards: Cards, asked: int, cluster: str | None) -> int:
    """As many as asked for; on this machine alone, at most its cards: no others will come."""
    if cards.accelerator is CPU or cluster is not None or os.environ.get("RAY_ADDRESS"):
        return asked
    return min(asked, num_cards(cards.accelerator))


def _train_result(job: TrainJob, step: int, status: str, before: int) -> TrainResult:
    scored = validated(job.run_dir)
    best = best_step(scored)
    return TrainResult(
        run_dir=job.run_dir,
        step=step,
        status=status,
        resumed_from=before,
        best_step=best,
        scores=None if best is None else scored[best],
    )
