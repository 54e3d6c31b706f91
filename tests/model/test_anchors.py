"""Anchors are laid out as in the program whose conventions they follow."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from raymrcnn.model.anchors import PyramidAnchors, cell_anchors
from raymrcnn.model.conventions import CONVENTIONS, DETECTRON, DETECTRON2, TORCHVISION

SIZES, RATIOS, STRIDES = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64)


def levels(height: int, width: int) -> list[torch.Tensor]:
    sides = [(height // s, width // s) for s in STRIDES[:4]]
    sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    return [torch.zeros(1, 1, *side) for side in sides]


def test_torchvision_sheet_gives_torchvisions_anchors() -> None:
    images = ImageList(torch.zeros(1, 3, 416, 544), [(416, 544)])
    ours = PyramidAnchors(SIZES, RATIOS, STRIDES, TORCHVISION)
    theirs = AnchorGenerator(tuple((s,) for s in SIZES), (RATIOS,) * 5)
    expected = theirs(images, levels(416, 544))[0]
    assert torch.equal(ours(images, levels(416, 544))[0], expected)


def test_detectron_anchors_are_the_published_numbers() -> None:
    # Of the 16 px cell with a scale of 8, as in the comment of generate_anchors, which counts
    # from 1: (-83, -39, 100, 56), (-55, -55, 72, 72), (-35, -79, 52, 96).
    found = cell_anchors(128, RATIOS, 16, DETECTRON)
    assert found.tolist() == [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]


def test_detectron2_anchors_have_the_exact_area_and_stand_on_the_corner() -> None:
    found = cell_anchors(32, RATIOS, 4, DETECTRON2)
    torch.testing.assert_close(found[:, :2], -found[:, 2:])
    sides = found[:, 2:] - found[:, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 1024.0))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor(RATIOS))


@pytest.mark.parametrize("name", ["detectron", "detectron2"])
def test_coarsest_anchors_are_64_apart_whatever_the_padding(name: str) -> None:
    images = ImageList(torch.zeros(2, 3, 800, 1088), [(800, 1066), (700, 1000)])
    anchors = PyramidAnchors(SIZES, RATIOS, STRIDES, CONVENTIONS[name])
    found = anchors(images, levels(800, 1088))
    assert len(found) == 2 and torch.equal(found[0], found[1])
    top = found[0][-13 * 17 * 3 :].view(13, 17, 3, 4)
    apart = torch.tensor([0.0, 64, 0, 64]).expand(12, 17, 3, 4)
    torch.testing.assert_close(top[1:] - top[:-1], apart, atol=1e-3, rtol=0)
    torchvisions = PyramidAnchors(SIZES, RATIOS, STRIDES, TORCHVISION)
    top = torchvisions(images, levels(800, 1088))[0][-13 * 17 * 3 :].view(13, 17, 3, 4)
    assert (top[1, 0, 0, 1] - top[0, 0, 0, 1]).item() == 61
