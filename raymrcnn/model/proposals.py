"""The region proposal network: torchvision's, with what programs do differently as arguments.

In training it samples anchors by the seed of each image and gives sums of losses with their count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from raymrcnn.model.boxes import are_as_wide, clip, crosses_edge, iou, last_places
from raymrcnn.model.losses import proposal_sums
from raymrcnn.model.sampling import batch_keys, sample_balanced
from raymrcnn.model.suppression import best_of_images, counts_of, image_numbers

# An image each: boxes, labels, and masks as bitmaps or Outlines; resized pixels.
Annotations = Sequence[dict[str, Any]]


class Proposals(NamedTuple):
    """What the first stage hands to the second in training, for one image."""

    boxes: Tensor  # [n, 4] XYXY, resized pixels
    # [n + objects]: of the anchors that they came from, so that their order does not matter,
    # which a rounding error may change; then of the objects.
    keys: Tensor


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's RegionProposalNetwork with seeded sampling and sums of losses.

    Args:
        extra_width, drops_equal: see boxes.py.
        ranks_logits, ignores_crossing, top_n_per_batch, loss_over_quota, box_beta: as rpn_... in
            conventions.py.
        others: as RegionProposalNetwork takes them.
    """

    def __init__(
        self,
        *others: Any,
        extra_width: float,
        drops_equal: bool,
        ranks_logits: bool,
        ignores_crossing: bool,
        top_n_per_batch: bool,
        loss_over_quota: bool,
        box_beta: float,
    ) -> None:
        super().__init__(*others)
        self.extra_width = extra_width
        self.drops_equal = drops_equal
        self.ranks_logits = ranks_logits
        self.ignores_crossing = ignores_crossing
        self.top_n_per_batch = top_n_per_batch
        self.loss_over_quota = loss_over_quota
        self.box_beta = box_beta
        self.box_similarity = partial(iou, extra_width=extra_width)

    def losses(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: Annotations,
        seeds: Sequence[int],
    ) -> tuple[list[Proposals], Tensor, Tensor]:
        """Proposals of each image, sums of both losses [2], and the number that divides them.

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
        if self.ignores_crossing:
            for of, size in zip(labels, images.image_sizes, strict=True):
                of[crosses_edge(anchors[0], size, self.extra_width)] = -1
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
            self.box_beta,
        )
        proposals = [
            Proposals(
                boxes, torch.cat((of[place], of[num_anchors : num_anchors + len(t["boxes"])]))
            )
            for boxes, place, of, t in zip(kept, places, keys, targets, strict=True)
        ]
        counts = sample.counts()
        if self.loss_over_quota:
            counts = torch.full_like(counts, sampler.batch_size_per_image)
        return proposals, sums, counts.sum()

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
        logits = objectness.gather(1, best)
        probability = torch.sigmoid(logits)
        ranks = logits if self.ranks_logits else probability
        last = last_places(image_shapes, proposals, self.extra_width)[:, None]
        boxes = clip(proposals.gather(1, best[..., None].expand(-1, -1, 4)), last)
        good = are_as_wide(boxes, self.min_size, self.extra_width)
        image, place = torch.where(good & (probability >= self.score_thresh))
        of_batch = self.training and self.top_n_per_batch
        chosen, counts = best_of_images(
            boxes[image, place],
            ranks[image, place],
            level[place],
            image,
            len(proposals),
            self.nms_thresh,
            best.shape[1] if of_batch else self.post_nms_top_n(),
            extra_width=self.extra_width,
            drops_equal=self.drops_equal,
        )
        if of_batch:
            chosen, counts = self._best_of_batch(chosen, ranks[image, place], counts)
        image, place = image[chosen], place[chosen]
        split = torch.split_with_sizes
        return list(split(boxes[image, place], counts)), list(split(best[image, place], counts))

    def _best_of_batch(
        self, chosen: Tensor, scores: Tensor, counts: list[int]
    ) -> tuple[Tensor, list[int]]:
        """The best of all images together, where one has more of them than another, or all.

        Scores fall in each image.
        """
        images = image_numbers(counts, chosen.device)
        best = scores[chosen].topk(min(self.post_nms_top_n(), len(chosen))).indices
        numbers = counts_of(images[best], len(counts))
        kept = [of[:n] for of, n in zip(chosen.split_with_sizes(counts), numbers, strict=True)]
        return torch.cat(kept), numbers
