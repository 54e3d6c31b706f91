"""Mends one annotation: what its mask tells for sure is taken from there, the rest is dropped.

A mask is never made up, nor an image or category guessed. What may be meant is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymrcnn.data.check.polygons import MAX_OUTLINE_PX
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_to_bitmap, segmentation_to_rle

BOX_KINDS = frozenset({"box-degenerate", "box-outside", "box-mismatch"})
AREA_KINDS = frozenset({"area-zero", "area-missing", "area-mismatch"})
# Of an annotation: what is left, as nobody knows what was meant.
LEFT = frozenset({"polygon-crossing", "crowd-unset"})

Entry = dict[str, Any]


class Hopeless(Exception):
    """The annotation is dropped; says why."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What annotations may refer to, once images and categories are mended."""

    image_of: Mapping[int, int]  # ids as they were to ids as they are
    size_of: Mapping[int, tuple[int, int]]  # height and width of an image as it is
    category_ids: Collection[int]
    new_id: Callable[[], int]


def mended_annotation(entry: Entry, kinds: AbstractSet[str], frames: Frames) -> tuple[Entry, str]:
    """The annotation without what was found, and what was done to it.

    Args:
        entry: as in the file; it is not changed.
        kinds: of the findings about it.
        frames: what it may refer to.

    Raises:
        Hopeless: nothing can be saved.
    """
    if "duplicate-object" in kinds:
        raise Hopeless("the same object is there already")
    done: list[str] = []
    mended = dict(entry)
    image_id, category_id = (_whole(entry.get(name)) for name in ("image_id", "category_id"))
    if image_id is None or image_id not in frames.image_of:
        raise Hopeless(f"its image {entry.get('image_id')} is not there")
    if category_id is None or category_id not in frames.category_ids:
        raise Hopeless(f"its category {entry.get('category_id')} is not there")
    mended["image_id"], mended["category_id"] = frames.image_of[image_id], category_id
    if mended["image_id"] != image_id:
        done.append(f"put to image {mended['image_id']}")
    own_id = _whole(entry.get("id"))
    if own_id is None or kinds & {"duplicate-annotation", "annotation-id-0"}:
        own_id = frames.new_id()
        done.append(f"given the id {own_id}")
    mended["id"] = own_id
    height, width = frames.size_of[mended["image_id"]]
    _mend_mask(mended, kinds, height, width, done)
    if not done and mended == entry:
        return entry, ""
    return mended, ", ".join(done) or "its fields written as numbers"


def _mend_mask(
    mended: Entry, kinds: AbstractSet[str], height: int, width: int, done: list[str]
) -> None:
    """Mask, crowd flag, box and area."""
    mask, what = _sound_mask(mended.get("segmentation"), kinds, height, width)
    changed = bool(what)
    done += what
    try:
        rle = segmentation_to_rle(mask, height, width)
        bitmap = rle_to_bitmap(rle, height, width)
    except DataError as error:
        raise Hopeless(error.what) from None
    pixels = int(np.count_nonzero(bitmap))
    if not pixels:
        raise Hopeless("its mask covers no pixel")
    flag = mended.get("iscrowd", 0)
    crowd = int(bool(_whole(flag)) and not ("crowd-flag" in kinds and isinstance(mask, list)))
    if type(flag) is not int or flag != crowd:
        done.append(f"iscrowd set to {crowd}")
    if crowd and isinstance(mask, list):
        mask = {"size": [height, width], "counts": rle}
        done.append("its polygons written as run lengths")
    mended["segmentation"], mended["iscrowd"] = mask, crowd
    box = mended.get("bbox")
    if changed or kinds & BOX_KINDS or not _is_box(box):
        mended["bbox"] = _box(mask, bitmap, height, width)
        if mended["bbox"] != box:
            done.append("its box taken from the mask")
    area = mended.get("area")
    if changed or kinds & AREA_KINDS or not _is_number(area):
        mended["area"] = pixels
        if area != pixels:
            done.append("its area taken from the mask")


def _sound_mask(
    given: Any, kinds: AbstractSet[str], height: int, width: int
) -> tuple[Any, list[str]]:
    """The mask without polygons that cannot be drawn, and what was done."""
    if isinstance(given, Mapping):
        return dict(given), []
    if not isinstance(given, list) or not given:
        raise Hopeless("it has no mask")
    polygons = [given] if all(_is_number(v) for v in given) else given
    kept = list(_sound_polygons(polygons))
    if "polygon-outside" in kinds:
        kept = [_clipped(polygon, width, height) for polygon in kept]
    if kinds & {"polygon-outside", "polygon-flat"} and len(kept) > 1:
        kept = [polygon for polygon in kept if len(polygon) >= 6 and _encloses(polygon)]
    kept = [polygon for polygon in kept if len(polygon) >= 6]
    if not kept:
        raise Hopeless("none of its polygons can be drawn")
    if kept == given:
        return given, []
    if len(kept) < len(polygons):
        return kept, [f"{len(polygons) - len(kept)} of {len(polygons)} polygons removed"]
    inside = "polygon-outside" in kinds
    return kept, ["its polygons cut at the border" if inside else "its polygons written as lists"]


def _sound_polygons(polygons: list[Any]) -> Iterator[list[float]]:
    """Those that can be drawn, pairs of numbers made flat."""
    for polygon in polygons:
        if not isinstance(polygon, list):
            continue
        flat = polygon
        if polygon and all(isinstance(p, list) and len(p) == 2 for p in polygon):
            flat = [value for point in polygon for value in point]
        drawable = len(flat) >= 6 and len(flat) % 2 == 0 and all(_is_number(v) for v in flat)
        if drawable and max(map(abs, flat)) <= MAX_OUTLINE_PX:
            yield flat


def _clipped(polygon: list[float], width: int, height: int) -> list[float]:
    """What of a polygon lies in the image (Sutherland and Hodgman, 1974)."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        before, points = points, []
        for k, (start, end) in enumerate(zip(before[-1:] + before[:-1], before, strict=True)):
            first, last = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if first * last < 0:
                t = first / (first - last)
                cut = [a + t * (b - a) for a, b in zip(start, end, strict=True)]
                cut[axis] = limit
                points.append((round(cut[0], 3), round(cut[1], 3)))
            if last >= 0:
                points.append(before[k])
    return [value for point in points for value in point]


def _encloses(polygon: list[float]) -> bool:
    x, y = np.asarray(polygon[::2]), np.asarray(polygon[1::2])
    x, y = x - x[0], y - y[0]
    return bool(np.dot(x, np.roll(y, -1)) != np.dot(y, np.roll(x, -1)))


def _box(mask: Any, bitmap: Any, height: int, width: int) -> list[float]:
    """Around the corners of polygons, as COCO has it; around pixels where that is too thin."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    low, high = (int(columns[0]), int(rows[0])), (int(columns[-1]) + 1, int(rows[-1]) + 1)
    if isinstance(mask, list):
        corners = np.concatenate([np.asarray(p, np.float64) for p in mask]).reshape(-1, 2)
        corners = np.clip(corners, 0, (width, height))
        if (np.ptp(corners, axis=0) >= 1).all():
            low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return [low[0], low[1], round(high[0] - low[0], 3), round(high[1] - low[1], 3)]


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> int | None:
    """A whole number, however it is written; None if it is none."""
    if isinstance(value, bool):
        return int(value)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 and (isinstance(value, str) or number == value) else None
