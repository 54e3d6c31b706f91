"""How sure the difference of two predictions is: a paired bootstrap over the images of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import rundir
from raymrcnn.data.coco import CocoIndex
from raymrcnn.errors import DataError
from raymrcnn.report.collect import Predictions, mapping
from raymrcnn.report.comparison.subjects import Subject
from raymrcnn.report.progress import Progress
from raymrcnn.score.coco import IOU_TYPES, records_of
from raymrcnn.score.compare import compare
from raymrcnn.score.files import Asked, match_parts, match_undetected, undetected

Found = dict[str, dict[str, Any]]  # "segm", "bbox": what `compare` returns


def intervals(
    subjects: Sequence[Subject],
    index: CocoIndex,
    resamples: int,
    progress: Progress,
) -> tuple[list[Found | None], list[str]]:
    """For each subject the comparison with the first one, and why some have none.

    Args:
        subjects: what is compared.
        index: the ground truth.
        resamples: how often images are drawn anew.
        progress: called with what is done, how often it was, and of how many.
    """
    found: list[Found | None] = [None] * len(subjects)
    notes: list[str] = []
    first = subjects[0].predictions
    if first is None:
        return found, [f"{subjects[0].name} has no predictions to compare with"]
    counted = counted_images(first, index)
    try:
        base = _records(first, index, counted)
    except DataError as error:
        return found, [f"{subjects[0].name}: {error}"]
    for k, subject in enumerate(subjects[1:], start=1):
        other = subject.predictions
        if other is None:
            continue
        if not same_images(first, other, index):
            notes.append(f"{subject.name} is about other images than {subjects[0].name}")
            continue
        try:
            records = _records(other, index, counted)
        except DataError as error:
            notes.append(f"{subject.name}: {error}")
            continue
        one: Found = {}
        for kind in IOU_TYPES:
            one[kind] = compare(
                base[kind],
                records[kind],
                counted,
                index.categories,
                resamples=resamples,
                progress=lambda done, of, name=subject.name: progress(name, done, of),  # type: ignore[misc]
            )
        found[k] = one
    return found, notes


def counted_images(predictions: Predictions, index: CocoIndex) -> npt.NDArray[np.int64]:
    """The ids of the images that its score is about, sorted."""
    if mapping(predictions.manifest.get("fingerprint")).get("limit"):
        try:
            table = pq.read_table(predictions.folder / rundir.IMAGES, columns=["image_id"])
        except (OSError, pa.ArrowException):
            return predictions.image_ids
        ids: npt.NDArray[np.int64] = np.unique(table.column("image_id").to_numpy())
        return ids
    return np.unique(index.image_ids)


def same_images(a: Predictions, b: Predictions, index: CocoIndex) -> bool:
    """Whether the scores of two are about the same images."""
    return np.array_equal(counted_images(a, index), counted_images(b, index))


def _records(
    predictions: Predictions, index: CocoIndex, counted: npt.NDArray[np.int64]
) -> dict[str, Any]:
    asked = Asked(detail=True, skip_bad=True)
    state, ids = match_parts(predictions.parts, index, asked)
    rest = match_undetected(undetected(index, ids, counted), index, asked)
    return {kind: records_of([state, rest], kind) for kind in IOU_TYPES}
