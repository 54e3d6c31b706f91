"""What is asked of ground truth and detections before they are matched.

The matcher takes what it is given: a mask of another size, an unknown image or a cut string
would only lower a number. Here each is refused, by name. This module refuses to repair any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import DataError
from raymrcnn.masks import segmentation_to_rle
from raymrcnn.rle import check_strings
from raymrcnn.score.truth import some_ids

Entries = Sequence[dict[str, Any]]
Sizes = dict[int, tuple[int, int]]  # image id: height, width

_TRUTH_FIELDS = ("id", "image_id", "category_id", "bbox", "area")
_TODO_TRUTH = "run `raymrcnn data verify` to list what is malformed"
_TODO_MASK = f"{_TODO_TRUTH}, or score with --skip-bad-annotations"
_TODO_IDS = "score with the annotations of the images that were predicted"


def check_truth(annotations: Entries, sizes: Sizes, where: str) -> None:
    """Refuse annotations that lack a field or belong to no image of `sizes`.

    Raises:
        DataError: naming the annotation and the field.
    """
    for annotation in annotations:
        for field in _TRUTH_FIELDS:
            if field not in annotation:
                name = f"annotation {annotation.get('id', '?')}"
                raise DataError(f"{name} has no {field!r}", where=where, todo=_TODO_TRUTH)
        if annotation["image_id"] not in sizes:
            raise DataError(
                f"annotation {annotation['id']} names image {annotation['image_id']}, "
                "which is not among the images",
                where=where,
                todo=_TODO_TRUTH,
            )


def truth_with_masks(
    annotations: Entries, sizes: Sizes, where: str, skipped: list[int] | None = None
) -> list[dict[str, Any]]:
    """The annotations, ready to be matched by mask; what is not plain becomes compressed RLE.

    Args:
        annotations: that `check_truth` took.
        sizes: of the images.
        where: of the file.
        skipped: gets the ids of annotations without a usable mask, which are left out; None:
            refuse them.

    Raises:
        DataError: an annotation has no mask, or a malformed one.
    """
    try:
        return _truth_with_masks(annotations, sizes, where)
    except DataError as error:
        if skipped is None:
            raise DataError(error.what, where=error.where, todo=_TODO_MASK) from None
    usable = []
    for annotation in annotations:
        try:
            usable += _truth_with_masks([annotation], sizes, where)
        except DataError:
            skipped.append(annotation["id"])
    return usable


def _truth_with_masks(annotations: Entries, sizes: Sizes, where: str) -> list[dict[str, Any]]:
    compressed, outlined, others = [], [], []
    for i, annotation in enumerate(annotations):
        mask = annotation.get("segmentation")
        if not mask:
            name = f"annotation {annotation['id']}"
            raise DataError(f"{name} has no mask", where=where, todo=_TODO_TRUTH)
        if isinstance(mask, list):
            outlined.append(i)
        elif isinstance(mask, dict) and isinstance(mask.get("counts"), str):
            compressed.append(i)
        else:
            others.append(i)
    _check_compressed(
        annotations, compressed, sizes, where, lambda i: f"annotation {annotations[i]['id']}"
    )
    reach = 2 * max((height + width for height, width in sizes.values()), default=0)
    if not _plain_polygons([annotations[i]["segmentation"] for i in outlined], reach):
        others += outlined
    ready = list(annotations)
    for i in others:
        height, width = sizes[annotations[i]["image_id"]]
        place = f"{where}: annotation {annotations[i]['id']}"
        counts = segmentation_to_rle(annotations[i]["segmentation"], height, width, place)
        ready[i] = {**annotations[i], "segmentation": {"size": [height, width], "counts": counts}}
    return ready


def check_detections(
    detections: Entries, sizes: Sizes, category_ids: set[int], where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The image ids, category ids and scores of detections, [num_detections] each.

    Raises:
        DataError: a field is missing or of another type, a score is not finite, or an image or
            category is unknown.
    """
    image_ids = _integers(detections, "image_id", where)
    categories = _integers(detections, "category_id", where)
    scores = _floats(detections, "score", (), where)
    _refuse_unknown("images", image_ids, set(sizes), where)
    _refuse_unknown("categories", categories, category_ids, where)
    return image_ids, categories, scores


