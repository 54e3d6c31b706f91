"""What one prediction job is to do, and its checks before an actor starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from raymrcnn.data.coco import CocoIndex, open_split
from raymrcnn.device.accelerator import ROWS, Accelerator, parse_dtype
from raymrcnn.errors import ConfigError, DataError, WeightError
from raymrcnn.infer.sink import Predictions, open_predictions
from raymrcnn.infer.sources import images_named, images_of_split
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.predictor import Predictor
from raymrcnn.structures import Category, ImageRef
from raymrcnn.weights.load import load_into
from raymrcnn.weights.source import load_model_source


@dataclass(frozen=True, kw_only=True)
class InferJob:
    """One prediction job as the user asked for it."""

    weights: str
    out: Path
    data_root: Path | None = None  # a COCO data set, or
    split: str = "val2017"
    images: tuple[str, ...] = ()  # folders, globs, lists and files
    score: bool = True  # against the annotations of the split, at the end
    accelerator: str = "cpu"
    card_model: str | None = None  # only cards of this model; None: any
    workers: int = 1
    batch_size: int = 32
    dtype: str = "float32"
    score_threshold: float = 0.05
    max_detections: int = 100
    max_failures: int = -1  # images; -1: any number
    limit: int = 0  # images; 0: all


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedInfer:
    """A job whose input was checked and whose folder stands."""

    job: InferJob
    predictions: Predictions
    index: CocoIndex | None


def prepare(job: InferJob) -> PreparedInfer:
    """Check options, images and weights, and open the predictions folder.

    Raises:
        ConfigError, DataError, WeightError, DeviceError, OutputError: one line each.
    """
    _require_options(job)
    dtype = parse_dtype(job.dtype, ROWS[job.accelerator])
    index, refs = _images(job)
    _, categories, digest = _model(job.weights)
    if index is not None and job.score:
        _require_categories(job, categories, index)
    named = [c for c in categories if c is not None]
    predictions = open_predictions(
        job.out,
        refs,
        {
            "weights": digest,
            "dtype": str(dtype).removeprefix("torch."),
            "score_threshold": job.score_threshold,
            "max_detections": job.max_detections,
            "annotations": index.fingerprint if index is not None else None,
            "limit": job.limit,
        },
        {
            "options": {
                "weights": job.weights,
                "dtype": job.dtype,
                "score_threshold": job.score_threshold,
                "max_detections": job.max_detections,
                "batch_size": job.batch_size,
                "device": job.accelerator,
            },
            "data": None if index is None else {"root": str(job.data_root), "split": job.split},
            "categories": [[c.id, c.name] for c in named],
        },
    )
    return PreparedInfer(job=job, predictions=predictions, index=index)


def load_predictor(
    weights: str,
    accelerator: Accelerator,
    device: torch.device,
    dtype: str = "float32",
    score_threshold: float = 0.05,
    max_detections: int = 100,
    *,
    digest: str = "",
) -> Predictor:
    """A predictor with these weights on a device.

    Args:
        weights: see `raymrcnn.weights.load_source`.
        accelerator: of the device.
        device: where to run.
        dtype: float32, float16 or bfloat16.
        score_threshold: a detection must score above.
        max_detections: kept of an image.
        digest: that the weights must have; "": any.

    Raises:
        WeightError, DeviceError, ConfigError: one line each.
    """
    chosen = parse_dtype(dtype, accelerator)
    model, categories, found = _model(weights)
    if digest and digest != found:
        raise WeightError("changed while the job ran", where=weights, todo="start it anew")
    ids = [None if c is None else c.id for c in categories]
    return Predictor(model, ids, device, chosen, score_threshold, max_detections)


def _require_options(job: InferJob) -> None:
    for name, value in (("--batch-size", job.batch_size), ("--max-detections", job.max_detections)):
        if value < 1:
            raise ConfigError(f"{value} is not positive", where=name)
    if not 0.0 <= job.score_threshold < 1.0:
        raise ConfigError(f"{job.score_threshold} is not in [0, 1)", where="--score-threshold")
    if (job.data_root is None) == (not job.images):
        raise ConfigError(
            "give either a data set or images" if job.images else "nothing to predict on",
            where="--data, --images",
            todo="--data DIR --split NAME, or --images FOLDER_OR_GLOB_OR_LIST",
        )


def _images(job: InferJob) -> tuple[CocoIndex | None, list[ImageRef]]:
    if job.data_root is None:
        return None, images_named(job.images, job.limit)
    index = open_split(job.data_root, job.split)
    return index, images_of_split(index, job.data_root, job.split, job.limit)


def _model(weights: str) -> tuple[MaskRCNN, tuple[Category | None, ...], str]:
    source = load_model_source(weights)
    model = build_mask_rcnn(
        source.config, len(source.categories), source.short_side, source.long_side
    )
    try:
        load_into(model, source.state, allow_new_heads=False)
    except WeightError as error:
        raise WeightError(error.what, where=source.description, todo=error.todo) from None
    return model.eval(), source.categories, source.digest


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
