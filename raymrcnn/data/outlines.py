"""Outlines of objects, as tensors: what a mask in the form of polygons or runs encloses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from raymrcnn.data.coco import Segmentation
from raymrcnn.masks import polygon_corners, rle_to_bitmap, segmentation_to_rle
from raymrcnn.structures import Outlines

_Edges = npt.NDArray[np.float32]  # [n, 4] x1, y1, x2, y2


def outlines_of(
    segmentations: Sequence[Segmentation], names: Sequence[str], height: int, width: int
) -> Outlines:
    """The outlines of an image's objects; pixels.

    Args:
        segmentations: an object each, in any of COCO's forms.
        names: what an error calls each.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        DataError: a mask is malformed.
    """
    parts: list[_Edges] = []
    objects: list[int] = []
    for k, (given, name) in enumerate(zip(segmentations, names, strict=True)):
        if isinstance(given, list):
            found = [_closed(corners) for corners in polygon_corners(given, name)]
        else:
            rle = segmentation_to_rle(given, height, width, name)
            found = [_borders(rle_to_bitmap(rle, height, width, name))]
        parts += found
        objects += [k] * len(found)
    sizes = [len(part) for part in parts]
    edges = np.concatenate(parts) if parts else np.zeros((0, 4), np.float32)
    return Outlines(
        edges=torch.from_numpy(edges),
        part_of_edge=torch.from_numpy(np.repeat(np.arange(len(parts)), sizes)),
        object_of_part=torch.tensor(objects, dtype=torch.int64),
    )


def _closed(corners: npt.NDArray[np.float64]) -> _Edges:
    edges = np.concatenate((corners, np.roll(corners, -1, axis=0)), axis=1)
    return edges.astype(np.float32)


def _borders(bitmap: npt.NDArray[np.uint8]) -> _Edges:
    """The upright borders between pixels inside and outside, each as long as it is straight.

    The level ones are left out: no line to the right crosses them.
    """
    padded = np.pad(bitmap, ((0, 0), (1, 1)))
    border = padded[:, 1:] != padded[:, :-1]  # [height, width + 1]
    change = np.diff(np.pad(border, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    x, begin = np.nonzero(change == 1)
    _, end = np.nonzero(change == -1)
    return np.stack((x, begin, x, end), axis=1).astype(np.float32)
