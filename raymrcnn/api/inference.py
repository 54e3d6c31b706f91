"""`infer`, `predict` and `draw`: images in, detections out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from raymrcnn import rundir, storage
from raymrcnn.data.images import decode_image
from raymrcnn.device.accelerator import CPU, first_device, pick
from raymrcnn.device.choice.on_ray import chosen_cards, require_known_batch
from raymrcnn.infer.job import InferJob, load_predictor
from raymrcnn.infer.job import prepare as prepare_infer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.sink import read_manifest
from raymrcnn.report.drawn import Drawn
from raymrcnn.report.drawn import draw as draw_images
from raymrcnn.score.coco import Scores
from raymrcnn.structures import Detections, ImageRef
from raymrcnn.weights.source import absolute_source

Path_ = Union[str, "os.PathLike[str]"]


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
    limit: int = 0,
    allow_partial: bool = False,
    cluster: str | None = None,
    accelerator: str | None = None,
    force: bool = False,
    on_start: Callable[[int, int], None] | None = None,
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
        limit: only the first so many images; 0: all.
        allow_partial: whether the weights may have tensors without a place in the network.
        cluster: HOST:PORT of a Ray cluster, or auto; None: this machine.
        accelerator: only cards of this model, as MLU370-S4; None: any.
        force: try a batch that the cards are known not to take.
        on_start: called with the number of images and of those done before.
        on_block: called as each block of images is committed.

    Raises:
        RaymrcnnError: see its kinds.
    """
    from raymrcnn.infer.on_ray import default_workers, run_inference

    with chosen_cards(device, workers, accelerator, cluster) as cards:
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
                limit=limit,
                allow_partial=allow_partial,
            )
        )
        before = prepared.predictions
        if on_start is not None:
            on_start(before.num_images, before.num_done())
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


def predict(
    images: Sequence[Path_],
    weights: str,
    *,
    device: str = "auto",
    dtype: str = "float32",
    score_threshold: float = 0.05,
    max_detections: int = 100,
) -> list[Detections]:
    """Detections of a few images, in this process and without Ray.

    Raises:
        RaymrcnnError: an image or the weights cannot be read, or the device lacks the dtype.
    """
    accelerator = pick(device)
    predictor = load_predictor(
        weights,
        accelerator,
        first_device(accelerator),
        dtype,
        score_threshold,
        max_detections,
    )
    found = []
    for k, path in enumerate(images, start=1):
        ref = ImageRef(image_id=k, file_name=os.path.basename(path), uri=os.fspath(path))
        found += predictor.predict([decode_image(path)], [ref])
    return found
