"""The outline of a mask as an SVG path, so that overlays stay sharp at any size.

Borders between pixels are followed, and then simplified: for showing, not for measuring.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.masks import Bitmap, rle_to_bitmap

_TRACE_PX = 720  # masks are traced at no more than this long a side
_TOLERANCE_PX = 0.8  # as far as an outline may go astray, enough to cut the corners of pixels

_Points = npt.NDArray[np.float64]


def rle_path(rle: str, height: int, width: int, scale: float) -> str:
    """The path data of a mask; fill it by the even-odd rule. Empty if the mask is.

    Args:
        rle: compressed counts of the mask.
        height: of the mask, pixels.
        width: of the mask, pixels.
        scale: units of the drawing for each pixel.

    Raises:
        DataError: the string is malformed or of another size.
    """
    bitmap = rle_to_bitmap(rle, height, width)
    shrink = min(1.0, _TRACE_PX / max(height, width))
    if shrink < 1.0:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = Image.fromarray(np.ascontiguousarray(bitmap * 255)).resize(
            size, Image.Resampling.BOX
        )
        bitmap = (np.asarray(small) >= 128).astype(np.uint8)
    to_x, to_y = width / bitmap.shape[1] * scale, height / bitmap.shape[0] * scale
    words = []
    for loop in loops(bitmap):
        points = simplify(loop, _TOLERANCE_PX)
        if len(points) >= 3:
            words.append("M" + "L".join(f"{x * to_x:.1f} {y * to_y:.1f}" for x, y in points) + "Z")
    return "".join(words)


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


def simplify(loop: _Points, tolerance: float) -> _Points:
    """A closed line with fewer corners, nowhere further than `tolerance` from the given one.

    Source: Douglas and Peucker 1973, on the two halves between the most distant corners.
    """
    if len(loop) <= 4:
        return loop
    far = int(((loop - loop[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    stack = [(0, far), (far, len(loop))]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        middle = closed[first + 1 : last]
        chord = closed[last] - closed[first]
        length = float(np.hypot(*chord))
        away = middle - closed[first]
        distance = (
            np.abs(chord[0] * away[:, 1] - chord[1] * away[:, 0]) / length
            if length
            else np.hypot(away[:, 0], away[:, 1])
        )
        furthest = int(distance.argmax())
        if distance[furthest] > tolerance:
            split = first + 1 + furthest
            keep[split] = True
            stack += [(first, split), (split, last)]
    return closed[:-1][keep[:-1]]


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
