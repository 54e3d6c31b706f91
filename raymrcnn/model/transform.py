"""From images of any size to one padded, normalised batch, on the device of the images.

Augmentation belongs to the data floor; here nothing is random.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from raymrcnn.model.conventions import Conventions, Numbers3
from raymrcnn.model.resize import SIZE_RULES, pillow_resize
from raymrcnn.structures import BatchPlan, Outlines


class ImageTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform that also takes uint8 images and images of extreme shape.

    Args:
        short_side, long_side: an image is scaled, keeping its shape, until its short side has the
            one length or its long side the other, whichever comes first; pixels.
        conventions: channel order, pixel scale, mean, padding, and how to resize.
        image_std: deviation of the channels, after pixel scale.
    """

    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    def __init__(
        self, short_side: int, long_side: int, conventions: Conventions, image_std: Numbers3
    ) -> None:
        super().__init__(
            short_side,
            long_side,
            list(conventions.image_mean),
            list(image_std),
            size_divisible=conventions.size_divisible,
        )
        self.bgr = conventions.channel_order == "BGR"
        self.pixel_scale = conventions.pixel_scale
        self.resizes_bytes = conventions.resize_filter == "pillow"
        self.resized_size = SIZE_RULES[conventions.size_rule]
        mean, std = torch.tensor(conventions.image_mean), torch.tensor(image_std)
        # Buffers, so that they are copied to the device once; not part of the weights.
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def for_training(
        self,
        images: list[Tensor],
        targets: list[dict[str, Any]],
        plan: BatchPlan | None = None,
    ) -> tuple[ImageList, list[dict[str, Any]]]:
        """Normalised, resized and padded images, and their targets with them.

        Args:
            images: [3, H, W] each.
            targets: boxes, labels and masks, in the pixels of the images.
            plan: short sides, and the sizes of the whole batch, to which is padded: how much
                padding an image has shows in the numbers, so it must not depend on how the
                batch is shared out.
        """
        plan = plan or BatchPlan(seeds=())
        shorts = plan.short_sides or (0,) * len(images)
        pairs = []
        for image, target, short_side in zip(images, targets, shorts, strict=True):
            height, width = image.shape[-2:]
            size = self._size(height, width, short_side)
            pairs.append(self.resized(self.normalize(image), dict(target), size))
        sizes = [tuple(image.shape[-2:]) for image, _ in pairs]
        whole = [*sizes, *(self._size(*size) for size in plan.batch_sizes)]
        step = self.size_divisible
        height, width = (-(-max(side) // step) * step for side in zip(*whole, strict=True))
        batch = pairs[0][0].new_zeros((len(pairs), 3, height, width))
        for place, (image, _) in zip(batch, pairs, strict=True):
            place[:, : image.shape[1], : image.shape[2]].copy_(image)
        return ImageList(batch, sizes), [target for _, target in pairs]

    def normalize(self, image: Tensor) -> Tensor:
        """[3, H, W] RGB, uint8 or float in 0 to 1 -> what `resize` takes.

        That is float32 as the network wants it, or bytes where bytes are to be resized.
        """
        if self.resizes_bytes:
            if image.is_floating_point():
                image = (image * 255.0).round().clamp(0, 255).to(torch.uint8)
            return image  # `resize` goes on
        return self._normalized(image)

    def _normalized(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            image = image.float()
            if self.pixel_scale != 255.0:
                image = image * (255.0 / self.pixel_scale)
        else:
            image = image.float().div_(self.pixel_scale)
        if self.bgr:
            image = image.flip(0)
        return (image - self.mean) / self.std

    def resize(
        self, image: Tensor, target: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any] | None]:
        """Scale what `normalize` gave to float32 [3, h, w], and a target with it."""
        height, width = image.shape[-2:]
        size = self._size(height, width, 0)
        if target is None:
            return self._scaled(image, size), None
        return self.resized(image, target, size)

    def resized(
        self, image: Tensor, target: dict[str, Any], size: tuple[int, int]
    ) -> tuple[Tensor, dict[str, Any]]:
        """An image, and its target's boxes and masks, scaled to (height, width)."""
        target["boxes"] = resize_boxes(target["boxes"], tuple(image.shape[-2:]), size)
        masks = target["masks"]
        if isinstance(masks, Outlines):
            target["masks"] = replace(
                masks, edges=resize_boxes(masks.edges, tuple(image.shape[-2:]), size)
            )
        else:
            target["masks"] = interpolate(masks[:, None].float(), size=size)[:, 0].byte()
        return self._scaled(image, size), target

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the batch that an image makes alone."""
        size = self._size(height, width, 0)
        step = self.size_divisible
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def _size(self, height: int, width: int, short_side: int) -> tuple[int, int]:
        """After scaling; a short side of 0 stands for the model's own."""
        return self.resized_size(height, width, short_side or max(self.min_size), self.max_size)

    def _scaled(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if self.resizes_bytes:
            return self._normalized(pillow_resize(image, size))
        return interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