def boxes_of(detections: Entries, where: str) -> npt.NDArray[np.float64]:
    """The boxes of detections, [num_detections, 4] x, y, width, height in pixels.

    Raises:
        DataError: a box is missing, or is not four finite numbers.
    """
    return _floats(detections, "bbox", (4,), where)


def check_masks(detections: Entries, sizes: Sizes, where: str) -> None:
    """Refuse detections whose mask is no compressed RLE of their image's size.

    Raises:
        DataError: naming the detection and its image.
    """
    for i, detection in enumerate(detections):
        mask = detection.get("segmentation")
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            raise DataError(f"{_name(detections, i)} has no compressed RLE", where=where)
    _check_compressed(
        detections, range(len(detections)), sizes, where, lambda i: _name(detections, i)
    )


def _check_compressed(
    entries: Entries,
    chosen: Sequence[int],
    sizes: Sizes,
    where: str,
    name: Callable[[int], str],
) -> None:
    """Check the compressed RLE of some entries."""
    expected = [sizes[entries[i]["image_id"]] for i in chosen]
    strings = []
    for i, (height, width) in zip(chosen, expected, strict=True):
        mask = entries[i]["segmentation"]
        size = mask.get("size")
        if size != [height, width] and size != (height, width):
            raise DataError(
                f"{name(i)} has an RLE of size {size} in an image of [{height}, {width}]",
                where=where,
            )
        strings.append(mask["counts"])
    heights, widths = np.array(expected, np.int64).reshape(-1, 2).T
    check_strings(strings, heights, widths, where, lambda i: f"the RLE of {name(chosen[i])}")


def _plain_polygons(masks: list[list[Any]], reach: int) -> bool:
    """Whether all are lists of 3 or more points, finite and not far outside an image."""
    try:
        polygons = list(chain.from_iterable(masks))
        lengths = np.array([len(polygon) for polygon in polygons], np.int64)
        numbers = np.fromiter(chain.from_iterable(polygons), np.float64, int(lengths.sum()))
    except (TypeError, ValueError, OverflowError):
        return False
    if not all(masks) or (lengths < 6).any() or (lengths % 2).any():
        return False
    return bool((np.abs(numbers) <= reach).all())  # no order holds for a NaN


def _column(detections: Entries, field: str, where: str) -> list[Any]:
    try:
        return [detection[field] for detection in detections]
    except (KeyError, TypeError):
        i = next(i for i, d in enumerate(detections) if not isinstance(d, dict) or field not in d)
        raise DataError(f"detection {i} has no {field!r}", where=where) from None


def _integers(detections: Entries, field: str, where: str) -> npt.NDArray[np.int64]:
    values = _column(detections, field, where)
    for i, value in enumerate(values):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise DataError(f"detection {i} has {field!r} {value!r}, no integer", where=where)
    return np.array(values, np.int64)


def _floats(
    detections: Entries, field: str, shape: tuple[int, ...], where: str
) -> npt.NDArray[np.float64]:
    values = _column(detections, field, where)
    table = _numbers(values, (len(values), *shape))
    if table is not None and np.isfinite(table).all():
        return table
    for i, value in enumerate(values):
        number = _numbers(value, shape)
        if number is None or not np.isfinite(number).all():
            wanted = "four finite numbers" if shape else "a finite number"
            raise DataError(
                f"{_name(detections, i)} has {field!r} {value!r}, not {wanted}", where=where
            )
    raise AssertionError("a column is as good as its values")


def _numbers(value: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
    """An array of that shape, or None where it is none or holds other than numbers."""
    try:
        table = np.asarray(value)
    except (ValueError, OverflowError):  # of unequal lengths
        return None
    if table.size == 0:
        return np.zeros(shape) if 0 in shape else None
    return table.astype(np.float64) if table.dtype.kind in "iuf" and table.shape == shape else None


def _refuse_unknown(what: str, ids: npt.NDArray[np.int64], known: set[int], where: str) -> None:
    unknown = sorted(set(ids.tolist()) - known)
    if unknown:
        raise DataError(
            f"detections name {len(unknown)} {what} that the ground truth does not have: "
            f"{some_ids(unknown)}",
            where=where,
            todo=_TODO_IDS,
        )


def _name(detections: Entries, i: int) -> str:
    return f"detection {i} (image {detections[i].get('image_id')})"
