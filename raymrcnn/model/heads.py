"""torchvision's heads with what they lack: float32 results under mixed precision, named limits.

Under autocast torchvision decodes boxes in the low precision; bfloat16 has steps of 4 pixels at
1000. Here the predictors' results become float32 before anything is decoded, sorted or compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.boxes import batched_nms, clip_boxes_to_image


class ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPNHead with float32 results."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness [batch, anchors, h, w] and deltas [batch, 4 * anchors, h, w] per level."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's FastRCNNPredictor with float32 results."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [num_rois, 1 + classes] and deltas [num_rois, 4 * (1 + classes)]."""
        logits, deltas = super().forward(x)
        return logits.float(), deltas.float()


class MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's MaskRCNNPredictor with float32 results."""

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits [num_rois, 1 + classes, 28, 28]."""
        logits: Tensor = super().forward(x)
        return logits.float()


class BoxAndMaskHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads, decoding only the boxes that score.

    Args:
        min_box_side: a detection must be as wide and as high; resized pixels.
        others: as RoIHeads takes them.
    """

    def __init__(self, *, min_box_side: float, **others: Any) -> None:
        super().__init__(**others)
        self.min_box_side = min_box_side

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes [n, 4] in resized pixels, scores [n] and labels [n] of each image, best first.

        The same arithmetic on each kept box as in torchvision, so the same bits; torchvision
        decodes every proposal for every class (91000 boxes an image) and then drops most.
        """
        counts = [len(p) for p in proposals]
        scores = F.softmax(class_logits, -1)[:, 1:]  # [num_rois, classes]
        deltas = box_regression.reshape(len(scores), -1, 4)[:, 1:]  # [num_rois, classes, 4]
        split = torch.split_with_sizes
        kept = zip(
            split(scores, counts), split(deltas, counts), proposals, image_shapes, strict=True
        )
        results = [self._detections_of_image(*image) for image in kept]
        boxes, best_scores, labels = (list(column) for column in zip(*results, strict=True))
        return boxes, best_scores, labels

    def _detections_of_image(
        self, scores: Tensor, deltas: Tensor, proposals: Tensor, image_shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        roi, label = torch.where(scores > self.score_thresh)
        boxes = self.box_coder.decode_single(deltas[roi, label], proposals[roi])
        boxes = clip_boxes_to_image(boxes, image_shape)
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = torch.where((sides >= self.min_box_side).all(dim=1))[0]
        boxes, found, labels = boxes[kept], scores[roi, label][kept], label[kept] + 1
        best = batched_nms(boxes, found, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[best], found[best], labels[best]
