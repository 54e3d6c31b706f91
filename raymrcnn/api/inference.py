"""`infer`, `predict` and `draw`: images in, detections out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Union, cast, overload

import numpy as np
import torch
from PIL import Image

from raymrcnn import rundir, storage
from raymrcnn.data.images import decode_image
from raymrcnn.device.accelerator import CPU, first_device, pick
from raymrcnn.device.choice.on_ray import chosen_cards, require_known_batch
from raymrcnn.errors import DataError
from raymrcnn.infer.job import InferJob, load_predictor_and_categories
from raymrcnn.infer.job import prepare as prepare_infer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.sink import read_manifest
from raymrcnn.pictures import Picture, is_picture, pixels_in_memory
from raymrcnn.report.drawn import Drawn
from raymrcnn.report.drawn import draw as draw_images
from raymrcnn.score.coco import Scores
from raymrcnn.structures import Detections, ImageRef
from raymrcnn.weights.source import absolute_source

Path_ = Union[str, "os.PathLike[str]"]
DEFAULT_WEIGHTS = "MaskRCNN_ResNet50_FPN_Weights.COCO_V1"


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """How a prediction job ended."""

    folder: Path | str  # a path, or a URI where one was given
    manifest: dict[str, Any]
    scores: Scores | dict[str, Any] | None
    already_done: bool  # nothing was left to do


def infer(
    weights: str,
    out: Path_,
    *,
    data: Path_ | None = None,
    split: str = "val2017",
    images: Sequence[str] = (),
    score: bool = True,
    workers: int = 0,
    decode_workers: int = 0,
    device: str = "auto",
    batch_size: int = 0,
    dtype: str = "float32",
    compile: bool = False,
    tta_flip: bool = False,
    tta_scales: Sequence[int] = (),
    score_threshold: float = 0.05,
    max_detections: int = 100,
    max_failures: int = -1,
    retry_failures: bool = False,
    limit: int = 0,
    allow_partial: bool = False,
    cluster: str | None = None,
    accelerator: str | None = None,
    force: bool = False,
    on_start: Callable[[int, int, int], None] | None = None,
    on_block: Callable[[BlockSummary], None] | None = None,
) -> InferResult:
    """Label images; the same call again goes on where the last one ended.

    Args:
        weights: a file, a run folder or a torchvision weight name.
        out: the predictions folder, a path or a URI.
        data: root of a COCO data set, or None with `images`; a sharded one may be a URI.
        split: of that data set.
        images: folders, globs, list files, image files, tars and parquet shards, or URIs of them.
        score: whether a split is scored against its annotations at the end.
        workers: actors, one a card; 0: every card, and one a machine on CPUs.
        decode_workers: processes that only decode, on any machine; 0: threads of each actor do.
        device: auto, cpu, cuda or mlu.
        batch_size: images a card takes at once; 0: 32, and 4 on a CPU.
        dtype: float32, float16 or bfloat16.
        compile: whether torch compiles the backbone first.
        tta_flip: whether each image is also seen mirrored (test-time augmentation).
        tta_scales: short sides in pixels that each image is seen at; none: the model's own.
        score_threshold: a detection must score above.
        max_detections: kept of an image.
        max_failures: images that may fail before the job stops; -1: any number.
        retry_failures: label images again that failed before, and those of their blocks.
        limit: only the first so many images; 0: all.
        allow_partial: whether the weights may have tensors without a place in the network.
        cluster: HOST:PORT of a Ray cluster, or auto; None: this machine.
        accelerator: only cards of this model, as MLU370-S4; None: any.
        force: try a batch that the cards are known not to take.
        on_start: called with the number of images, of those done before, and of failures there.
        on_block: called as each block of images is committed.

    Raises:
        RaymrcnnError: see its kinds.
    """
    from raymrcnn.infer.on_ray import default_workers, run_inference

    with (
        contextlib.ExitStack() as held,  # the folder, from before its job is looked at
        chosen_cards(device, workers, accelerator, cluster) as cards,
    ):
        batch_size = batch_size or (4 if cards.accelerator is CPU else 32)
        require_known_batch(cards, batch_size, force=force)
        prepared = prepare_infer(
            InferJob(
                weights=absolute_source(weights) or weights,
                out=storage.place(out),
                data_root=None if data is None else storage.place(data),
                split=split,
                images=tuple(images),
                score=score,
                accelerator=cards.accelerator.name,
                card_model=cards.model,
                workers=workers or default_workers(cards, cluster),
                decode_workers=decode_workers,
                batch_size=batch_size,
                dtype=dtype,
                compile=compile,
                tta_flip=tta_flip,
                tta_scales=tuple(tta_scales),
                score_threshold=score_threshold,
                max_detections=max_detections,
                max_failures=max_failures,
                retry_failures=retry_failures,
                limit=limit,
                allow_partial=allow_partial,
            ),
            held,
        )
        before = prepared.predictions
        if on_start is not None:
            on_start(before.num_images, before.num_done(), before.failures()[0])
        after, scores = run_inference(prepared, cluster=cluster, on_block=on_block)
        return InferResult(
            folder=after.folder,
            manifest=after.manifest,
            scores=scores,
            already_done=before.complete and not isinstance(scores, Scores),
        )


def draw(
    predictions: Path_,
    count: int = 24,
    *,
    sample_seed: int | None = None,
    min_score: float = 0.5,
) -> Drawn:
    """Draw some images of a predictions folder into its `overlays/` and its `gallery.html`.

    Args:
        predictions: a folder that `infer` wrote.
        count: how many images.
        sample_seed: a sample with this seed; None: the first ones.
        min_score: of what is drawn, 0 to 1; the page has a slider that starts there.

    Raises:
        RaymrcnnError: the folder is damaged, or cannot be written.
    """
    source = rundir.local_path(predictions, "--out")
    read_manifest(source)
    return draw_images(source, count, sample_seed=sample_seed, min_score=min_score)


@overload
def predict(
    images: Picture,
    weights: Path_ = ...,
    *,
    device: str = ...,
    dtype: str = ...,
    score_threshold: float = ...,
    max_detections: int = ...,
) -> Detections: ...
@overload
def predict(
    images: list[Any] | tuple[Any, ...],
    weights: Path_ = ...,
    *,
    device: str = ...,
    dtype: str = ...,
    score_threshold: float = ...,
    max_detections: int = ...,
) -> list[Detections]: ...
def predict(
    images: Picture | Sequence[Picture],
    weights: Path_ = DEFAULT_WEIGHTS,
    *,
    device: str = "auto",
    dtype: str = "float32",
    score_threshold: float = 0.05,
    max_detections: int = 100,
) -> Detections | list[Detections]:
    """What is in an image, or in each of a few, in this process and without Ray.

    The network of the last call is kept, so that one image after another costs no loading.

    Args:
        images: a path, a PIL image, or uint8 [height, width, 3] RGB; or a list of these. Images
            are turned upright by their EXIF orientation.
        weights: a file, a run folder or a torchvision weight name; COCO's 80 classes by default.
        device: auto, cpu, cuda or mlu.
        dtype: float32, float16 or bfloat16.
        score_threshold: a detection must score above.
        max_detections: kept of an image.

    Returns:
        Detections of the image, or a list of them, one an image.

    Raises:
        RaymrcnnError: an image or the weights cannot be read, or the device lacks the dtype.
    """
    predictor = _predictor(
        os.fspath(weights),
        _changed_at(os.fspath(weights)),
        device,
        dtype,
        score_threshold,
        max_detections,
    )
    alone = is_picture(images)
    several = [images] if alone else cast("Sequence[Any]", images)
    found = []
    for k, picture in enumerate(several, start=1):
        name, pixels = _pixels(picture, k)
        ref = ImageRef(image_id=k, file_name=os.path.basename(name), uri=name)
        (one,) = predictor.predict([pixels], [ref])
        found.append(replace(one, names=predictor.names))
    return found[0] if alone else found


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A predictor, and what its category ids are called."""

    predict: Callable[[Sequence[torch.Tensor], Sequence[ImageRef]], list[Detections]]
    names: dict[int, str]


