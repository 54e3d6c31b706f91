"""Pasted masks against each program's own paste and pycocotools' own strings, bit for bit."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from raymrcnn import paste
from raymrcnn.errors import RunError
from raymrcnn.masks import paste_to_rles, rle_areas


def _torchvision_way(
    probs: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> list[str]:
    pasted = paste_masks_in_image(probs[:, None], boxes, (height, width), padding=1)
    bitmaps = (pasted > threshold).numpy()[:, 0].astype(np.uint8)
    return [coco_mask.encode(np.asfortranarray(b))["counts"].decode() for b in bitmaps]


def _blobs(num_masks: int, draw: torch.Generator, cells: int = 5) -> torch.Tensor:
    """Smooth probabilities as a mask head gives them, [num_masks, 28, 28]."""
    logits = torch.randn(num_masks, 1, cells, cells, generator=draw) * 4
    grown = torch.nn.functional.interpolate(logits, size=(28, 28), mode="bicubic")
    return torch.sigmoid(grown[:, 0])


PROBS = {
    "blobs": lambda n, g: _blobs(n, g),
    "noise": lambda n, g: torch.rand(n, 28, 28, generator=g),
    "hard edges": lambda n, g: (_blobs(n, g) > 0.5).float(),
    "all at the threshold": lambda n, g: torch.full((n, 28, 28), 0.5),
    "around the threshold": lambda n, g: 0.5 + 1e-6 * (torch.rand(n, 28, 28, generator=g) - 0.5),
    "full": lambda n, g: torch.ones(n, 28, 28),
    "empty": lambda n, g: torch.zeros(n, 28, 28),
    "with NaN": lambda n, g: _blobs(n, g).index_fill(2, torch.tensor([9]), float("nan")),
    "over 1": lambda n, g: _blobs(n, g) * 7 - 3,
}


def _boxes(num_boxes: int, height: int, width: int, draw: torch.Generator) -> torch.Tensor:
    """Boxes of all sizes around points in the image, many of them over its edges."""
    centre = torch.rand(num_boxes, 2, generator=draw) * torch.tensor([width, height])
    longest = np.log(2 * max(height, width))
    half = torch.exp(torch.rand(num_boxes, 2, generator=draw) * (longest + 2) - 2) / 2
    return torch.cat((centre - half, centre + half), dim=1)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(PROBS)),
    size=st.sampled_from([(1, 1), (3, 90), (37, 53), (120, 160), (240, 200)]),
    clipped=st.booleans(),
)
def test_masks_are_torchvisions_bit_for_bit(
    seed: int, kind: str, size: tuple[int, int], clipped: bool
) -> None:
    height, width = size
    draw = torch.Generator().manual_seed(seed)
    boxes = _boxes(8, height, width, draw)
    if clipped:
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    probs = PROBS[kind](8, draw)
    assert paste_to_rles(probs, boxes, height, width) == _torchvision_way(
        probs, boxes, height, width
    )


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.9, 1.0])
def test_other_thresholds_are_torchvisions_too(threshold: float) -> None:
    draw = torch.Generator().manual_seed(3)
    probs, boxes = _blobs(20, draw), _boxes(20, 100, 150, draw)
    ours = paste_to_rles(probs, boxes, 100, 150, threshold)
    assert ours == _torchvision_way(probs, boxes, 100, 150, threshold)


def test_every_side_length_samples_where_torch_does() -> None:
    draw = torch.Generator().manual_seed(4)
    for start in range(1, 640, 80):
        sides = torch.arange(start, start + 80, dtype=torch.float32) * 28 / 30
        boxes = torch.stack((torch.zeros(80), torch.zeros(80), sides, sides.flip(0) / 4), dim=1)
        probs = _blobs(80, draw, cells=9)
        assert paste_to_rles(probs, boxes, 64, 320) == _torchvision_way(probs, boxes, 64, 320)


def test_one_image_with_a_hundred_detections() -> None:
    draw = torch.Generator().manual_seed(5)
    probs, boxes = _blobs(100, draw), _boxes(100, 480, 640, draw)
    assert paste_to_rles(probs, boxes, 480, 640) == _torchvision_way(probs, boxes, 480, 640)


@pytest.mark.parametrize(
    "box",
    [
        [5, 5, 5, 5],
        [5.3, 5.3, 5.4, 5.4],
        [0, 0, 40, 30],
        [-0.4, -0.4, 0.2, 0.2],
        [39.9, 29.9, 40, 30],
        [-300, -300, 340, 330],
        [10, 0, 12, 30],
        [9, 20, 9, 10],
        [20, 20, 10, 25],
    ],
)
def test_odd_boxes_are_torchvisions_too(box: list[float]) -> None:
    for kind in ("blobs", "full", "hard edges"):
        probs = PROBS[kind](1, torch.Generator().manual_seed(6))
        boxes = torch.tensor([box], dtype=torch.float32)
        assert paste_to_rles(probs, boxes, 30, 40) == _torchvision_way(probs, boxes, 30, 40)


@pytest.mark.parametrize(
    "box", [[50, 5, 60, 9], [-90, 5, -60, 9], [5, -90, 9, -60], [5, 99, 9, 200]]
)
def test_a_box_outside_the_image_is_an_empty_mask(box: list[float]) -> None:
    boxes = torch.tensor([box, [5, 5, 20, 20]], dtype=torch.float32)
    ones = torch.ones(2, 28, 28)
    outside, inside = paste_to_rles(ones, boxes, 30, 40)
    assert rle_areas([outside], 30, 40).tolist() == [0]
    assert [inside] == _torchvision_way(ones[1:], boxes[1:], 30, 40)


def _detectron2s_way(
    probs: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """The formulas of layers/mask_ops.py written out: a mask is sampled in and around its box."""
    found = []
    for mask, (x0, y0, x1, y1) in zip(probs, boxes, strict=True):
        left, top = max(int(x0.floor()) - 1, 0), max(int(y0.floor()) - 1, 0)
        right, bottom = min(int(x1.ceil()) + 1, width), min(int(y1.ceil()) + 1, height)
        bitmap = np.zeros((height, width), np.uint8)
        if left < right and top < bottom:
            x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
            y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
            grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=2)
            sampled = torch.nn.functional.grid_sample(
                mask[None, None], grid[None], align_corners=False
            )
            bitmap[top:bottom, left:right] = (sampled[0, 0] >= threshold).numpy()
        found.append(coco_mask.encode(np.asfortranarray(bitmap))["counts"].decode())
    return found


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(PROBS)),
    size=st.sampled_from([(1, 1), (3, 90), (37, 53), (120, 160), (240, 200)]),
    clipped=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.5, 0.5, 1.0]),
)
def test_sampled_masks_are_detectron2s_bit_for_bit(
    seed: int, kind: str, size: tuple[int, int], clipped: bool, threshold: float
) -> None:
    height, width = size
    draw = torch.Generator().manual_seed(seed)
    boxes = _boxes(8, height, width, draw)
    if clipped:
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)]  # others it drops before
    probs = PROBS[kind](8, draw)[: len(boxes)]
    found = paste_to_rles(probs, boxes, height, width, threshold, "sampled")
    assert found == _detectron2s_way(probs, boxes, height, width, threshold)


def test_a_sampled_box_without_extent_is_an_empty_mask() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 20], [5, 5, 20, 5], [5, 5, 5, 5]])
    found = paste_to_rles(torch.ones(3, 28, 28), boxes, 30, 40, 0.5, "sampled")
    assert rle_areas(found, 30, 40).tolist() == [0, 0, 0]


def _maskers_way(probs: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> list[str]:
    """The formulas of maskrcnn-benchmark's Masker written out, for one mask after another."""
    found = []
    side = probs.shape[-1]
    scale = (side + 2) / side
    for mask, box in zip(probs, boxes, strict=True):
        half, centre = (box[2:] - box[:2]) * 0.5 * scale, (box[2:] + box[:2]) * 0.5
        x0, y0 = (centre - half).to(torch.int32).tolist()
        x1, y1 = (centre + half).to(torch.int32).tolist()
        padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))[None, None]
        size = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
        whole = torch.nn.functional.interpolate(
            padded, size=size, mode="bilinear", align_corners=False
        )[0, 0]
        bitmap = np.zeros((height, width), np.uint8)
        left, right = max(x0, 0), min(x1 + 1, width)
        top, bottom = max(y0, 0), min(y1 + 1, height)
        bitmap[top:bottom, left:right] = (whole > 0.5)[
            top - y0 : bottom - y0, left - x0 : right - x0
        ]
        found.append(coco_mask.encode(np.asfortranarray(bitmap))["counts"].decode())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_stretched_masks_are_the_maskers_bit_for_bit(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    edges = torch.tensor([159.0, 119, 159, 119])  # its boxes end at the last pixel
    boxes = _boxes(40, 120, 160, draw).clamp(min=0).minimum(edges)
    probs = _blobs(40, draw)
    assert paste_to_rles(probs, boxes, 120, 160) == _maskers_way(probs, boxes, 120, 160)


@pytest.mark.parametrize("way", ["stretched", "sampled"])
def test_few_boxes_go_the_long_way(
    way: Literal["stretched", "sampled"], monkeypatch: pytest.MonkeyPatch
) -> None:
    long_way: list[int] = []
    long_spans = paste._bitmap_spans

    def counting(layout: object, n: int, *rest: object) -> object:
        long_way.append(n)
        return long_spans(layout, n, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(paste, "_bitmap_spans", counting)
    draw = torch.Generator().manual_seed(7)
    boxes = _boxes(300, 200, 300, draw)
    paste_to_rles(_blobs(300, draw), boxes, 200, 300, 0.5, way)
    assert len(long_way) < 30


def test_no_detections_are_no_masks() -> None:
    assert paste_to_rles(torch.zeros(0, 28, 28), torch.zeros(0, 4), 30, 40) == []


def test_half_precision_probabilities_are_computed_with_in_float32() -> None:
    probs = _blobs(4, torch.Generator().manual_seed(8)).bfloat16()
    boxes = torch.tensor([[3, 4, 30, 25]]).float().expand(4, 4)
    assert paste_to_rles(probs, boxes, 30, 40) == _torchvision_way(probs.float(), boxes, 30, 40)


@pytest.mark.parametrize(
    "box", [[float("nan"), 0, 5, 5], [0, 0, float("inf"), 5], [0, 0, 1e6, 1e6], [3e8, 0, 4e8, 1]]
)
def test_a_box_that_is_none_is_refused(box: list[float]) -> None:
    boxes = torch.tensor([[0, 0, 5, 5], box])
    with pytest.raises(RunError, match="cannot be pasted"):
        paste_to_rles(torch.zeros(2, 28, 28), boxes, 30, 40)
