"""Which boxes of a batch no better one overlaps: image by image on a CPU, all at once on cards.

To go through the images one by one costs a card several stops an image, as it is asked each time
how many boxes are left. All at once it is asked a few times a batch, for which it compares pairs
that one after another would not be looked at; a CPU is never asked, and faster one by one.
Either way a box is dropped for the same reason. The CPU's boxes are torchvision's, which moves
groups apart before it compares where there are few boxes, and rounds in doing so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raymrcnn.model.boxes import ended, suppressed, without_area

_PAIRS_AT_ONCE = 1 << 25  # compared in one piece: some 128 MiB for each number of a pair


def image_numbers(counts: Sequence[int], device: torch.device) -> Tensor:
    """The image [sum of counts] int64 of each row of a batch; one copy to the device."""
    numbers = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return numbers.to(device)


def counts_of(images: Tensor, num_images: int) -> list[int]:
    """How many rows each image has, of the number of each row [n]; asks the device once."""
    numbers = torch.arange(num_images, device=images.device)
    counts: list[int] = (images[:, None] == numbers).sum(dim=0).tolist()
    return counts


def with_area(rows: Tensor, boxes: Tensor, counts: list[int]) -> tuple[Tensor, list[int]]:
    """Those of rows [n] whose boxes have an area, and how many each image has of them."""
    kept = torch.where(~without_area(boxes[rows]))[0]
    return rows[kept], counts_of(image_numbers(counts, rows.device)[kept], len(counts))


def best_of_images(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    images: Tensor,
    num_images: int,
    threshold: float,
    most: int,
    *,
    extra_width: float,
    drops_equal: bool,
) -> tuple[Tensor, list[int]]:
    """Boxes that overlap no better one of their image and group: image by image, best first.

    Args:
        boxes: [n, 4] XYXY float32.
        scores: [n]; equal ones rank in the order they come.
        groups: [n] int64, from 0.
        images: [n] int64, rising.
        num_images: of the batch.
        threshold: of the overlap; it takes more than this to be dropped.
        most: boxes of an image.
        extra_width: see boxes.py.
        drops_equal: or exactly the threshold, in float32.

    Returns:
        Indices [kept] int64 on the device, and how many of them each image has.
    """
    one_by_one = _one_by_one if boxes.device.type == "cpu" else all_at_once
    return one_by_one(
        boxes,
        scores,
        groups,
        images,
        num_images,
        threshold,
        most,
        extra_width=extra_width,
        drops_equal=drops_equal,
    )


def _one_by_one(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    images: Tensor,
    num_images: int,
    threshold: float,
    most: int,
    *,
    extra_width: float,
    drops_equal: bool,
) -> tuple[Tensor, list[int]]:
    kept = []
    for number in range(num_images):
        of = torch.where(images == number)[0]
        best = suppressed(
            boxes[of],
            scores[of],
            groups[of],
            threshold,
            extra_width=extra_width,
            drops_equal=drops_equal,
        )
        kept.append(of[best[:most]])
    return torch.cat(kept), [len(of) for of in kept]


def all_at_once(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    images: Tensor,
    num_images: int,
    threshold: float,
    most: int,
    *,
    extra_width: float,
    drops_equal: bool,
) -> tuple[Tensor, list[int]]:
    """As `best_of_images`; asks the device as often for one image as for many."""
    if not len(boxes):
        return images, [0] * num_images
    limit = np.float32(threshold)
    if drops_equal or float(limit) > threshold:  # no float32 is between this and the threshold
        limit = np.nextafter(limit, np.float32(0))
    # A row for each group of each image, filled from the left with its boxes, best first.
    order = _sorted(images, groups, scores)
    image, group = images[order], groups[order]
    begins = torch.ones_like(image, dtype=torch.bool)
    begins[1:] = (image[1:] != image[:-1]) | (group[1:] != group[:-1])
    row = begins.long().cumsum(0) - 1
    first = torch.where(begins)[0]
    place = torch.arange(len(order), device=order.device) - first[row]
    shape = len(first), int(place.max()) + 1
    table = boxes.new_zeros((*shape, 4))
    table[row, place] = ended(boxes, extra_width)[order]
    filled = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    filled[row, place] = True
    kept = order[unsuppressed(table, filled, float(limit))[row, place]].sort().values

    kept = kept[_sorted(images[kept], None, scores[kept])]
    counts = counts_of(images[kept], num_images)
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    numbers = [min(count, most) for count in counts]
    chosen = [torch.arange(start, start + n) for start, n in zip(starts, numbers, strict=True)]
    return kept[torch.cat(chosen).to(kept.device)], numbers


def unsuppressed(boxes: Tensor, filled: Tensor, threshold: float) -> Tensor:
    """Which boxes of each row no better kept one of the row overlaps by more; bool [rows, n].

    A box is kept once all better ones that overlap it are known to be dropped. So all are kept at
    first, then those that no kept one overlaps, and so on until nothing changes: after as many
    rounds as the longest chain of boxes that overlap one another.

    Args:
        boxes: [rows, n, 4], in each row best first.
        filled: bool [rows, n]; which of them there are.
        threshold: of the overlap, a float32.
    """
    size = boxes.shape[1]
    better = torch.ones((size, size), dtype=torch.bool, device=boxes.device).triu(1)
    at_once = max(1, _PAIRS_AT_ONCE // size**2)
    covers = torch.cat(
        [
            (_overlaps(some) > threshold) & better & there[:, :, None]
            for some, there in zip(
                torch.split(boxes, at_once), torch.split(filled, at_once), strict=True
            )
        ]
    )  # [rows, n, n]: the first covers the second
    kept = filled
    while True:
        left = filled & ~(covers & kept[:, :, None]).any(dim=1)
        if torch.equal(left, kept):
            return kept
        kept = left


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs of each row, [rows, n, n].

    In the order of operations of torchvision's nms, so that roundings are the same.
    """
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    one, other = boxes[:, :, None], boxes[:, None]
    sides = (
        torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    ).clamp_(min=0)
    common = sides[..., 0] * sides[..., 1]
    return common / (area[:, :, None] + area[:, None] - common)


def _sorted(images: Tensor, groups: Tensor | None, scores: Tensor) -> Tensor:
    """Indices by image, then by group, then best first, then as they come."""
    order = scores.argsort(descending=True, stable=True)
    for key in (groups, images):
        if key is not None:
            order = order[key[order].argsort(stable=True)]
    return order
