"""What one prediction job is to do, and its checks before an actor starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import torch

from raymrcnn import storage
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.store import FolderImages, ImageStore, open_dataset
from raymrcnn.device.accelerator import ROWS, Accelerator, parse_dtype
from raymrcnn.device.host import hardware, versions
from raymrcnn.errors import ConfigError, DataError, WeightError
from raymrcnn.infer.sink import Predictions, open_predictions
from raymrcnn.infer.sources import images_named, images_of_split
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.predictor import Predictor, View, views_of
from raymrcnn.structures import Category
from raymrcnn.weights.load import load_into
from raymrcnn.weights.names import canonical_state
from raymrcnn.weights.source import ModelSource, load_model_source


@dataclass(frozen=True, kw_only=True)
class InferJob:
    """One prediction job as the user asked for it."""

    weights: str
    out: Path | str  # a path or a URI
    data_root: Path | str | None = None  # a COCO data set, also a sharded one behind a URI; or
    split: str = "val2017"
    images: tuple[str, ...] = ()  # folders, globs, lists, files, tars, parquet shards, URIs
    score: bool = True  # against the annotations of the split, at the end
    accelerator: str = "cpu"
    card_model: str | None = None  # only cards of this model; None: any
    workers: int = 1
    decode_workers: int = 0  # processes of their own that decode, on any node; 0: the card's host
    batch_size: int = 32
    dtype: str = "float32"
    compile: bool = False
    tta_flip: bool = False
    tta_scales: tuple[int, ...] = ()  # short sides, pixels
    score_threshold: float = 0.05
    max_detections: int = 100
    max_failures: int = -1  # images; -1: any number
    retry_failures: bool = False  # label blocks with failed images again
    limit: int = 0  # images; 0: all
    allow_partial: bool = False  # the weights may have tensors that the network has no place for


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedInfer:
    """A job whose input was checked and whose folder stands."""

    job: InferJob
    predictions: Predictions
    index: CocoIndex | None = None
    store: ImageStore | None = None  # of the images of `index`
    source: ModelSource | None = None  # None: the caller brings a labeler of its own
    left: tuple[str, ...] = ()  # tensors of the weights that the network has no place for


def prepare(job: InferJob, held: contextlib.ExitStack | None = None) -> PreparedInfer:
    """Check options, images and weights, and open the predictions folder.

    Args:
        job: what to do.
        held: keeps other processes out of the folder, see `open_predictions`.

    Raises:
        ConfigError, DataError, WeightError, DeviceError, OutputError: one line each.
    """
    _require_options(job)
    dtype = parse_dtype(job.dtype, ROWS[job.accelerator])
    index, store, tables = _images(job)
    source, left = _whole(load_model_source(job.weights), allow_left=job.allow_partial)
    if index is not None and job.score:
        _require_categories(job, source.categories, index)
    named = [c for c in source.categories if c is not None]
    predictions = open_predictions(
        job.out,
        tables,
        {
            "weights": source.digest,
            "dtype": str(dtype).removeprefix("torch."),
            "score_threshold": job.score_threshold,
            "max_detections": job.max_detections,
            "annotations": index.fingerprint if index is not None else None,
            "limit": job.limit,
            **_tta(job),
        },
        {
            "options": {
                "weights": job.weights,
                "dtype": job.dtype,
                "score_threshold": job.score_threshold,
                "max_detections": job.max_detections,
                "batch_size": job.batch_size,
                "device": job.accelerator,
                **({"weights_left": list(left)} if left else {}),
                **_tta(job),
            },
            "data": None if index is None else {"root": str(job.data_root), "split": job.split},
            "categories": [[c.id, c.name] for c in named],
            "versions": versions(),
            "hardware": hardware(job.accelerator),  # of the host that started it first
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        held,
        retry_failures=job.retry_failures,
    )
    return PreparedInfer(
        job=job, predictions=predictions, index=index, store=store, source=source, left=left
    )


def load_predictor(
    weights: str,
    accelerator: Accelerator,
    device: torch.device,
    dtype: str = "float32",
    score_threshold: float = 0.05,
    max_detections: int = 100,
) -> Predictor:
    """A predictor with these weights on a device.

    Args:
        weights: see `raymrcnn.weights.load_source`.
        accelerator: of the device.
        device: where to run.
        dtype: float32, float16 or bfloat16.
        score_threshold: a detection must score above.
        max_detections: kept of an image.

    Raises:
        WeightError, DeviceError, ConfigError: one line each.
    """
    return load_predictor_and_categories(
        weights, accelerator, device, dtype, score_threshold, max_detections
    )[0]


def load_predictor_and_categories(
    weights: str,
    accelerator: Accelerator,
    device: torch.device,
    dtype: str = "float32",
    score_threshold: float = 0.05,
    max_detections: int = 100,
) -> tuple[Predictor, tuple[Category | None, ...]]:
    """As `load_predictor`, and the category of each label from 1."""
    chosen = parse_dtype(dtype, accelerator)
    source = load_model_source(weights)
    ids = [None if c is None else c.id for c in source.categories]
    predictor = Predictor(_built(source), ids, device, chosen, score_threshold, max_detections)
    return predictor, tuple(source.categories)


def predictor_of(job: InferJob, source: ModelSource, device: torch.device) -> Predictor:
    """The predictor that a job asks for."""
    ids = [None if c is None else c.id for c in source.categories]
    return Predictor(
        _built(source),
        ids,
        device,
        parse_dtype(job.dtype, ROWS[job.accelerator]),
        job.score_threshold,
        job.max_detections,
        views=_views(job),
        compile_backbone=job.compile,
    )


def _tta(job: InferJob) -> dict[str, object]:
    """Of test-time augmentation, what decides results; nothing where there is none."""
    asked = {"tta_flip": job.tta_flip, "tta_scales": list(job.tta_scales)}
    return {name: value for name, value in asked.items() if value}


def _views(job: InferJob) -> tuple[View, ...]:
    return views_of(job.tta_scales, job.tta_flip)


def _require_options(job: InferJob) -> None:
    for name, value in (("--batch-size", job.batch_size), ("--max-detections", job.max_detections)):
        if value < 1:
            raise ConfigError(f"{value} is not positive", where=name)
    if job.limit < 0:
        raise ConfigError(f"{job.limit} is negative", where="--limit", todo="0 takes all images")
    if any(side < 1 for side in job.tta_scales):
        raise ConfigError(f"{min(job.tta_scales)} is not positive", where="--tta-scales")
    if not 0.0 <= job.score_threshold < 1.0:
        raise ConfigError(f"{job.score_threshold} is not in [0, 1)", where="--score-threshold")
    if (job.data_root is None) == (not job.images):
        raise ConfigError(
            "give either a data set or images" if job.images else "nothing to predict on",
            where="--data, --images",
            todo="--data DIR --split NAME, or --images FOLDER_OR_GLOB_OR_LIST",
        )


def _images(
    job: InferJob,
) -> tuple[CocoIndex | None, ImageStore | None, Iterator[pa.Table]]:
    if job.data_root is None:
        return None, None, images_named(job.images, job.limit, job.out)
    root = job.data_root if storage.is_uri(job.data_root) else Path(job.data_root)
    index, store = open_dataset(root, job.split)
    single = isinstance(store, FolderImages)
    folder = Path(os.fspath(root)) if single else None
    return index, store, images_of_split(index, folder, job.split, job.limit)


def _whole(source: ModelSource, *, allow_left: bool) -> tuple[ModelSource, tuple[str, ...]]:
    """The tensors that a network takes, and the names of others; takes no memory.

    Raises:
        WeightError: the network lacks some, or has some otherwise, or there are others and they
            may not be.
    """
    with torch.device("meta"):  # names and shapes decide, and files may claim any
        model = _network(source)
    try:
        report = load_into(model, source.state, allow_new_heads=False, allow_left=allow_left)
    except WeightError as error:
        raise WeightError(error.what, where=source.description, todo=error.todo) from None
    own = model.state_dict().keys()
    used = {n: t for n, t in canonical_state(source.state).items() if n in own}
    return replace(source, state=used), report.left


def _built(source: ModelSource) -> MaskRCNN:
    source, _ = _whole(source, allow_left=False)
    model = _network(source)
    load_into(model, source.state, allow_new_heads=False)
    return model.eval()


def _network(source: ModelSource) -> MaskRCNN:
    sides = source.short_side, source.long_side
    return build_mask_rcnn(source.config, len(source.categories), *sides)


def _require_categories(
    job: InferJob, categories: tuple[Category | None, ...], index: CocoIndex
) -> None:
    known = {c.id: c.name for c in index.categories}
    strange = [c for c in categories if c is not None and known.get(c.id, c.name) != c.name]
    shared = [c for c in categories if c is not None and c.id in known]
    if strange or not shared:
        first = strange[0] if strange else next(c for c in categories if c is not None)
        there = known.get(first.id)
        raise DataError(
            f"the weights call category {first.id} {first.name!r}, the data set "
            + (f"{there!r}" if there else "has none of that id"),
            where=f"{job.weights} on {job.split}",
            todo="use weights that were trained on these categories, or --mode predict",
        )
