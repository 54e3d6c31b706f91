"""One outline for an object of several parts or with holes, as YOLO's files want it.

Parts are joined by cuts of no width that lead to them and back. Filled as COCO fills a polygon, the
two sides of a cut cancel, so that the pixels stay the same; that is checked, and where parts
overlap the borders of the pixels are followed instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raymrcnn.data.foreign.records import Shape
from raymrcnn.masks import polygon_corners, rle_to_bitmap, segmentation_to_rle
from raymrcnn.tracing import loops

_Points = npt.NDArray[np.float64]  # [num_corners, 2] x, y, pixels


def one_outline(shape: Shape, width: int, height: int, where: str) -> _Points:
    """The outline of an object, [num_corners, 2] x, y in pixels; empty where it has no pixel.

    Raises:
        DataError: the object is malformed.
    """
    if shape.rle:
        return joined(loops(rle_to_bitmap(shape.rle, height, width, where)))
    parts = polygon_corners(shape.polygons, where)
    if len(parts) == 1:
        return parts[0]
    outline = joined(parts)
    whole = segmentation_to_rle([p.ravel() for p in parts], height, width, where)
    if segmentation_to_rle([outline.ravel()], height, width, where) == whole:
        return outline
    return joined(loops(rle_to_bitmap(whole, height, width, where)))


def joined(parts: Sequence[_Points]) -> _Points:
    """Closed lines as one, by cuts between the corners that are closest."""
    if not parts:
        return np.zeros((0, 2))
    outline = parts[0]
    for part in parts[1:]:
        distance = ((outline[:, None] - part[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        outline = np.concatenate([outline[: i + 1], part[j:], part[: j + 1], outline[i:]])
    return outline
