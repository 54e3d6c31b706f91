"""The borders of a bitmap, pixel by pixel: they enclose these pixels and no others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymrcnn.masks import Bitmap

_Points = npt.NDArray[np.float64]


def loops(bitmap: Bitmap) -> list[_Points]:
    """The borders of a bitmap [height, width], each [num_corners, 2] x, y in pixels, closed.

    Corners lie where pixels meet: the border of pixel (0, 0) goes from (0, 0) to (1, 1).
    """
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inner = np.pad(bitmap[top : rows[-1] + 1, left : columns[-1] + 1] > 0, 1)
    following = _edges(inner)
    stride = inner.shape[1]
    found = []
    while following:
        start = next(iter(following))
        corners, at, heading = [], start, 0
        while at in following:
            ends = following[at]
            # Where two borders touch at a corner, keep to one side: turn rather than cross.
            end = ends.pop() if len(ends) == 1 or ends[-1] - at != heading else ends.pop(0)
            if not ends:
                del following[at]
            if end - at != heading:
                corners.append(at)
            heading, at = end - at, end
        place = np.asarray(corners)
        found.append(
            np.stack([place % stride - 1 + left, place // stride - 1 + top], 1).astype(np.float64)
        )
    return found


def _edges(inner: npt.NDArray[np.bool_]) -> dict[int, list[int]]:
    """Corner to next corners, numbered row by row, with the mask at the right hand."""
    stride = inner.shape[1]
    here = inner[1:-1, 1:-1]
    y, x = np.indices(here.shape).reshape(2, -1)
    corner = ((y + 1) * stride + x + 1).reshape(here.shape)
    following: dict[int, list[int]] = {}
    for neighbour, start, end in (
        (inner[:-2, 1:-1], 0, 1),  # nothing above: rightwards along the upper border
        (inner[1:-1, 2:], 1, stride + 1),
        (inner[2:, 1:-1], stride + 1, stride),
        (inner[1:-1, :-2], stride, 0),
    ):
        at = corner[here & ~neighbour]
        for a, b in zip((at + start).tolist(), (at + end).tolist(), strict=True):
            following.setdefault(a, []).append(b)
    return following
