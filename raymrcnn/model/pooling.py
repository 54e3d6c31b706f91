"""RoIAlign over the levels of a feature pyramid.

torchvision's MultiScaleRoIAlign guesses the strides from the first batch that it sees and keeps the
guess, which is wrong when that batch is a small image with much padding; and it cannot align.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from raymrcnn.model.suppression import image_numbers


class PyramidPool(nn.Module):
    """Pool each box from the one level that suits its size.

    Args:
        strides: pixels of the input per cell, one a level, as powers of two in increasing order;
            level i of the features is the i-th in the mapping.
        output_size: cells a side.
        sampling_ratio, aligned: as in torchvision's roi_align.
        canonical_side, canonical_level, level_eps: a box of area canonical_side^2 is pooled from
            level canonical_level (level n has stride 2^n). Source: FPN paper, equation 1.
        level_eps_in_log: whether level_eps is added before the logarithm, or after.
        extra_width: see boxes.py.
    """

    def __init__(
        self,
        strides: Sequence[int],
        output_size: int,
        *,
        sampling_ratio: int,
        aligned: bool,
        canonical_side: float,
        canonical_level: int,
        level_eps: float,
        level_eps_in_log: bool = False,
        extra_width: float = 0.0,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.output_size = (output_size, output_size)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.canonical_side = canonical_side
        self.canonical_level = canonical_level
        self.level_eps = level_eps
        self.level_eps_in_log = level_eps_in_log
        self.extra_width = extra_width
        self.min_level = strides[0].bit_length() - 1

    def forward(
        self,
        features: Mapping[str, Tensor],
        boxes: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        """Pool.

        Args:
            features: level name -> [batch, channels, height, width], finest level first; levels
                beyond the strides are not pooled from.
            boxes: an image each, [n, 4] XYXY in resized pixels.
            image_sizes: not needed; here because RoIHeads passes it.

        Returns:
            [sum of n, channels, output_size, output_size]
        """
        levels = list(features.values())[: len(self.strides)]
        every = torch.cat(boxes)
        images = image_numbers([len(of) for of in boxes], every.device)
        rois = torch.cat((images[:, None].to(every.dtype), every), dim=1)
        level_of = self.level_of(rois[:, 1:])
        pooled = levels[0].new_zeros((len(rois), levels[0].shape[1], *self.output_size))
        for i, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            chosen = torch.where(level_of == i)[0]
            pooled[chosen] = roi_align(
                level,
                rois[chosen],
                self.output_size,
                1.0 / stride,
                self.sampling_ratio,
                self.aligned,
            ).to(pooled.dtype)
        return pooled  # [num_rois, channels, output_size, output_size]

    def level_of(self, boxes: Tensor) -> Tensor:
        """Index into `strides` for each of [n, 4] boxes; [n] int64."""
        sides = boxes[:, 2:] - boxes[:, :2] + self.extra_width
        ratio = torch.sqrt(sides[:, 0] * sides[:, 1]) / self.canonical_side
        if self.level_eps_in_log:
            level = torch.floor(self.canonical_level + torch.log2(ratio + self.level_eps))
        else:
            level = torch.floor(self.canonical_level + torch.log2(ratio) + self.level_eps)
        # Clamped while a float: an empty box is at level minus infinity.
        level = level.sub_(self.min_level).clamp_(0, len(self.strides) - 1)
        return level.to(torch.int64)
