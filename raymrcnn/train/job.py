"""What one training run is to do and where; its checks before a worker starts, and `run.json`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, Literal

import torch

from raymrcnn import rundir, storage
from raymrcnn.config import Recipe, recipe_from_json
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.dataset import TrainDataset
from raymrcnn.data.store import open_dataset
from raymrcnn.device.accelerator import ROWS, parse_dtype
from raymrcnn.device.host import hardware, versions
from raymrcnn.errors import ConfigError, DataError, OutputError, WeightError
from raymrcnn.model.conventions import CONVENTIONS
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn, trainable_summary
from raymrcnn.storage import Place
from raymrcnn.structures import ModelInfo
from raymrcnn.train.checkpoint import committed_steps, load_newest
from raymrcnn.train.validation import validated
from raymrcnn.weights.load import LoadReport, backbone_init, load_into
from raymrcnn.weights.source import load_source

Resume = Literal["auto", "never", "must"]
HANG_TIMEOUT_S = 300.0

# Fields that may change between the two halves of a run: they decide how long it goes on and how
# it is run, not what a step computes.
MAY_CHANGE = frozenset(
    {
        "name",
        "log_every",
        "optim.max_iter",
        "optim.accumulate",
        "optim.compile",
        "optim.on_bad_loss",
        "optim.max_bad_steps",
        "model.checkpoint_activations",
        "checkpoint.every",
        "checkpoint.keep",
        "data.loader_workers",
        "data.val_split",
        "validate.every",
        "validate.limit",
    }
)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training run as the user asked for it."""

    recipe: Recipe
    data_root: Place  # a URI of a sharded data set only
    run_dir: Place
    accelerator: str = "cpu"
    card_model: str | None = None  # only cards of this model; None: any
    workers: int = 1  # the most, where it may be fewer
    min_workers: int | None = None  # the fewest that a run goes on with; None: all of them
    weights: str | None = None  # initial weights; None: the recipe's `model.init`
    allow_partial: bool = False  # initial weights may lack tensors, and have others beside


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What a run lives through."""

    most: int = 3  # deaths of workers after which it goes on from its newest checkpoint
    hang_timeout_s: float = HANG_TIMEOUT_S  # without a step; then what hangs is ended


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedJob:
    """A job whose input was checked and whose run folder stands."""

    job: TrainJob
    dataset: TrainDataset
    info: ModelInfo
    start: int  # updates done before, by the newest checkpoint
    summary: dict[str, Any]  # what of the network learns: see trainable_summary
    initial: LoadReport | None = None  # of the initial weights, at the first start
    left_out: tuple[str, ...] = ()  # cards that the run goes on without, with their hosts


def prepare(job: TrainJob, resume: Resume = "auto") -> PreparedJob:
    """Check data, weights and output, and write `run.json`.

    Raises:
        DeviceError: the accelerator cannot run the recipe's precision.
        ConfigError: workers do not fit the batch, or another recipe's run lies in the folder.
        DataError: annotations or images are missing or malformed.
        WeightError: the initial weights cannot be read or do not fit.
        OutputError: the run folder cannot be written, or holds a run with `resume="never"`.
    """
    recipe = job.recipe
    if recipe.optim.batch_size < job.workers:
        raise ConfigError(
            f"a batch of {recipe.optim.batch_size} images cannot be shared by {job.workers} "
            "workers: each needs one",
            where="optim.batch_size",
            todo=f"--set optim.batch_size={job.workers}, or fewer --workers",
        )
    parse_dtype(recipe.optim.precision, ROWS[job.accelerator], "optim.precision")
    split = recipe.data.train_split
    index, images = open_dataset(job.data_root, split)
    dataset = TrainDataset(index, images, recipe.data, recipe.seed)
    images.check(index, dataset.images)
    if recipe.validate.every:
        _require_validation(job, index)
    steps = _earlier_steps(job, index, resume)
    if steps and steps[-1] >= recipe.optim.max_iter:
        # Before anybody is told that it is complete: the last one must be whole.
        newest = load_newest(job.run_dir, lambda text: None)
        steps = [] if newest is None else [step for step in steps if step <= newest.step]
    with torch.device("meta"):  # only to see what learns, and whether the weights fit
        model = fresh_model(recipe, len(index.categories))
        initial = None if steps else initialise(model, job)
    storage.prepare(job.run_dir)
    info = ModelInfo(
        model=recipe.to_json()["model"],
        categories=tuple(index.categories),
        short_side=recipe.data.short_side,
        long_side=recipe.data.long_side,
    )
    prepared = PreparedJob(
        job=job,
        dataset=dataset,
        info=info,
        start=steps[-1] if steps else 0,
        summary=trainable_summary(model),
        initial=initial,
    )
    if prepared.start < recipe.optim.max_iter:
        write_run_json(prepared, "running")
    return prepared


def initialise(model: MaskRCNN, job: TrainJob) -> LoadReport | None:
    """Give a fresh network its initial weights; returns what `job.weights` gave it.

    Raises:
        ConfigError, WeightError: they cannot be read, or do not fit.
    """
    recipe = job.recipe
    if job.weights is None:
        if recipe.model.init == "imagenet":
            backbone_init(model, recipe.model)
        return None
    source = load_source(job.weights)
    sheet = recipe.model.conventions
    if sheet not in source.conventions:
        raise ConfigError(
            f"weights of {source.program} are at home in the conventions of "
            f"{' or '.join(source.conventions)}, not of {sheet}",
            where="model.conventions",
            todo=f"--set model.conventions={source.conventions[0]}",
        )
    made_with = source.norm_eps
    if made_with is None:
        made_with = CONVENTIONS[source.conventions[0]].frozen_norm_eps
    try:
        return load_into(
            model,
            source.state,
            allow_new_heads=True,
            allow_left=job.allow_partial,
            allow_new=job.allow_partial,
            norm_eps=made_with,
        )
    except WeightError as error:
        raise WeightError(error.what, where=source.description, todo=error.todo) from None


def fresh_model(recipe: Recipe, num_classes: int) -> MaskRCNN:
    """The network of a recipe before its initial weights."""
    sides = recipe.data.short_side, recipe.data.long_side
    return build_mask_rcnn(recipe.model, num_classes, *sides)


def write_run_json(prepared: PreparedJob, status: str) -> None:
    """Commit what the run is and how it stands; keeps the time of its first start."""
    path = storage.below(prepared.job.run_dir, rundir.RUN_JSON)
    before = storage.read_json(path) if storage.exists(path) else {}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    job, index = prepared.job, prepared.dataset.index
    document = {
        "recipe": job.recipe.to_json(),
        "versions": versions(),
        "device": {"name": job.accelerator, "model": job.card_model, "workers": job.workers},
        "hardware": hardware(job.accelerator),  # of the host that started it last
        "data": {
            "root": str(job.data_root),
            "train_split": job.recipe.data.train_split,
            "fingerprint": index.fingerprint,
            "num_images": len(prepared.dataset),
            "categories": [[c.id, c.name] for c in index.categories],
        },
        "weights": job.weights,
        "weights_loaded": before.get("weights_loaded")
        if prepared.initial is None
        else {
            "tensors": prepared.initial.num_loaded,
            "new": list(prepared.initial.new),
            "left": list(prepared.initial.left),
        },
        "model": prepared.summary,
        "started": before.get("started", now),
        "updated": now,
        "status": status,
    }
    storage.write_json(path, document)


def _require_validation(job: TrainJob, index: CocoIndex) -> None:
    """What scores checkpoints must be there now, not after hours.

    Raises:
        ConfigError, DataError: the validation split is missing, malformed, or has other categories.
    """
    split = job.recipe.data.val_split
    scored, images = open_dataset(job.data_root, split)
    images.check(scored)
    if set(scored.categories).isdisjoint(index.categories):
        raise DataError(
            f"{split} and {job.recipe.data.train_split} share no category",
            where=str(job.data_root),
            todo="--validate-every 0 trains without scores",
        )
    validated(job.run_dir)


def _earlier_steps(job: TrainJob, index: CocoIndex, resume: Resume) -> list[int]:
    """Steps saved by an earlier start of the same run.

    Raises:
        ConfigError, DataError, OutputError: see `prepare`.
    """
    path = storage.below(job.run_dir, rundir.RUN_JSON)
    if not storage.exists(path):
        if resume == "must":
            raise ConfigError(
                "there is no run to go on with", where=str(job.run_dir), todo="drop --resume must"
            )
        return []
    if resume == "never":
        raise OutputError(
            "there is a run already", where=str(job.run_dir), todo="choose another --out"
        )
    document = storage.read_json(path)
    try:
        recipe, fingerprint = document["recipe"], document["data"]["fingerprint"]
    except (LookupError, TypeError):
        raise DataError("is not a run's", where=str(path), todo="choose another --out") from None
    earlier = flat_fields(recipe_from_json(recipe))
    changed = [
        f"{name} was {earlier.get(name)!r} and is {value!r}"
        for name, value in flat_fields(job.recipe).items()
        if name not in MAY_CHANGE and earlier.get(name) != value
    ]
    if fingerprint != index.fingerprint:
        changed.append("the annotations are others")
    if changed:
        raise ConfigError(
            f"holds a run of another kind: {'; '.join(changed[:3])}",
            where=str(job.run_dir),
            todo="choose another --out, or give the same options to go on",
        )
    return committed_steps(job.run_dir)


def flat_fields(recipe: Recipe) -> dict[str, Any]:
    """Its fields by dotted names, JSON-ready."""
    flat: dict[str, Any] = {}
    for name, value in recipe.to_json().items():
        if isinstance(value, dict):
            flat.update({f"{name}.{leaf}": v for leaf, v in value.items()})
        else:
            flat[name] = value
    return flat
