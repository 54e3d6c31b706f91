"""The outline of a mask as an SVG path, so that overlays stay sharp at any size.

Borders between pixels are followed, and then simplified: for showing, not for measuring.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.masks import rle_to_bitmap
from raymrcnn.tracing import loops

_TRACE_PX = (720, 360, 180, 90)  # masks are traced at no more than this long a side
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
    bitmap = rle_to_bitmap(rle, height, width)
    words: list[str] = []
    for trace_px in _TRACE_PX:
        words = _traced(bitmap, trace_px, scale)
        if sum(map(len, words)) <= max_chars:
            return "".join(words)
    kept, room = [], max_chars
    for word in sorted(words, key=len, reverse=True):
        room -= len(word)
        if room < 0:
            break
        kept.append(word)
    return "".join(kept)


def _traced(bitmap: Bitmap, trace_px: int, scale: float) -> list[str]:
    """A closed line for each border."""
    height, width = bitmap.shape
    shrink = min(1.0, trace_px / max(height, width))
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
    return words


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
