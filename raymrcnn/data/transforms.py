"""Augmentation of a training image with its boxes and masks.

Every draw comes from the seed that is handed in, none from a global generator: the same image in
the same epoch is augmented alike on any worker, in any thread, after any restart. The parameters
are therefore drawn here and the work is left to torchvision.transforms.v2.functional. The resize
of the short side to 800 px is not done here but by the model, on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812

from raymrcnn.config import DataConfig
from raymrcnn.data.trainable import MIN_SIDE_PX
from raymrcnn.structures import Outlines, Target

# What stands outside the image: the mean of ImageNet, which normalisation makes 0, as padding is.
_FILL = (124, 116, 104)


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Colour jitter, scale jitter, random crop, resize, horizontal flip, in this order.

    A strength of 0 is off. Scale jitter makes the longer side between `scale_min` and `scale_max`
    times the crop (large-scale jitter: 0.1 to 2, Ghiasi et al. 2021).
    A crop larger than the image pads it to the right and below. After a crop, an object's box is
    what is visible of it: the old box within the crop and around the mask that is left. Objects
    of which less than a pixel is left in height or width are dropped.
    """

    flip_prob: float = 0.0
    scale_min: float = 0.0  # of the crop
    scale_max: float = 0.0
    crop_size: int = 0  # pixels, square
    resize_to: int = 0  # pixels, square
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(
        self, image: torch.Tensor, target: Target, seed: np.random.SeedSequence
    ) -> tuple[torch.Tensor, Target]:
        """The augmented image, uint8 [3, height, width], and its target in the same frame.

        Args:
            image: uint8 [3, height, width].
            target: in the frame of `image`.
            seed: decides every draw.
        """
        rng = np.random.Generator(np.random.PCG64(seed))
        picture = tv_tensors.Image(image)
        size = tuple(image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=size)
        masks = tv_tensors.Mask(target.masks)
        labels = target.labels
        picture = self._jittered(picture, rng)
        if self.scale_max:
            share = self.scale_min + (self.scale_max - self.scale_min) * rng.random()
            scale = share * self.crop_size / max(size)
            side = [max(1, round(length * scale)) for length in size]
            picture, boxes, masks = (F.resize(x, side) for x in (picture, boxes, masks))
        if self.crop_size:
            picture, boxes, masks = self._cropped(picture, boxes, masks, rng)
        if self.resize_to:
            side = [self.resize_to, self.resize_to]
            picture, boxes, masks = (F.resize(x, side) for x in (picture, boxes, masks))
        outlines = target.outlines
        if rng.random() < self.flip_prob:
            if outlines is not None:
                outlines = _mirrored(outlines, picture.shape[-1])
            picture, boxes, masks = (F.horizontal_flip(x) for x in (picture, boxes, masks))
        if self.crop_size or self.resize_to:
            boxes, keep = visible(boxes.as_subclass(torch.Tensor), masks)
            boxes, labels, masks = boxes[keep], labels[keep], masks[keep]
        return (
            picture.as_subclass(torch.Tensor).contiguous(),
            Target(
                image_id=target.image_id,
                boxes=boxes.as_subclass(torch.Tensor),
                labels=labels,
                masks=masks.as_subclass(torch.Tensor).contiguous(),
                outlines=outlines,
            ),
        )

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of what an image of that size becomes."""
        side = self.resize_to or self.crop_size
        return (side, side) if side else (height, width)

    def _jittered(self, picture: tv_tensors.Image, rng: np.random.Generator) -> tv_tensors.Image:
        """Factors and their random order as torchvision's ColorJitter draws them."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if not any(strengths):
            return picture
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        draws = rng.uniform(-1.0, 1.0, size=4)
        for k in np.argsort(rng.random(4)):
            if strengths[k]:
                shift = float(strengths[k] * draws[k])
                picture = adjust[k](picture, shift if k == 3 else max(0.0, 1.0 + shift))
        return picture

    def _cropped(
        self,
        picture: tv_tensors.Image,
        boxes: tv_tensors.BoundingBoxes,
        masks: tv_tensors.Mask,
        rng: np.random.Generator,
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, tv_tensors.Mask]:
        height, width = picture.shape[-2:]
        below, right = max(0, self.crop_size - height), max(0, self.crop_size - width)
        if below or right:
            padding = [0, 0, right, below]
            picture = F.pad(picture, padding, fill=list(_FILL))
            boxes, masks = F.pad(boxes, padding), F.pad(masks, padding)
        top = int(rng.random() * (height + below - self.crop_size + 1))
        left = int(rng.random() * (width + right - self.crop_size + 1))
        window = (top, left, self.crop_size, self.crop_size)
        boxes = F.clamp_bounding_boxes(F.crop(boxes, *window))
        return F.crop(picture, *window), boxes, F.crop(masks, *window)


def build_train_transform(config: DataConfig) -> TrainTransform:
    """The augmentation that a recipe asks for."""
    return TrainTransform(
        flip_prob=config.flip_prob,
        scale_min=min(config.scale_jitter, default=0.0),
        scale_max=max(config.scale_jitter, default=0.0),
        crop_size=config.crop_size,
        resize_to=config.resize_to,
        brightness=config.jitter_brightness,
        contrast=config.jitter_contrast,
        saturation=config.jitter_saturation,
        hue=config.jitter_hue,
    )


def _mirrored(outlines: Outlines, width: int) -> Outlines:
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    return replace(outlines, edges=outlines.edges * sign + torch.tensor([width, 0, width, 0]))


def visible(boxes: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes within the extent of their masks, and which objects are left: [n, 4], bool [n]."""
    mask_boxes = torch.zeros_like(boxes)
    for k, mask in enumerate(masks.as_subclass(torch.Tensor)):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            mask_boxes[k] = torch.cat(extent).to(boxes.dtype)
    tight = torch.cat(
        [
            torch.maximum(boxes[:, :2], mask_boxes[:, :2]),
            torch.minimum(boxes[:, 2:], mask_boxes[:, 2:]),
        ],
        dim=1,
    )
    return tight, ((tight[:, 2:] - tight[:, :2]) >= MIN_SIDE_PX).all(1)
