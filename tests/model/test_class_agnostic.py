"""One box or mask for all classes: the network of each class's own, all of them the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.predictor import Predictor
from raymrcnn.recipes import tiny
from raymrcnn.structures import ImageRef, Target

Picture = Callable[[int, int, int], Tensor]

NUM_CLASSES = 4
# Under the names of our network: fields of the recipe, layers, and rows of a class in them.
HEADS = {
    "class_agnostic_boxes": ("roi_heads.box_predictor.bbox_pred", 4),
    "class_agnostic_masks": ("roi_heads.mask_predictor.mask_fcn_logits", 1),
}


def config_of(fields: Sequence[str] = ()) -> ModelConfig:
    small = replace(tiny().model, rpn_post_nms_train=40, rpn_post_nms_test=40)
    return replace(small, **dict.fromkeys(fields, True))


def pair(fields: Sequence[str]) -> tuple[MaskRCNN, MaskRCNN]:
    """A network with heads for all classes, and one whose classes have a copy each."""
    torch.manual_seed(0)
    one = build_mask_rcnn(config_of(fields), NUM_CLASSES, 96, 128)
    heads = one.roi_heads
    with torch.no_grad():
        for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
            layer.weight.mul_(8)  # so that scores and boxes differ
        heads.mask_predictor.mask_fcn_logits.weight.mul_(20)
    state = one.state_dict()
    for name in fields:
        layer, rows = HEADS[name]
        for kind in ("weight", "bias"):
            own = state[f"{layer}.{kind}"]
            assert len(own) == rows
            state[f"{layer}.{kind}"] = own.repeat(1 + NUM_CLASSES, *[1] * (own.ndim - 1))
    copies = build_mask_rcnn(config_of(), NUM_CLASSES, 96, 128)
    copies.load_state_dict(state)
    return one, copies


@pytest.mark.parametrize("fields", [*([name] for name in HEADS), list(HEADS)])
def test_detections_are_those_of_copies(fields: list[str], picture: Picture) -> None:
    images = [picture(96, 120, seed) for seed in range(3)]
    one, copies = (model.eval().detect(images) for model in pair(fields))
    for mine, theirs in zip(one, copies, strict=True):
        assert len(mine.scores) > 10
        assert len(mine.labels.unique()) > 1
        assert torch.equal(mine.labels, theirs.labels)
        torch.testing.assert_close(mine.boxes, theirs.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(mine.mask_probs, theirs.mask_probs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("fields", [*([name] for name in HEADS), list(HEADS)])
def test_losses_are_those_of_copies_and_gradients_their_sum(
    fields: list[str], picture: Picture
) -> None:
    masks = torch.zeros(3, 96, 120, dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 8, 60, 50], [40, 20, 110, 90], [5, 60, 40, 90]])
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long(), strict=True):
        mask[y1:y2, x1:x2] = 1
    target = Target(image_id=3, boxes=boxes, labels=torch.tensor([1, 2, 4]), masks=masks)
    one, copies = pair(fields)
    sums = [
        sum(model.losses([picture(96, 120, 1)], [target]).values(), torch.zeros(()))
        for model in (one, copies)
    ]
    torch.testing.assert_close(*sums)
    for total in sums:
        total.backward()
    for name in fields:
        layer, rows = HEADS[name]
        for kind in ("weight", "bias"):
            own = one.get_parameter(f"{layer}.{kind}").grad
            each = copies.get_parameter(f"{layer}.{kind}").grad
            assert own is not None and each is not None and own.any()
            torch.testing.assert_close(own, each.unflatten(0, (-1, rows)).sum(0))


def test_of_one_class_both_are_the_same_network() -> None:
    with torch.device("meta"):
        shapes = [
            {n: t.shape for n, t in build_mask_rcnn(config_of(f), 1, 96, 128).state_dict().items()}
            for f in ([], list(HEADS))
        ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_and_boxes_reach_the_results(dtype: torch.dtype, picture: Picture) -> None:
    one, copies = pair(list(HEADS))
    ref = ImageRef(image_id=1, file_name="a.jpg", uri="a.jpg")
    image = picture(90, 110, 2)
    found, theirs = (
        Predictor(model, (1, 2, 3, 4), torch.device("cpu"), dtype).predict([image], [ref])[0]
        for model in (one, copies)
    )
    assert len(found.rles) == len(found.scores) > 10
    assert len(found.scores) == len(theirs.scores)
    assert {len(set(of.category_ids.tolist())) > 1 for of in (found, theirs)} == {True}
