"""Boxes with a pixel more: the formulas of maskrcnn-benchmark, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops.boxes import batched_nms

from raymrcnn.model import boxes as boxes_module
from raymrcnn.model.boxes import (
    WideBoxCoder,
    are_as_wide,
    clip,
    iou,
    last_places,
    suppressed,
    without_area,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some_boxes(number: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=draw) * 500
    return torch.cat((corners, corners + torch.rand(number, 2, generator=draw) * 200), dim=1)


def decoded_by_hand(delta: list[float], box: list[float], clamp: float) -> list[float]:
    """modeling/box_coder.py, decode, for one box in doubles."""
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + 0.5 * width, box[1] + 0.5 * height
    x += delta[0] / WEIGHTS[0] * width
    y += delta[1] / WEIGHTS[1] * height
    width *= math.exp(min(delta[2] / WEIGHTS[2], clamp))
    height *= math.exp(min(delta[3] / WEIGHTS[3], clamp))
    return [x - width / 2, y - height / 2, x + width / 2 - 1, y + height / 2 - 1]


def test_decoding_counts_the_last_pixel() -> None:
    clamp = math.log(1000 / 16)
    boxes = some_boxes(20, 0)
    deltas = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)) * 4
    found = WideBoxCoder(WEIGHTS, clamp, 1.0).decode_single(deltas, boxes)
    for box, delta, out in zip(boxes.tolist(), deltas.tolist(), found.tolist(), strict=True):
        expected = decoded_by_hand(delta[:4], box, clamp) + decoded_by_hand(delta[4:], box, clamp)
        assert out == pytest.approx(expected, abs=1e-3)


def test_encoding_is_the_inverse() -> None:
    coder = WideBoxCoder(WEIGHTS, 10.0, 1.0)
    boxes, proposals = some_boxes(20, 2), some_boxes(20, 3)
    deltas = coder.encode_single(boxes, proposals)
    torch.testing.assert_close(coder.decode_single(deltas, proposals), boxes, atol=1e-3, rtol=0)


def test_without_extra_width_the_bits_are_torchvisions() -> None:
    boxes, proposals = some_boxes(50, 4), some_boxes(50, 5)
    ours, theirs = WideBoxCoder(WEIGHTS, 4.0, 0.0), BoxCoder(WEIGHTS, 4.0)
    deltas = theirs.encode_single(boxes, proposals)
    assert torch.equal(ours.encode_single(boxes, proposals), deltas)
    assert torch.equal(
        ours.decode_single(deltas, proposals), theirs.decode_single(deltas, proposals)
    )


def test_a_box_ends_at_the_last_pixel_of_the_image() -> None:
    box = torch.tensor([[-5.0, 3.0, 700.0, 900.0]])
    for extra, expected in ((1.0, [0, 3, 639, 479]), (0.0, [0, 3, 640, 480])):
        last = last_places([(480, 640)], box, extra)
        assert clip(box, last).tolist() == [expected]


def test_overlap_counts_the_last_pixel() -> None:
    a, b = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[5.0, 0, 14, 9]])
    assert iou(a, b, 1.0).item() == pytest.approx(50 / 150)
    assert iou(a, b, 0.0).item() == pytest.approx(36 / 126)


@pytest.mark.parametrize("drops_equal", [True, False])
def test_a_box_that_overlaps_by_exactly_the_threshold(drops_equal: bool) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 4, 9], [100, 0, 109, 9]])  # half of the first
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    kept = suppressed(boxes, scores, groups, 0.5, extra_width=1.0, drops_equal=drops_equal)
    assert kept.tolist() == ([0, 2] if drops_equal else [0, 1, 2])


def test_boxes_without_area() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 799], [3, 3, 4, 4], [5, 5, 9, 5]])
    assert without_area(boxes).tolist() == [True, False, True]
    assert are_as_wide(boxes, 0.0, 1.0).tolist() == [True, True, True]
    assert are_as_wide(boxes, 2.0**-126, 0.0).tolist() == [False, True, False]


def test_suppression_by_logits_never_shows_nms_a_score_below_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 50
    boxes = torch.cat((corners, corners + 5 + torch.rand(200, 2) * 20), dim=1)
    logits = torch.randn(200).round(decimals=1)  # with ties
    groups = torch.randint(3, (200,))
    expected = batched_nms(boxes, logits, groups, 0.5)
    shown: list[float] = []

    def watched(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
        shown.append(scores.min().item())
        return batched_nms(boxes, scores, groups, threshold)

    monkeypatch.setattr(boxes_module, "batched_nms", watched)
    kept = suppressed(boxes, logits, groups, 0.5, extra_width=0.0, drops_equal=False)
    assert torch.equal(kept, expected)
    assert shown[0] > 0
