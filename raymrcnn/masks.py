"""Polygons, run lengths and bitmaps: every form a COCO mask can have, turned into another.

Bitmaps are uint8 [height, width], 0 or 1. `rle` below means the compressed counts string of a
mask whose (height, width) goes beside it. Polygons are rasterised by pycocotools, as COCO's own
ground truth is; what it would crash on (its C code trusts its input) is refused here first.
Pasting what a model predicts is in `paste` and reached from here too; run-length strings are in
`rle`.
This module refuses to repair a malformed mask, and to know what the mask is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from raymrcnn.errors import DataError
from raymrcnn.paste import paste_to_rles
from raymrcnn.rle import check_size, decode_runs, encode_runs

__all__ = [
    "bitmap_to_rle",
    "paste_to_rles",
    "polygon_corners",
    "polygon_pixels",
    "polygons_to_bitmap",
    "rle_areas",
    "rle_iou",
    "rle_to_bitmap",
    "segmentation_to_rle",
]

Bitmap = npt.NDArray[np.uint8]

# pycocotools allocates some 100 bytes a pixel of outline; no drawn outline is this long.
_MAX_OUTLINE_PX = 2_000_000
_TODO = "run `raymrcnn data verify` to list what is malformed"


def segmentation_to_rle(segmentation: Any, height: int, width: int, where: str = "") -> str:
    """The compressed counts of a `segmentation` in any of COCO's forms.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, ...] in pixels, whose union is meant; or
            {"size": [height, width], "counts": list of runs or compressed string}.
        height: of the image, pixels.
        width: of the image, pixels.
        where: what an error names as its place ("annotation 17").

    Raises:
        DataError: it has none of these forms, a polygon has under 3 points or no number in it, or
            an RLE is not of this size.
    """
    check_size(height, width, where)
    if isinstance(segmentation, Mapping):
        return _checked_rle(segmentation, height, width, where)
    if isinstance(segmentation, (list, tuple)):
        return _text(_merged_polygons(segmentation, height, width, where)["counts"])
    raise _wrong(f"segmentation is {type(segmentation).__name__}, not polygons or RLE", where)


def polygons_to_bitmap(polygons: Sequence[Any], height: int, width: int, where: str = "") -> Bitmap:
    """The union of polygons [x1, y1, x2, y2, ...] in pixels, as uint8 [height, width].

    Raises:
        DataError: a polygon has under 3 points, an odd count of numbers, or no finite number.
    """
    check_size(height, width, where)
    union = _merged_polygons(polygons, height, width, where)
    return rle_to_bitmap(_text(union["counts"]), height, width, where)


def polygon_corners(polygons: Sequence[Any], where: str = "") -> list[npt.NDArray[np.float64]]:
    """The corners of each polygon [x1, y1, x2, y2, ...], float64 [num_corners, 2].

    Raises:
        DataError: there is none, or one has under 3 points, an odd count of numbers, or no finite
            number.
    """
    if len(polygons) == 0:
        raise _wrong("an empty list of polygons", where)
    return [_checked_polygon(p, i, where).reshape(-1, 2) for i, p in enumerate(polygons)]


def polygon_pixels(
    polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int
) -> tuple[int, npt.NDArray[np.float64]]:
    """How many pixels the union of polygons covers, and the box around them, [4] XYXY.

    The polygons were found sound before: what `segmentation_to_rle` refuses is not refused here.
    """
    parts = coco_mask.frPyObjects(polygons, height, width)
    union = coco_mask.merge(parts) if len(parts) > 1 else parts[0]
    x, y, w, h = coco_mask.toBbox(union).tolist()
    return int(coco_mask.area(union)), np.array((x, y, x + w, y + h))


def rle_to_bitmap(rle: str, height: int, width: int, where: str = "") -> Bitmap:
    """The bitmap, uint8 [height, width], in column-major memory.

    Raises:
        DataError: the string is malformed or of another size.
    """
    check_size(height, width, where)
    runs, _ = decode_runs([rle], height, width, where)
    ones = (np.arange(len(runs)) % 2).astype(np.uint8)
    bitmap: Bitmap = np.repeat(ones, runs).reshape(width, height).T
    return bitmap


def bitmap_to_rle(bitmap: npt.NDArray[Any]) -> str:
    """The compressed counts of a bitmap [height, width], in which what is not 0 is the mask."""
    height, width = bitmap.shape
    check_size(height, width)
    encoded = coco_mask.encode(np.asfortranarray(bitmap != 0).view(np.uint8))
    return _text(encoded["counts"])


def rle_areas(
    rles: Sequence[str], height: int, width: int, where: str = ""
) -> npt.NDArray[np.int64]:
    """Pixels in each mask, int64 [num_masks].

    Raises:
        DataError: a string is malformed or of another size.
    """
    if len(rles) == 0:
        return np.zeros(0, np.int64)
    check_size(height, width, where)
    runs, num_runs = decode_runs(rles, height, width, where)
    starts = np.cumsum(num_runs) - num_runs
    nth = np.arange(len(runs)) - np.repeat(starts, num_runs)
    return np.add.reduceat(np.where(nth % 2 == 1, runs, 0), starts)


def rle_iou(
    detected: Sequence[str], truth: Sequence[str], height: int, width: int, where: str = ""
) -> npt.NDArray[np.float64]:
    """Intersection over union of all pairs, float64 [num_detected, num_truth].

    Raises:
        DataError: a string is malformed or of another size.
    """
    if len(detected) == 0 or len(truth) == 0:
        return np.zeros((len(detected), len(truth)))
    check_size(height, width, where)
    decode_runs([*detected, *truth], height, width, where)
    found, real = (
        [{"size": [height, width], "counts": rle.encode("ascii")} for rle in rles]
        for rles in (detected, truth)
    )
    overlaps: npt.NDArray[np.float64] = coco_mask.iou(found, real, [0] * len(real))
    return overlaps


def _checked_rle(segmentation: Mapping[str, Any], height: int, width: int, where: str) -> str:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or counts is None:
        raise _wrong("an RLE lacks 'size' or 'counts'", where)
    try:
        matches = [int(side) for side in size] == [height, width]
    except (TypeError, ValueError, OverflowError):
        matches = False
    if not matches:
        raise _wrong(f"an RLE of size {size} in an image of [{height}, {width}]", where)
    if isinstance(counts, (str, bytes)):
        decode_runs([counts], height, width, where)
        return _text(counts)
    try:
        runs = np.asarray(counts)
    except (TypeError, ValueError):
        runs = np.zeros(0, object)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or len(runs) == 0:
        raise _wrong("'counts' of an RLE is neither a string nor a list of integers", where)
    if runs.min() < 0 or runs.max() > height * width or runs.sum(dtype=np.int64) != height * width:
        raise _wrong(f"the runs of an RLE do not add up to {height} * {width} pixels", where)
    return encode_runs(runs.astype(np.int64), np.array([len(runs)]))[0]


def _merged_polygons(polygons: Sequence[Any], height: int, width: int, where: str) -> Any:
    if len(polygons) == 0:
        raise _wrong("an empty list of polygons", where)
    checked = [_checked_polygon(p, i, where) for i, p in enumerate(polygons)]
    parts = coco_mask.frPyObjects(checked, height, width)
    return coco_mask.merge(parts) if len(parts) > 1 else parts[0]


def _checked_polygon(polygon: Any, index: int, where: str) -> npt.NDArray[np.float64]:
    """The numbers of one polygon, which pycocotools can be given."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(f"polygon {index} is no list of numbers", where) from None
    if points.ndim != 1:
        raise _wrong(f"polygon {index} is no flat list [x1, y1, x2, y2, ...]", where)
    if len(points) < 6 or len(points) % 2:
        raise _wrong(f"polygon {index} has {len(points)} numbers, not 6 or more and even", where)
    if not np.isfinite(points).all():
        raise _wrong(f"polygon {index} has a number that is not finite", where)
    corners = points.reshape(-1, 2)
    outline = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
    if np.abs(points).max() > _MAX_OUTLINE_PX or outline > _MAX_OUTLINE_PX:
        raise _wrong(f"polygon {index} is longer than {_MAX_OUTLINE_PX} pixels", where)
    return points


def _wrong(what: str, where: str) -> DataError:
    return DataError(what, where=where, todo=_TODO)


def _text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
