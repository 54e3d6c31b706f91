"""To what size an image is scaled, and with which filter: functions of whole numbers and bytes.

`pillow_resize` gives Pillow's bytes from tensors on any device that multiplies 32-bit whole
numbers: programs that resize with Pillow feed their networks those, and a byte more or less in
places shows in the scores. On a CPU Pillow itself does it. Nothing that Pillow takes is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_BITS = 22  # of the fractions that Pillow weighs bytes with: PRECISION_BITS in its Resample.c


def floor_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) after scaling by one factor; rounded down, and at least 1 pixel a side."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(int(height * scale), 1), max(int(width * scale), 1)


def short_first_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The short side is fixed, rounded to the nearest, and the long one follows, rounded down.

    So the long side can become a pixel longer than allowed. Source: maskrcnn-benchmark,
    data/transforms/transforms.py, Resize.get_size.
    """
    short, long = float(min(height, width)), float(max(height, width))
    if long / short * short_side > long_side:
        short_side = max(int(round(long_side * short / long)), 1)
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def nearest_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Both sides by one factor, rounded to the nearest; at least 1 pixel a side.

    Source: detectron2, data/transforms/augmentation_impl.py, ResizeShortestEdge.get_output_shape.
    """
    scale = short_side / min(height, width)
    sides = [float(short_side), float(short_side)]
    if height < width:
        sides[1] = scale * width
    else:
        sides[0] = scale * height
    if max(sides) > long_side:
        shrink = long_side / max(sides)
        sides = [side * shrink for side in sides]
    return max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)


SIZE_RULES: dict[str, Callable[[int, int, int, int], tuple[int, int]]] = {
    "floor": floor_size,
    "short_first": short_first_size,
    "nearest": nearest_size,
}


def pillow_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`PIL.Image.resize(size, BILINEAR)` of Pillow up to 12, bit for bit.

    Pillow 13 takes columns before rows where a tall image shrinks, which changes some bytes by 1.

    Args:
        image: [3, height, width] uint8, on any device.
        size: (height, width) in pixels.

    Returns:
        uint8 [3, *size]. Source: Pillow, src/libImaging/Resample.c.
    """
    if image.device.type == "cpu":
        return _resized_by_pillow(image, size)
    return resampled_bytes(image, size)


def _resized_by_pillow(image: Tensor, size: tuple[int, int]) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    rows = picture.resize((size[1], picture.height), Image.Resampling.BILINEAR)
    whole = rows.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(whole)).permute(2, 0, 1).contiguous()


def resampled_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """What `pillow_resize` gives, in whole numbers of torch."""
    for axis, length in ((2, size[1]), (1, size[0])):
        if image.shape[axis] != length:
            image = _resampled(image, axis, length)
    return image


def _resampled(image: Tensor, axis: int, length: int) -> Tensor:
    places, weights = _taps(image.shape[axis], length)
    shape = [1, 1, 1]
    shape[axis] = length
    total: Tensor | None = None
    for place, weight in zip(places, weights, strict=True):
        index = torch.from_numpy(place).to(image.device)
        factor = torch.from_numpy(weight).to(image.device).view(shape)
        part = image.index_select(axis, index).to(torch.int32).mul_(factor)
        total = part if total is None else total.add_(part)
    assert total is not None
    total.add_(1 << (_BITS - 1)).bitwise_right_shift_(_BITS)
    return total.clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _taps(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Which of `old` pixels make each of `new`, int64, and by how much, int32; [taps, new] both."""
    scale = old / new
    support = max(scale, 1.0)  # a triangle over two pixels, wider where the image shrinks
    taps = 2 * math.ceil(support) + 1
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), old)
    place = first[None] + np.arange(taps)[:, None]
    weight = 1.0 - np.abs((place - centre + 0.5) * (1.0 / support))
    weight = np.where((place < end) & (weight > 0), weight, 0.0)
    total = weight[0].copy()
    for row in weight[1:]:  # in Pillow's order, for its rounding
        total += row
    fixed = np.floor(weight / total * (1 << _BITS) + 0.5).astype(np.int32)
    used = fixed.any(axis=1)
    return np.minimum(place, old - 1)[used], fixed[used]
