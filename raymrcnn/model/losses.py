"""The five losses as sums and the numbers they are divided by.

Kept apart until the numbers of all workers, and of all pieces of an accumulated batch, are added
up: then a step is the same however its batch is shared out. Divided at once, they are torchvision's
losses (rpn.py, compute_loss; roi_heads.py, fastrcnn_loss and maskrcnn_loss).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align

from raymrcnn.model.outlines import cells_inside
from raymrcnn.model.sampling import Sample
from raymrcnn.structures import Outlines

LOSSES = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
    "loss_mask",
)
NUM_COUNTS = 3  # sampled anchors, sampled proposals, positive proposals
# Which count each of LOSSES is divided by.
_COUNT_OF_LOSS = (0, 0, 1, 1, 2)


class LossSums(NamedTuple):
    """What one forward pass gives in training."""

    sums: Tensor  # [5] float32 in the order of LOSSES, with the graph
    counts: Tensor  # [3] float32: sampled anchors, sampled proposals, positive proposals


def divided(sums: Tensor, counts: Tensor) -> Tensor:
    """The losses [5] from their sums [5] and counts [3]; 0 where nothing was counted."""
    return sums / counts[list(_COUNT_OF_LOSS)].clamp(min=1.0)


def proposal_sums(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    matched_boxes: Tensor,
    sample: Sample,
    coder: BoxCoder,
    beta: float,
) -> Tensor:
    """Sums of the losses of objectness and of anchor deltas, float32 [2].

    Args:
        objectness: [batch, anchors] logits.
        deltas: [batch, anchors, 4].
        anchors: [anchors, 4] XYXY, the same in each image.
        matched_boxes: [batch, anchors, 4] XYXY: the object of each anchor, anything without one.
        sample: of the anchors.
        coder: boxes to deltas.
        beta: where the box loss turns from square to straight.
    """
    positive = objectness.gather(1, sample.positives)
    negative = objectness.gather(1, sample.negatives)
    objectness_sum = _masked_sum(F.softplus(-positive), sample.is_positive) + _masked_sum(
        F.softplus(negative), sample.is_negative
    )
    places = sample.positives[..., None].expand(-1, -1, 4)
    chosen = anchors[sample.positives]
    # An unused place is matched with itself: deltas of 0, and no infinity to be masked.
    matched = torch.where(sample.is_positive[..., None], matched_boxes.gather(1, places), chosen)
    (expected,) = coder.encode([matched.flatten(0, 1)], [chosen.flatten(0, 1)])
    found = deltas.gather(1, places).flatten(0, 1)
    errors = F.smooth_l1_loss(found, expected, beta=beta, reduction="none").sum(1)
    return torch.stack((objectness_sum, _masked_sum(errors, sample.is_positive.flatten())))


def box_sums(
    logits: Tensor, deltas: Tensor, labels: Tensor, expected: Tensor, beta: float
) -> Tensor:
    """Sums of the losses of classes and of box deltas, float32 [2].

    Args:
        logits: [num_rois, 1 + classes].
        deltas: [num_rois, 1 + classes, 4].
        labels: [num_rois] int64, 0 for background.
        expected: [num_rois, 4] deltas to the object of each.
        beta: where the box loss turns from square to straight.
    """
    class_sum = F.cross_entropy(logits, labels, reduction="sum")
    positive = torch.where(labels > 0)[0]
    found = deltas[positive, labels[positive]]
    box_sum = F.smooth_l1_loss(found, expected[positive], beta=beta, reduction="sum")
    return torch.stack((class_sum, box_sum))


def mask_sum(
    logits: Tensor,
    boxes: list[Tensor],
    masks: list[Tensor | Outlines],
    matched: list[Tensor],
    labels: Tensor,
    aligned: bool,
    threshold: float | None,
) -> Tensor:
    """The mask loss of each positive proposal, its mean over the cells, summed; a scalar.

    Args:
        logits: [positives, 1 + classes, side, side].
        boxes: an image each, [positives of it, 4] XYXY in resized pixels.
        masks: an image each, [objects, height, width] or outlines, in the resized image.
        matched: an image each, [positives of it] int64: its object.
        labels: [positives] int64.
        aligned: whether boxes are moved by half a pixel when masks are cut out by RoIAlign.
        threshold: what is cut out becomes 1 where it reaches this, else 0; None: it stays.
    """
    side = logits.shape[-1]
    expected = [
        _cut_out(mask, box, index, side, aligned)
        for mask, box, index in zip(masks, boxes, matched, strict=True)
        if len(box)
    ]
    if not expected:
        return logits.sum() * 0.0
    inside = torch.cat(expected)
    if threshold is not None:
        inside = (inside >= threshold).to(inside.dtype)
    found = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(found, inside, reduction="sum") / side**2


def _cut_out(
    masks: Tensor | Outlines, boxes: Tensor, matched: Tensor, side: int, aligned: bool
) -> Tensor:
    """The part [n, side, side] of the matched mask that lies in each box."""
    if isinstance(masks, Outlines):
        return cells_inside(masks, boxes, matched, side)
    rois = torch.cat((matched[:, None].to(boxes), boxes), dim=1)
    cells: Tensor = roi_align(masks[:, None].to(rois), rois, (side, side), 1.0, -1, aligned)
    return cells[:, 0]


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, values.new_zeros(())).sum()
