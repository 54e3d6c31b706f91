"""Polygons of a whole annotation file, measured in arrays: sizes, extents, areas, crossings.

A polygon is sound if it can be drawn; others are told apart here and measured as nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymrcnn.data.check.crossing import crossing
from raymrcnn.data.coco_columns import Segmentations

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_OUTLINE_PX = 2_000_000  # as in `masks`: no drawn outline is longer
_AT_ONCE = 20_000  # polygons: what is in between stays small


@dataclass(frozen=True, kw_only=True)
class PolygonMeasures:
    """[num_polygons] each, in the order of the file; of those that are not sound 0."""

    num_numbers: Ints
    too_long: Flags
    sound: Flags
    crossing: Flags
    areas: Floats  # enclosed, square pixels
    perimeters: Floats  # pixels
    extents: Floats  # [num_polygons, 4] XYXY pixels


def measure_polygons(masks: Segmentations) -> PolygonMeasures:
    """Measure all polygons of a file."""
    num_numbers = np.diff(masks.polygon_ends)
    num = len(num_numbers)
    sound = (num_numbers >= 6) & (num_numbers % 2 == 0)
    found = PolygonMeasures(
        num_numbers=num_numbers,
        too_long=np.zeros(num, np.bool_),
        sound=sound,
        crossing=np.zeros(num, np.bool_),
        areas=np.zeros(num),
        perimeters=np.zeros(num),
        extents=np.zeros((num, 4)),
    )
    for start in range(0, num, _AT_ONCE):
        rows = np.flatnonzero(sound[start : start + _AT_ONCE]) + start
        if len(rows):
            _measure(masks, rows, found)
    return found


def _measure(masks: Segmentations, rows: Ints, found: PolygonMeasures) -> None:
    """Fill in what is found of sound polygons of these rows."""
    sizes = found.num_numbers[rows]
    begin = masks.polygon_ends[rows]
    if rows[-1] - rows[0] + 1 == len(rows):
        numbers = masks.coordinates[begin[0] : begin[-1] + sizes[-1]]
    else:
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers = masks.coordinates[np.repeat(begin, sizes) + inside]
    corners = numbers.reshape(-1, 2)
    ends = np.concatenate(([0], np.cumsum(sizes // 2)))
    starts = ends[:-1]
    low = np.minimum.reduceat(corners, starts, axis=0)
    high = np.maximum.reduceat(corners, starts, axis=0)
    following = np.arange(1, len(corners) + 1)
    following[ends[1:] - 1] = starts
    away = corners - np.repeat(low, sizes // 2, axis=0)  # small numbers: no digits are lost
    with np.errstate(all="ignore"):
        step = away[following] - away
        twice = away[:, 0] * step[:, 1] - away[:, 1] * step[:, 0]
        lengths = np.abs(step).max(axis=1)
        far = (np.maximum(np.abs(low), np.abs(high)).max(axis=1) > MAX_OUTLINE_PX) | (
            np.add.reduceat(lengths, starts) > MAX_OUTLINE_PX
        )
        found.areas[rows] = np.abs(np.add.reduceat(twice, starts)) / 2
        found.perimeters[rows] = np.add.reduceat(np.hypot(step[:, 0], step[:, 1]), starts)
    found.extents[rows] = np.concatenate((low, high), axis=1)
    found.crossing[rows] = crossing(corners, ends) & ~far
    found.too_long[rows], found.sound[rows] = far, ~far
