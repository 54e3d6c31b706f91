"""Test-time augmentation: an image seen at several scales, and mirrored, and what is seen merged.

Boxes of all views are put together and suppressed as those of one view are; then each view gives
its mask of every box that is left, and the masks are averaged. Source: detectron2,
modeling/test_time_augmentation.py, GeneralizedRCNNWithTTA; Detectron, core/test.py, with union of
boxes and averaged masks (SOFT_AVG).

A view's long side may be as much longer than its short side as the model's own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.transform import resize_boxes

from raymrcnn.model.maskrcnn import MaskRCNN, RawDetections
from raymrcnn.model.suppression import best_of_images, image_numbers, with_area
from raymrcnn.model.transform import ImageTransform

_Sizes = Sequence[tuple[int, int]]  # (height, width) of each image, pixels


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at an image."""

    short_side: int = 0  # that the image is scaled to, pixels; 0: the model's own
    mirrored: bool = False  # left to right


def views_of(short_sides: Sequence[int], flip: bool) -> tuple[View, ...]:
    """The views of these scales, each also mirrored with `flip`; none where nothing is asked."""
    if not short_sides and not flip:
        return ()
    plain = [View(short_side=side) for side in short_sides or (0,)]
    mirrored = [View(short_side=view.short_side, mirrored=True) for view in plain]
    return (*plain, *mirrored) if flip else tuple(plain)


@dataclass(frozen=True)
class _Seen:
    """What a view of a batch leaves for its masks."""

    view: View
    features: dict[str, Tensor]
    sizes: _Sizes  # of the resized images


class ViewedDetector:
    """Detect in several views.

    Args:
        model: in eval mode.
        views: at least one.
    """

    def __init__(self, model: MaskRCNN, views: Sequence[View]) -> None:
        assert views
        self._model = model
        self._views = tuple(views)
        self._transforms = [_scaled(model.transform, view.short_side) for view in views]

    def padded_size(self, height: int, width: int) -> tuple[int, ...]:
        """Height and width of the batch that an image makes alone, of all views; pixels."""
        return tuple(
            side for transform in self._transforms for side in transform.padded_size(height, width)
        )

    def detect(self, images: Sequence[Tensor]) -> list[RawDetections]:
        """As `MaskRCNN.detect`."""
        if not images:
            return []
        originals = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        seen: list[_Seen] = []
        found: list[list[tuple[Tensor, Tensor, Tensor]]] = []
        for view, transform in zip(self._views, self._transforms, strict=True):
            left, of_view = self._seen(view, transform, images, originals)
            seen.append(left)
            found.append(of_view)
        boxes, scores, labels = self._merged(
            [list(of_image) for of_image in zip(*found, strict=True)]
        )
        masks = torch.stack([self._masks(one, boxes, labels, originals) for one in seen]).mean(0)
        counts = [len(of) for of in boxes]
        return [
            RawDetections(boxes=box, scores=score, labels=label, mask_probs=mask)
            for (box, score, label), mask in zip(
                zip(boxes, scores, labels, strict=True), masks.split_with_sizes(counts), strict=True
            )
        ]

    def _seen(
        self, view: View, transform: ImageTransform, images: Sequence[Tensor], originals: _Sizes
    ) -> tuple[_Seen, list[tuple[Tensor, Tensor, Tensor]]]:
        """Boxes in original pixels, scores and labels of each image in one view."""
        model = self._model
        batch, _ = transform([image.flip(-1) if view.mirrored else image for image in images])
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        boxes, scores, labels = model.roi_heads.boxes_found(features, proposals, batch.image_sizes)
        found = []
        columns = zip(boxes, scores, labels, batch.image_sizes, originals, strict=True)
        for box, score, label, size, original in columns:
            box = resize_boxes(box, size, original)
            found.append((self._turned(box, original[1], view), score, label))
        return _Seen(view, features, batch.image_sizes), found

    def _turned(self, boxes: Tensor, width: int, view: View) -> Tensor:
        """Boxes [n, 4] of a view in the image as it is, or the other way; original pixels."""
        if not view.mirrored:
            return boxes
        end = width - self._model.conventions.extra_width
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack((end - x2, y1, end - x1, y2), dim=1)

    def _merged(
        self, images: list[list[tuple[Tensor, Tensor, Tensor]]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and labels that are left of all views of each image, best first."""
        heads, sheet = self._model.roi_heads, self._model.conventions
        columns = [torch.cat([seen[k] for views in images for seen in views]) for k in range(3)]
        boxes, scores, labels = columns
        counts = [sum(len(score) for _, score, _ in views) for views in images]
        best, counts = best_of_images(
            boxes,
            scores,
            labels,
            image_numbers(counts, boxes.device),
            len(images),
            heads.nms_thresh,
            heads.detections_per_img,
            extra_width=heads.extra_width,
            drops_equal=heads.drops_equal,
        )
        if sheet.drop_empty:
            best, counts = with_area(best, boxes, counts)
        split = [list(column[best].split_with_sizes(counts)) for column in columns]
        return split[0], split[1], split[2]

    def _masks(
        self, seen: _Seen, boxes: list[Tensor], labels: list[Tensor], originals: _Sizes
    ) -> Tensor:
        """What one view says of the masks of all boxes, [sum of n, 28, 28] float32, upright."""
        heads = self._model.roi_heads
        resized = [
            resize_boxes(self._turned(box, original[1], seen.view), original, size)
            for box, size, original in zip(boxes, seen.sizes, originals, strict=True)
        ]
        probs = heads.masks_of(seen.features, resized, labels, list(seen.sizes))
        return probs.flip(-1) if seen.view.mirrored else probs


def _scaled(transform: ImageTransform, short_side: int) -> ImageTransform:
    if not short_side:
        return transform
    own = max(transform.min_size)
    scaled = copy.copy(transform)
    scaled.min_size = (short_side,)
    scaled.max_size = round(transform.max_size * short_side / own)
    return scaled
