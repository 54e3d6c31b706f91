"""The public Python API, which the command line calls too: one function a job.

Paths may be relative; they are taken from the current folder. Nothing here prints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from raymrcnn import rundir, storage
from raymrcnn.api.training import TrainResult, train
from raymrcnn.data.images import decode_image
from raymrcnn.device.accelerator import CPU, first_device, pick
from raymrcnn.device.choice.on_ray import chosen_cards, require_known_batch
from raymrcnn.errors import DataError
from raymrcnn.infer.job import InferJob, load_predictor
from raymrcnn.infer.job import prepare as prepare_infer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.sink import image_ids, read_manifest
from raymrcnn.report.drawn import Drawn
from raymrcnn.report.drawn import draw as draw_images
from raymrcnn.score.coco import Scores
from raymrcnn.scoring import Predicted, compare_predicted, ground_truth, score_predicted
from raymrcnn.structures import Detections, ImageRef
from raymrcnn.weights.source import absolute_source

__all__ = ["InferResult", "TrainResult", "compare", "draw", "infer", "predict", "score", "train"]

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


def score(
    predictions: Path_,
    *,
    annotations: Path_ | None = None,
    data: Path_ | None = None,
    split: str | None = None,
    detail: bool = False,
    skip_bad_annotations: bool = False,
    workers: int = 0,
    cluster: str | None = None,
) -> Scores:
    """COCO scores of a predictions folder or a COCO results file; LVIS's with its annotations.

    Args:
        predictions: a folder that `infer` wrote, whose `scores.json` is renewed, or a JSON file.
        annotations: an annotation file; or
        data: the root of a data set, with
        split: of it; with none of the three those that the folder was made from.
        detail: also the kinds of errors, the confusion matrix and the calibration.
        skip_bad_annotations: leave annotations with a malformed mask out of what is scored by
            mask, and list them, instead of refusing the file.
        workers: Ray tasks at once; 0: as the cluster has room.
        cluster: HOST:PORT of a Ray cluster, or auto; None: this machine.

    Raises:
        RaymrcnnError: something is missing, malformed, or does not fit together.
    """
    predicted, about = _predicted(predictions)
    return score_predicted(
        predicted,
        ground_truth(predicted.path, about, annotations, data, split),
        detail=detail,
        skip_bad=skip_bad_annotations,
        workers=workers,
        cluster=cluster,
    )


def compare(
    a: Path_,
    b: Path_,
    *,
    annotations: Path_ | None = None,
    data: Path_ | None = None,
    split: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    skip_bad_annotations: bool = False,
    workers: int = 0,
    cluster: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """How much better the predictions b are than a, with intervals from a paired bootstrap.

    Takes what `score` takes. The images are drawn anew `resamples` times with `seed` (0 times:
    differences without intervals); `progress` is called with how often they were, and of how many.

    Raises:
        RaymrcnnError: as `score`, or the two are not about the same images.
    """
    one, about = _predicted(a)
    other, about_other = _predicted(b)
    return compare_predicted(
        one,
        other,
        ground_truth(one.path, about or about_other, annotations, data, split),
        resamples=resamples,
        seed=seed,
        skip_bad=skip_bad_annotations,
        workers=workers,
        cluster=cluster,
        progress=progress,
    )


def _predicted(predictions: Path_) -> tuple[Predicted, dict[str, Any]]:
    """Where predictions are, and what the manifest beside them says; {} for other programs'."""
    source = rundir.local_path(predictions, "--predictions")
    if not source.exists():
        raise DataError(
            "no such file or folder",
            where=str(source),
            todo="give a folder that `raymrcnn infer` wrote, or a COCO results file",
        )
    if not (source / rundir.MANIFEST).exists():
        return Predicted(path=source), {}
    about = read_manifest(source)
    if about["status"] != "complete":
        raise DataError(
            "not all images are labelled yet",
            where=str(source),
            todo="run the same `raymrcnn infer` again to go on",
        )
    # Images that failed count as images without detections; those never asked for do not count.
    limited = bool(about["fingerprint"].get("limit"))
    return Predicted(path=source, only=image_ids(source) if limited else None), about
