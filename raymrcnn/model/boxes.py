"""Boxes whose width may count one pixel more: decoding, clipping, overlap, suppression.

Where `extra_width` is 1, x2 and y2 are the last pixels that belong to a box. Moved by it, such a
box ends where torchvision's does, so torchvision's own functions do the work; where it is 0 they
give their own bits. Boxes are [n, 4] XYXY float32 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops.boxes import batched_nms, box_iou

from raymrcnn.model.conventions import Weights4


class WideBoxCoder(BoxCoder):  # type: ignore[misc]  # torchvision has no types
    """torchvision's BoxCoder for boxes with an extra width.

    Args:
        weights: of the x, y, width and height deltas.
        max_log_size_delta: the width and height deltas are cut at.
        extra_width: see the module.
    """

    def __init__(self, weights: Weights4, max_log_size_delta: float, extra_width: float) -> None:
        super().__init__(weights, max_log_size_delta)
        self.extra_width = extra_width

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Deltas [n, 4] that lead from proposals to reference boxes."""
        extra = self.extra_width
        deltas: Tensor = super().encode_single(
            ended(reference_boxes, extra), ended(proposals, extra)
        )
        return deltas

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes [n, 4 * k] that deltas [n, 4 * k] lead to from boxes [n, 4]."""
        extra = self.extra_width
        decoded: Tensor = super().decode_single(rel_codes, ended(boxes, extra))
        if extra:
            decoded[:, 2::4] -= extra
            decoded[:, 3::4] -= extra
        return decoded


def ended(boxes: Tensor, extra_width: float) -> Tensor:
    """The boxes with x2 and y2 where they end; [..., 4]."""
    if not extra_width:
        return boxes
    return boxes + boxes.new_tensor([0.0, 0.0, extra_width, extra_width])


def to_last_pixels(boxes: Tensor, extra_width: float) -> Tensor:
    """Boxes [n, 4] that end at x2 and y2, as they are written with an extra width.

    Source: maskrcnn-benchmark, structures/bounding_box.py, _split_into_xyxy of "xywh".
    """
    if not extra_width:
        return boxes
    return torch.cat((boxes[:, :2], (boxes[:, 2:] - extra_width).maximum(boxes[:, :2])), dim=1)


def last_places(image_sizes: Sequence[tuple[int, int]], like: Tensor, extra_width: float) -> Tensor:
    """The largest (x1, y1, x2, y2) in each image of (height, width); [images, 4] as `like` is."""
    ends = [(width, height, width, height) for height, width in image_sizes]
    return like.new_tensor(ends) - extra_width


def clip(boxes: Tensor, last: Tensor) -> Tensor:
    """Boxes [..., 4] cut at the edges of their images, which `last_places` says."""
    return boxes.clamp(min=0).minimum(last)


def scale_factors(sizes: Sequence[tuple[int, int]], new_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """What boxes in images of (height, width) are multiplied by in such of new sizes.

    Float32 [images, 4], on the host. The same bits as in torchvision's `resize_boxes`.
    """
    old, new = (torch.tensor(of, dtype=torch.float32).reshape(-1, 2) for of in (sizes, new_sizes))
    return (new / old)[:, [1, 0, 1, 0]]


def are_as_wide(boxes: Tensor, side: float, extra_width: float) -> Tensor:
    """Which boxes [..., 4] have at least this width and height; bool [...]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides + extra_width >= side).all(dim=-1)


def crosses_edge(boxes: Tensor, image_size: tuple[int, int], extra_width: float) -> Tensor:
    """Which boxes are not wholly inside an image of (height, width); bool [n]."""
    ends = ended(boxes, extra_width)
    last = boxes.new_tensor([image_size[1], image_size[0]])
    return (boxes[:, :2] < 0).any(dim=1) | (ends[:, 2:] >= last + extra_width).any(dim=1)


def iou(first: Tensor, second: Tensor, extra_width: float) -> Tensor:
    """Overlaps [n, m] between 0 and 1."""
    overlap: Tensor = box_iou(ended(first, extra_width), ended(second, extra_width))
    return overlap


def suppressed(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    threshold: float,
    *,
    extra_width: float,
    drops_equal: bool,
) -> Tensor:
    """Indices of the boxes that overlap no better one of their group, best first.

    Args:
        boxes: [n, 4].
        scores: [n].
        groups: [n] int64; boxes of two groups do not suppress each other.
        threshold: of the overlap; it takes more than this to be dropped.
        extra_width: see the module.
        drops_equal: or exactly this, in float32.
    """
    if drops_equal:
        threshold = float(np.nextafter(np.float32(threshold), np.float32(0)))
    kept: Tensor = batched_nms(ended(boxes, extra_width), _ranks(scores), groups, threshold)
    return kept


def _ranks(scores: Tensor) -> Tensor:
    """Numbers above 0 in the order of the scores, equal ones in the order they come.

    Scores may be logits. torch_mlu hands its nms a least confidence of 0, below which a box may
    count for nothing (csrc/aten/operators/mluop/nms_internal.cpp); elsewhere only the order counts.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    ranks = torch.empty_like(scores, dtype=torch.float32)
    ranks[order] = torch.arange(len(scores), 0, -1, dtype=torch.float32, device=scores.device)
    return ranks


def without_area(boxes: Tensor) -> Tensor:
    """Which boxes have no width or no height; bool [n]."""
    return ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)
