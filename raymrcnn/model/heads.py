"""torchvision's heads with what they lack: float32 results under mixed precision, named limits.

Under autocast torchvision decodes boxes in the low precision; bfloat16 has steps of 4 pixels at
1000. Here the predictors' results become float32 before anything is decoded, sorted or compared.
In training these heads sample by the seed of each image and give sums of losses with their counts,
where torchvision draws from the global generator and divides at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

from raymrcnn.model.boxes import are_as_wide, clip, ended, last_places
from raymrcnn.model.losses import box_sums, mask_sum
from raymrcnn.model.proposals import Annotations, Proposals
from raymrcnn.model.sampling import other_keys, sample_balanced
from raymrcnn.model.suppression import best_of_images, image_numbers


class ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPNHead with float32 results."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness [batch, anchors, h, w] and deltas [batch, 4 * anchors, h, w] per level."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's FastRCNNPredictor with float32 results, and boxes of all classes at once.

    Args:
        in_channels: of a pooled box.
        num_classes: background counted.
        class_agnostic: one box for all classes, as in detectron2's FastRCNNOutputLayers
            (modeling/roi_heads/fast_rcnn.py): four deltas, and none of the background's.
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__(in_channels, num_classes)
        if class_agnostic:
            self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [num_rois, 1 + classes] and deltas [num_rois, 1 + classes, 4]."""
        logits, deltas = super().forward(x)
        per_class = deltas.float().unflatten(1, (-1, 4))
        return logits.float(), per_class.expand(-1, logits.shape[1], -1)


class MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's MaskRCNNPredictor with float32 results, and masks of all classes at once.

    Args:
        in_channels: of a pooled box.
        channels: between its two layers.
        num_classes: background counted.
        class_agnostic: one mask for all classes, as in detectron2's MaskRCNNConvUpsampleHead
            (modeling/roi_heads/mask_head.py).
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, class_agnostic: bool = False
    ) -> None:
        super().__init__(in_channels, channels, 1 if class_agnostic else num_classes)
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Mask logits [num_rois, 1 + classes, 28, 28]."""
        logits: Tensor = super().forward(x)
        return logits.float().expand(-1, self.num_classes, -1, -1)


class BoxAndMaskHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads: seeded sampling, sums of losses, decoding only boxes that score.

    Args:
        min_box_side: a detection must be as wide and as high; resized pixels.
        extra_width, drops_equal: see boxes.py.
        box_beta: where the loss of the deltas turns from square to straight.
        mask_target_aligned, mask_target_threshold: see conventions.py.
        others: as RoIHeads takes them.
    """

    def __init__(
        self,
        *,
        min_box_side: float,
        extra_width: float,
        drops_equal: bool,
        box_beta: float,
        mask_target_aligned: bool,
        mask_target_threshold: float | None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.min_box_side = min_box_side
        self.extra_width = extra_width
        self.drops_equal = drops_equal
        self.box_beta = box_beta
        self.mask_target_aligned = mask_target_aligned
        self.mask_target_threshold = mask_target_threshold

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Proposals],
        image_sizes: list[tuple[int, int]],
        targets: Annotations,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the three losses [3], and the numbers of sampled and of positive proposals [2].

        Args:
            features: levels of the batch.
            proposals: an image each.
            image_sizes: (height, width) of each resized image.
            targets: an image each.
        """
        rois, matched, labels = self.sampled_rois(proposals, targets)
        # Boxes of an image without objects are all background: any box will do.
        pairs = [
            (target["boxes"] if len(target["boxes"]) else of[:1])[index]
            for target, of, index in zip(targets, rois, matched, strict=True)
        ]
        expected = torch.cat(self.box_coder.encode(pairs, rois))
        all_labels = torch.cat(labels)
        logits, deltas = self.box_predictor(
            self.box_head(self.box_roi_pool(features, rois, image_sizes))
        )
        two = box_sums(logits, deltas, all_labels, expected, self.box_beta)

        positive = [torch.where(of > 0)[0] for of in labels]
        mask_rois = [box[p] for box, p in zip(rois, positive, strict=True)]
        mask_logits = self.mask_predictor(
            self.mask_head(self.mask_roi_pool(features, mask_rois, image_sizes))
        )
        third = mask_sum(
            mask_logits,
            mask_rois,
            [t["masks"] for t in targets],
            [index[p] for index, p in zip(matched, positive, strict=True)],
            all_labels[all_labels > 0],
            self.mask_target_aligned,
            self.mask_target_threshold,
        )
        counts = two.new_tensor([len(all_labels), len(mask_logits)])
        return torch.cat((two, third[None])), counts

    def sampled_rois(
        self, proposals: list[Proposals], targets: Annotations
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes [n, 4], their objects [n] and labels [n] of each image; positives come first.

        The objects themselves are among the candidates, as in Faster R-CNN's own program.
        """
        objects = [target["boxes"] for target in targets]
        candidates = self.add_gt_proposals([p.boxes.detach() for p in proposals], objects)
        matched, labels = self.assign_targets_to_proposals(
            candidates, objects, [target["labels"] for target in targets]
        )
        sampler = self.fg_bg_sampler
        quota = int(sampler.batch_size_per_image * sampler.positive_fraction)
        chosen = []
        for of, proposal in zip(labels, proposals, strict=True):
            keys = other_keys(proposal.keys)[None]
            sample = sample_balanced(of[None], keys, sampler.batch_size_per_image, quota)
            chosen.append(
                torch.cat(
                    (sample.positives[sample.is_positive], sample.negatives[sample.is_negative])
                )
            )
        return tuple(  # type: ignore[return-value]
            [of[c] for of, c in zip(column, chosen, strict=True)]
            for column in (candidates, matched, labels)
        )

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The object [n] and the label [n] of each proposal, by their overlap."""
        extra = self.extra_width
        found: tuple[list[Tensor], list[Tensor]] = super().assign_targets_to_proposals(
            [ended(of, extra) for of in proposals], [ended(of, extra) for of in gt_boxes], gt_labels
        )
        return found

    def detections(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """What `boxes_found` gives, and masks [sum of n, 28, 28] float32 of all, 0 to 1.

        Args:
            features: levels of the batch.
            proposals: an image each, [n, 4] in resized pixels.
            image_sizes: (height, width) of each resized image.
        """
        boxes, scores, labels = self.boxes_found(features, proposals, image_sizes)
        return boxes, scores, labels, self.masks_of(features, boxes, labels, image_sizes)

    def boxes_found(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """As `postprocess_detections`, of these proposals."""
        logits, deltas = self.box_predictor(
            self.box_head(self.box_roi_pool(features, proposals, image_sizes))
        )
        return self.postprocess_detections(logits, deltas, proposals, image_sizes)

    def masks_of(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        """Masks [sum of n, 28, 28] float32, 0 to 1, of boxes [n, 4] with labels [n]."""
        logits = self.mask_predictor(
            self.mask_head(self.mask_roi_pool(features, boxes, image_sizes))
        )
        label = torch.cat(labels)
        masks: Tensor = logits[torch.arange(len(label), device=label.device), label]
        return masks.sigmoid()

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes [n, 4] in resized pixels, scores [n] and labels [n] of each image, best first.

        The same arithmetic on each kept box as in torchvision, so the same bits; torchvision
        decodes every proposal for every class (91000 boxes an image) and then drops most. Logits
        and deltas (`box_regression`) are as `BoxPredictor` gives them.
        """
        counts = [len(p) for p in proposals]
        scores = F.softmax(class_logits, -1)[:, 1:]  # [num_rois, classes]
        deltas = box_regression[:, 1:]  # [num_rois, classes, 4]
        roi, label = torch.where(scores > self.score_thresh)
        image = image_numbers(counts, roi.device)[roi]
        boxes = self.box_coder.decode_single(deltas[roi, label], torch.cat(proposals)[roi])
        last = last_places(image_shapes, boxes, self.extra_width)
        boxes = clip(boxes, last[image])
        kept = torch.where(are_as_wide(boxes, self.min_box_side, self.extra_width))[0]
        boxes, image, labels = boxes[kept], image[kept], label[kept] + 1
        found = scores[roi, label][kept]
        best, numbers = best_of_images(
            boxes,
            found,
            labels,
            image,
            len(proposals),
            self.nms_thresh,
            self.detections_per_img,
            extra_width=self.extra_width,
            drops_equal=self.drops_equal,
        )
        columns = (column[best].split_with_sizes(numbers) for column in (boxes, found, labels))
        return tuple(map(list, columns))  # type: ignore[return-value]
