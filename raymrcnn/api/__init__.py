"""The public Python API, which the command line calls too: one function a job.

Paths may be relative; they are taken from the current folder. Nothing here prints.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

from raymrcnn import rundir, storage
from raymrcnn.api.inference import InferResult, draw, infer, predict
from raymrcnn.api.training import TrainResult, train
from raymrcnn.data.write import write_dataset
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.infer.sink import image_ids, read_manifest
from raymrcnn.score.coco import Scores
from raymrcnn.scoring import Predicted, compare_predicted, ground_truth, score_predicted

__all__ = [
    "InferResult",
    "TrainResult",
    "compare",
    "draw",
    "infer",
    "predict",
    "score",
    "train",
    "write_dataset",
]

Path_ = Union[str, "os.PathLike[str]"]


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
    on_matched: Callable[[int, int], None] | None = None,
) -> Scores:
    """COCO scores of a predictions folder or a COCO results file; LVIS's with its annotations.

    What else is to be known of them, as that `scores.json` could not be written, is in `notes`.

    Args:
        predictions: a folder that `infer` wrote, whose `scores.json` is renewed, or a JSON file;
            a path or a URI.
        annotations: an annotation file; or
        data: the root of a data set, with
        split: of it; with none of the three those that the folder was made from.
        detail: also the kinds of errors, the confusion matrix and the calibration.
        skip_bad_annotations: leave annotations with a malformed mask out of what is scored by
            mask, and list them, instead of refusing the file.
        workers: Ray tasks at once; 0: as the cluster has room.
        cluster: HOST:PORT of a Ray cluster, or auto; None: this machine.
        on_matched: called with how many files of a folder are matched, and of how many.

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
        on_matched=on_matched,
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
    on_matched: Callable[[int, int], None] | None = None,
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
        on_matched=on_matched,
    )


def _predicted(predictions: Path_) -> tuple[Predicted, dict[str, Any]]:
    """Where predictions are, and what the manifest beside them says; {} for other programs'."""
    if not os.fspath(predictions):
        raise ConfigError("the name of the predictions is empty", where="score", todo="give one")
    source = storage.place(predictions)
    is_file = storage.size(os.fspath(source)) is not None
    there = source.exists() if isinstance(source, Path) else storage.names(source)
    if not is_file and not there:
        raise DataError(
            "no such file or folder",
            where=str(source),
            todo="give a folder that `raymrcnn infer` wrote, or a COCO results file",
        )
    manifest = storage.join(os.fspath(source), rundir.MANIFEST)
    if is_file or storage.size(manifest) is None:
        return Predicted(path=source, is_folder=not is_file), {}
    about = read_manifest(source)
    if about["status"] != "complete":
        raise DataError(
            "not all images are labelled yet",
            where=str(source),
            todo="run the same `raymrcnn infer` again to go on",
        )
    # Images that failed count as images without detections; those never asked for do not count.
    limited = bool(about["fingerprint"].get("limit"))
    only = image_ids(source) if limited else None
    return Predicted(path=source, is_folder=True, only=only), about
