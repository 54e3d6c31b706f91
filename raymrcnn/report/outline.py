"""The outline of a mask as an SVG path, so that overlays stay sharp at any size.

Borders between pixels are followed, and then simplified: for showing, not for measuring.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.masks import Bitmap, rle_to_bitmap
from raymrcnn.tracing import loops

_TRACE_PX = (720, 360, 180, 90)  # masks are traced at no more than this long a side
_MOST_EDGES = 12_000  # between pixels in and out; a mask with more is ragged, and traced coarser
_TOLERANCE_PX = 0.8  # as far as an outline may go astray, enough to cut the corners of pixels

_Points = npt.NDArray[np.float64]


def rle_path(rle: str, height: int, width: int, scale: float, max_chars: int = 20_000) -> str:
    """The path data of a mask; fill it by the even-odd rule. Empty if the mask is.

    Args:
        rle: compressed counts of the mask.
        height: of the mask, pixels.
        width: of the mask, pixels.
        scale: units of the drawing for each pixel.
        max_chars: the most; a ragged mask is traced coarser, and then loses its smallest parts.

    Raises:
        DataError: the string is malformed or of another size.
    """
    if max_chars <= 0:
        return ""
    words: list[str] = []
    for trace_px in _TRACE_PX:
        borders = _borders(rle, height, width, trace_px)
        if borders is None:
            continue
        words = [
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (border * scale).tolist()) + "Z"
            for border in borders
        ]
        if sum(map(len, words)) <= max_chars:
            return "".join(words)
    kept, room = [], max_chars
    for word in sorted(words, key=len, reverse=True):
        if len(word) <= room:
            room -= len(word)
            kept.append(word)
    return "".join(kept)


@functools.lru_cache(maxsize=2048)  # a page may be written at several sizes
def _borders(rle: str, height: int, width: int, trace_px: int) -> tuple[_Points, ...] | None:
    """The simplified borders in pixels of the mask; None where it is too ragged for this size."""
    bitmap = _at_most(rle_to_bitmap(rle, height, width), trace_px)
    if trace_px != _TRACE_PX[-1] and _num_edges(bitmap) > _MOST_EDGES:
        return None
    to_pixels = np.array([width / bitmap.shape[1], height / bitmap.shape[0]])
    simple = (simplify(loop, _TOLERANCE_PX) for loop in loops(bitmap))
    return tuple(points * to_pixels for points in simple if len(points) >= 3)


def _at_most(bitmap: Bitmap, side_px: int) -> Bitmap:
    """The mask with a longer side of at most so many pixels."""
    height, width = bitmap.shape
    shrink = min(1.0, side_px / max(height, width))
    if shrink == 1.0:
        return bitmap
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    image = Image.fromarray(np.ascontiguousarray(bitmap * 255))
    small = image.resize(size, Image.Resampling.BOX)
    return (np.asarray(small) >= 128).astype(np.uint8)


def _num_edges(bitmap: Bitmap) -> int:
    inside = bitmap > 0
    down, right = inside[1:] != inside[:-1], inside[:, 1:] != inside[:, :-1]
    return int(down.sum()) + int(right.sum())


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
