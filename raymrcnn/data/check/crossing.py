"""Which polygons cross themselves: two of their sides have a point in common that ends neither.

Corners are taken to the thousandth of a pixel, finer than any that is drawn; on that grid the
answer is exact, as all products are whole numbers that float64 holds for polygons of up to
60 000 px. Sides that touch or lie on each other are no crossing: the pixels inside are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_GRID = 1000.0  # steps a pixel
_ALL_PAIRS = 96  # up to so many corners each side is compared with each
_AT_ONCE = 1 << 17  # pairs of sides, so that they stay in a core's cache


def crossing(corners: Floats, ends: Ints) -> Flags:
    """Whether each polygon crosses itself.

    Args:
        corners: [num_corners, 2] XY of all polygons, one after the other, pixels.
        ends: [num_polygons + 1] in corners, the first being 0.

    Returns:
        bool [num_polygons].
    """
    sizes = np.diff(ends)
    grid = np.round((corners - np.repeat(corners[ends[:-1]], sizes, axis=0)) * _GRID)
    found = np.zeros(len(sizes), np.bool_)
    for size in np.unique(sizes).tolist():
        if size < 4:
            continue
        rows = np.flatnonzero(sizes == size)
        if size > _ALL_PAIRS:
            found[rows] = [_long_crosses(grid[ends[k] : ends[k + 1]]) for k in rows]
            continue
        step = max(1, _AT_ONCE // size**2)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            found[part] = _crosses(grid[ends[part][:, None] + np.arange(size)])
    return found


def _crosses(points: Floats) -> Flags:
    """Whether each of several polygons of one size does; points [num, size, 2]."""
    x, y = points[..., 0], points[..., 1]
    side_x, side_y = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    # On which side of the line of side i lies corner k: [num, i, k], twice an area.
    lines = np.stack((side_x, -side_y, side_y * x - side_x * y), axis=2)
    place = lines @ np.stack((y, x, np.ones_like(x)), axis=1)
    apart = np.empty(place.shape, np.bool_)  # the ends of side k lie on either side of line i
    np.less(place[..., :-1] * place[..., 1:], 0, out=apart[..., :-1])
    np.less(place[..., -1] * place[..., 0], 0, out=apart[..., -1])
    crosses: Flags = (apart & apart.transpose(0, 2, 1)).any(axis=(1, 2))
    return crosses


def _long_crosses(points: Floats) -> bool:
    """Whether one polygon of many corners does; only sides that overlap in x are compared."""
    ends = np.roll(points, -1, axis=0)
    order = np.argsort(np.minimum(points[:, 0], ends[:, 0]), kind="stable")
    a, b = points[order], ends[order]
    return any(_pairs_cross(a, b, i, j) for i, j in _overlapping(a, b))


def _overlapping(a: Floats, b: Floats) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of sides whose boxes overlap; sides from a to b, [num, 2], sorted by their least x."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    last = np.searchsorted(low[:, 0], high[:, 0], side="right")
    counts = last - np.arange(len(a)) - 1
    total = np.cumsum(counts)
    start = 0
    while start < len(a):
        begun = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, begun + _AT_ONCE, side="right")))
        num = counts[start:stop]
        i = np.repeat(np.arange(start, stop), num)
        j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(num) - num, num)
        near = (low[i, 1] <= high[j, 1]) & (low[j, 1] <= high[i, 1])
        yield i[near], j[near]
        start = stop


def _pairs_cross(a: Floats, b: Floats, i: Ints, j: Ints) -> bool:
    """Whether a side i crosses its side j."""

    def apart(s: Ints, t: Ints) -> Flags:
        side = b[s] - a[s]
        first, second = a[t] - a[s], b[t] - a[s]
        one = side[:, 0] * first[:, 1] - side[:, 1] * first[:, 0]
        other = side[:, 0] * second[:, 1] - side[:, 1] * second[:, 0]
        opposite: Flags = one * other < 0
        return opposite

    return bool((apart(i, j) & apart(j, i)).any())