@lru_cache(maxsize=1)
def _predictor(
    weights: str,
    changed_at: tuple[int, ...],
    device: str,
    dtype: str,
    score_threshold: float,
    max_detections: int,
) -> _Loaded:
    accelerator = pick(device)
    predictor, categories = load_predictor_and_categories(
        weights,
        accelerator,
        first_device(accelerator),
        dtype,
        score_threshold,
        max_detections,
    )
    return _Loaded(predictor.predict, {c.id: c.name for c in categories if c is not None})


def _changed_at(weights: str) -> tuple[int, ...]:
    """When a file or run folder last changed, so that a newer checkpoint is not missed."""
    if storage.is_uri(weights):
        return (storage.version_of(weights), storage.version_of(storage.join(weights, rundir.LAST)))
    path = rundir.home_expanded(weights)
    places = (path, path / rundir.CHECKPOINTS)
    return tuple(place.stat().st_mtime_ns for place in places if os.path.exists(place))


def _pixels(picture: Picture, k: int) -> tuple[str, torch.Tensor]:
    """A name, and uint8 [3, height, width] RGB."""
    if isinstance(picture, (str, os.PathLike)):
        return os.fspath(picture), decode_image(picture)
    if not isinstance(picture, (np.ndarray, Image.Image)):
        raise DataError(
            f"a {type(picture).__name__} is no image",
            where=f"image {k}",
            todo="give a path, a PIL image, or uint8 [height, width, 3] RGB",
        )
    pixels = pixels_in_memory(picture, f"image {k}").transpose(2, 0, 1)
    name = str(getattr(picture, "filename", "") or f"image-{k}")
    return name, torch.from_numpy(np.array(pixels, order="C"))
