"""Anchors of a pyramid, as each program lays them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from raymrcnn.model.conventions import Conventions


class PyramidAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """torchvision's AnchorGenerator with named roundings, centres and strides.

    Args:
        sizes: side of the square anchor of each level, pixels.
        aspect_ratios: height / width.
        strides: pixels a cell of each level.
        sheet: rounding, centre, stride and extra width.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        sheet: Conventions,
    ) -> None:
        super().__init__(tuple((s,) for s in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.stride_from_grid = sheet.anchor_stride_from_grid
        self.cell_anchors = [
            cell_anchors(size, aspect_ratios, stride, sheet)
            for size, stride in zip(sizes, strides, strict=True)
        ]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """[anchors, 4] XYXY for each image: by level, row, column and aspect ratio."""
        if self.stride_from_grid:
            first_alone = ImageList(image_list.tensors, image_list.image_sizes[:1])
            (anchors,) = super().forward(first_alone, feature_maps)
            return [anchors] * len(image_list.image_sizes)
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        grids = [list(level.shape[-2:]) for level in feature_maps]
        of_all = torch.cat(self.grid_anchors(grids, [(s, s) for s in self.strides]))
        return [of_all] * len(image_list.image_sizes)


def cell_anchors(
    size: float, aspect_ratios: Sequence[float], stride: int, sheet: Conventions
) -> Tensor:
    """[ratios, 4] float32 XYXY of the anchors of the cell at the origin.

    "corners" rounds half widths and heights; "cell" rounds the sides of a box of the cell's own
    area and scales that; "none" rounds nothing.
    """
    ratios = np.asarray(aspect_ratios, np.float64)
    base = float(stride) if sheet.anchor_rounding == "cell" else float(size)
    width = np.sqrt(base * base / ratios)
    if sheet.anchor_rounding == "cell":
        width = np.round(width)
        height = np.round(width * ratios)
        width *= size / stride
        height *= size / stride
    else:
        height = width * ratios
    half = np.stack((-width, -height, width, height), axis=1) / 2
    if sheet.anchor_rounding == "corners":
        half = np.round(half)
    corners = half + sheet.anchor_centre * stride
    corners[:, 2:] -= sheet.extra_width
    return torch.from_numpy(corners.astype(np.float32))
