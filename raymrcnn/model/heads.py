"""torchvision's heads with what they lack: float32 results under mixed precision, named limits.

Under autocast torchvision decodes boxes in the low precision; bfloat16 has steps of 4 pixels at
1000. Here the predictors' results become float32 before anything is decoded, sorted or compared.
In training these heads sample by the seed of each image and give sums of losses with their counts,
where torchvision draws from the global generator and divides at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops.boxes import batched_nms, clip_boxes_to_image

from raymrcnn.model.losses import box_sums, mask_sum, proposal_sums
from raymrcnn.model.sampling import batch_keys, other_keys, sample_balanced

Annotations = Sequence[dict[str, Tensor]]  # an image each: boxes, labels, masks; resized pixels


class Proposals(NamedTuple):
    """What the first stage hands to the second in training, for one image."""

    boxes: Tensor  # [n, 4] XYXY, resized pixels
    # [n + objects]: of the anchors that they came from, so that their order does not matter,
    # which a rounding error may change; then of the objects.
    keys: Tensor


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


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's RegionProposalNetwork with seeded sampling and sums of losses."""

    smooth_l1_beta = 1 / 9

    def losses(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: Annotations,
        seeds: Sequence[int],
    ) -> tuple[list[Proposals], Tensor, Tensor]:
        """Proposals of each image, sums of both losses [2], and the number of sampled anchors.

        Args:
            images: the padded batch.
            features: its levels.
            targets: an image each.
            seeds: an image each, of the sampling.
        """
        levels = list(features.values())
        objectness, deltas = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        per_level = [level[0].numel() for level in objectness]
        logits, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        kept, places = self.filter_proposals(boxes, logits, images.image_sizes, per_level)

        labels, matched_boxes = self.assign_targets_to_anchors(anchors, targets)
        # Keys beyond the anchors are of the objects, which become proposals too.
        num_anchors, most_objects = len(anchors[0]), max(len(t["boxes"]) for t in targets)
        keys = batch_keys(seeds, num_anchors + most_objects, logits.device)
        sampler = self.fg_bg_sampler
        sample = sample_balanced(
            torch.stack(labels),
            keys[:, :num_anchors],
            sampler.batch_size_per_image,
            int(sampler.batch_size_per_image * sampler.positive_fraction),
        )
        sums = proposal_sums(
            logits.view(len(anchors), -1),
            deltas.view(len(anchors), -1, 4),
            anchors[0],
            torch.stack(matched_boxes),
            sample,
            self.box_coder,
            self.smooth_l1_beta,
        )
        proposals = [
            Proposals(
                boxes, torch.cat((of[place], of[num_anchors : num_anchors + len(t["boxes"])]))
            )
            for boxes, place, of, t in zip(kept, places, keys, targets, strict=True)
        ]
        return proposals, sums, sample.counts().sum()

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best boxes [n, 4] of each image and, in place of scores, their anchors [n].

        Otherwise as in torchvision.
        """
        objectness = objectness.detach().reshape(len(proposals), -1)
        best = self._get_top_n_idx(objectness, num_anchors_per_level)  # [batch, candidates]
        sizes = [min(n, self.pre_nms_top_n()) for n in num_anchors_per_level]
        level = torch.cat([best.new_full((n,), i) for i, n in enumerate(sizes)])
        probability = torch.sigmoid(objectness.gather(1, best))
        boxes, places = [], []
        for of, place, score, size in zip(proposals, best, probability, image_shapes, strict=True):
            box = clip_boxes_to_image(of[place], size)
            sides = box[:, 2:] - box[:, :2]
            good = (sides >= self.min_size).all(dim=1) & (score >= self.score_thresh)
            kept = torch.where(good)[0]
            chosen = batched_nms(box[kept], score[kept], level[kept], self.nms_thresh)
            kept = kept[chosen[: self.post_nms_top_n()]]
            boxes.append(box[kept])
            places.append(place[kept])
        return boxes, places


class BoxAndMaskHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads: seeded sampling, sums of losses, decoding only boxes that score.

    Args:
        min_box_side: a detection must be as wide and as high; resized pixels.
        others: as RoIHeads takes them.
    """

    smooth_l1_beta = 1 / 9

    def __init__(self, *, min_box_side: float, **others: Any) -> None:
        super().__init__(**others)
        self.min_box_side = min_box_side

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
        two = box_sums(logits, deltas, all_labels, expected, self.smooth_l1_beta)

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
