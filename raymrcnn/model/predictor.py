"""Images in, `Detections` out: batching, precision, fusing, and masks as run lengths.

`forward` needs the device and `finish` needs only the CPU, so a pipeline can paste the masks of one
batch while the next is on the device. Reading files and choosing what goes into a batch are other
floors' work.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raymrcnn.device.numerics import autocast
from raymrcnn.model.boxes import ended
from raymrcnn.model.fusion import fold_norms, lower_precision, precompute_norms
from raymrcnn.model.maskrcnn import MaskRCNN, RawDetections
from raymrcnn.model.views import View, ViewedDetector, views_of
from raymrcnn.paste import paste_to_rles
from raymrcnn.structures import Detections, ImageRef

__all__ = ["HostDetections", "Predictor", "View", "views_of"]

MASK_SIDE = 28  # cells of a mask, a side
MASK_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class HostDetections:
    """What the network found in one image, best score first, in host memory."""

    width: int  # of the original image, pixels
    height: int
    # [n, 4] float32 XYXY, pixels of the original image, inside it; x2 and y2 as the model's
    # conventions have them.
    boxes: Tensor
    scores: Tensor  # [n] float32, 0 to 1
    labels: Tensor  # [n] int64, 1 to num_classes
    mask_probs: Tensor  # [n, 28, 28] float32, 0 to 1, spanning the box


class Predictor:
    """Run a Mask R-CNN on batches of images.

    Args:
        model: the network; it is copied, and not changed.
        category_ids: of label 1, 2, ...; None where a label belongs to no category, so that its
            detections are dropped.
        device: where the network runs.
        dtype: float32, or a lower precision for the convolutions and linear layers; boxes, scores
            and masks are computed in float32 in any case.
        score_threshold: a detection must score above.
        max_detections: kept of an image, the best.
        fold: whether frozen batch norms become part of the convolutions and memory is laid out
            channels last. In float32 that changes boxes by up to some 0.01 px against torchvision,
            while without it they are the same bits. None: with dtypes other than float32 only.
        views: test-time augmentation, see `views_of`; none: the image as it is.
        compile_backbone: whether torch compiles backbone and pyramid, which takes about a minute at
            the first batch and pays on cards.
    """

    def __init__(
        self,
        model: MaskRCNN,
        category_ids: Sequence[int | None],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        score_threshold: float = 0.05,
        max_detections: int = 100,
        *,
        fold: bool | None = None,
        views: Sequence[View] = (),
        compile_backbone: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        # Index 0 is background; -1 marks a label without a category.
        ids = [-1, *(-1 if i is None else i for i in category_ids)]
        self._category_ids = np.array(ids, np.int64)
        self._has_category = np.array([False, *(i is not None for i in category_ids)])
        self._model = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        self._model.limit_detections(score_threshold, max_detections)
        low_precision = dtype is not torch.float32
        if low_precision if fold is None else fold:
            fold_norms(self._model)
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            precompute_norms(self._model)
        if low_precision:
            lower_precision(self._model, dtype)
        if compile_backbone:
            # Any padded size: without this, torch would compile for each anew.
            self._model.backbone.compile(dynamic=True)
        self._detector = ViewedDetector(self._model, views) if views else self._model

    def padded_size(self, height: int, width: int) -> tuple[int, ...]:
        """Height and width in pixels of the batch that an image of this size makes alone.

        Of test-time augmentation, those of all views. What pads an image reaches its features.
        Where all images of a batch have one padded size, each gets the detections that it gets
        alone.
        """
        detector = self._detector
        if isinstance(detector, ViewedDetector):
            return detector.padded_size(height, width)
        return detector.transform.padded_size(height, width)

    def rehearse(self, height: int = 256, width: int = 256) -> None:
        """Run backbone and pyramid on a blank batch of one; to warm up, or to be timed."""
        blank = torch.zeros((1, 3, height, width), device=self.device)
        with torch.inference_mode(), autocast(self.device, self.dtype):
            levels = self._model.backbone(blank)
            next(iter(levels.values())).flatten()[:1].cpu()  # waits for the device

    def predict(self, images: Sequence[Tensor], refs: Sequence[ImageRef]) -> list[Detections]:
        """Detections of one batch.

        Args:
            images: [3, H, W] uint8 each, RGB, upright, of any sizes.
            refs: what they are called.
        """
        return self.finish(self.forward(images), refs)

    def forward(self, images: Sequence[Tensor]) -> list[HostDetections]:
        """The device's half of `predict`; returns when the results are in host memory."""
        with torch.inference_mode(), autocast(self.device, self.dtype):
            on_device = [image.to(self.device, non_blocking=True) for image in images]
            return _to_host(self._detector.detect(on_device), images)

    def finish(self, found: Sequence[HostDetections], refs: Sequence[ImageRef]) -> list[Detections]:
        """The host's half of `predict`: masks to run lengths, labels to categories."""
        return [self._finish_image(one, ref) for one, ref in zip(found, refs, strict=True)]

    def _finish_image(self, found: HostDetections, ref: ImageRef) -> Detections:
        labels = found.labels.numpy()
        kept = np.flatnonzero(self._has_category[labels])
        chosen = torch.from_numpy(kept)
        boxes = found.boxes[chosen]
        sheet = self._model.conventions
        rles = paste_to_rles(
            found.mask_probs[chosen],
            boxes,
            found.height,
            found.width,
            MASK_THRESHOLD,
            sheet.mask_paste,
        )
        return Detections(
            image_id=ref.image_id,
            file_name=ref.file_name,
            width=found.width,
            height=found.height,
            boxes=ended(boxes, sheet.extra_width).numpy(),
            scores=found.scores[chosen].numpy(),
            category_ids=self._category_ids[labels[kept]],
            rles=rles,
        )


def _to_host(found: Sequence[RawDetections], images: Sequence[Tensor]) -> list[HostDetections]:
    """One device-to-host copy for the whole batch, whatever the number of detections."""
    if not found:
        return []
    labels = torch.cat([one.labels for one in found]).float()
    scores = torch.cat([one.scores for one in found])
    boxes = torch.cat([one.boxes for one in found])
    masks = torch.cat([one.mask_probs for one in found]).flatten(1)
    packed = torch.cat((boxes, scores[:, None], labels[:, None], masks), dim=1).cpu()
    results = []
    rows = packed.split([len(one.scores) for one in found])  # type: ignore[no-untyped-call]
    for table, image in zip(rows, images, strict=True):
        height, width = image.shape[-2:]
        edges = torch.tensor([width, height, width, height], dtype=torch.float32)
        results.append(
            HostDetections(
                width=width,
                height=height,
                # Scaling back to the original image rounds: an edge may lie beyond by an ulp.
                boxes=table[:, :4].minimum(edges),
                scores=table[:, 4],
                labels=table[:, 5].long(),
                mask_probs=table[:, 6:].reshape(-1, MASK_SIDE, MASK_SIDE),
            )
        )
    return results
