"""detectron2's files: the pixels that they were made with, one class, heads for all classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raymrcnn.config import ModelConfig
from raymrcnn.errors import WeightError
from raymrcnn.model.conventions import DETECTRON2
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.weights import infer_architecture, load_into, load_model_source
from raymrcnn.weights.detectron2 import PIXEL_MEAN, PIXEL_STD, to_detectron2
from raymrcnn.weights.programs import recognise

AGNOSTIC = ("class_agnostic_boxes", "class_agnostic_masks")
SLIM = ModelConfig(
    backbone="resnet18", fpn_channels=16, box_head_channels=32, mask_head_channels=16
)


def theirs(num_classes: int) -> dict[str, Tensor]:
    """What detectron2 itself would save: no row of the background's."""
    return to_detectron2(build_mask_rcnn(SLIM, num_classes, 64, 96).state_dict())[0]


def test_the_pixels_that_are_asked_for_are_the_sheets() -> None:
    assert DETECTRON2.image_mean == PIXEL_MEAN
    assert DETECTRON2.image_std == PIXEL_STD[False]
    assert DETECTRON2.resnext_image_std == PIXEL_STD[True]


def test_pixels_of_its_recipes_are_taken_and_others_refused(tmp_path: Path) -> None:
    state = theirs(3)
    known = {
        "pixel_mean": torch.tensor(PIXEL_MEAN).view(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
    }
    torch.save({"model": {**state, **known}}, tmp_path / "a.pth")
    assert load_model_source(str(tmp_path / "a.pth")).config.conventions == "detectron2"
    for name in known:
        other = {**known, name: torch.full((3, 1, 1), 58.4)}
        torch.save({"model": {**state, **other}}, tmp_path / "b.pth")
        with pytest.raises(WeightError, match=f"was made with {name}") as caught:
            load_model_source(str(tmp_path / "b.pth"))
        assert str(caught.value).startswith(str(tmp_path / "b.pth"))


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_a_detector_of_few_classes_loads_whole(num_classes: int) -> None:
    found = recognise(theirs(num_classes)).state
    assert infer_architecture(found)[1] == num_classes
    load_into(build_mask_rcnn(SLIM, num_classes, 64, 96), found, allow_new_heads=False)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("name", ["class_agnostic_boxes", "class_agnostic_masks"])
def test_a_head_for_all_classes_at_once_loads_whole(name: str, num_classes: int) -> None:
    state = theirs(num_classes)
    layer, rows = {
        "class_agnostic_boxes": ("roi_heads.box_predictor.bbox_pred", 4),
        "class_agnostic_masks": ("roi_heads.mask_head.predictor", 1),
    }[name]
    for kind in ("weight", "bias"):
        state[f"{layer}.{kind}"] = state[f"{layer}.{kind}"][:rows]
    named = recognise(state)
    config, found = infer_architecture(named.state)
    assert found == num_classes
    # What is not asked for stays as it is.
    assert {n for n in AGNOSTIC if getattr(config, n)} == {name}
    model = build_mask_rcnn(config, num_classes, 64, 96)
    assert load_into(model, named.state, allow_new_heads=False).new == ()
    back, background = to_detectron2(model.state_dict())
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert len(background) == 2  # of the layer that tells classes apart


def test_a_head_of_a_wrong_size_is_not_taken_for_one_of_all_classes() -> None:
    state = theirs(5)
    for kind in ("weight", "bias"):
        key = f"roi_heads.box_predictor.bbox_pred.{kind}"
        state[key] = state[key][:8]  # two classes of five
    found = recognise(state).state
    config, num_classes = infer_architecture(found)
    with pytest.raises(WeightError, match=r"bbox_pred.* is \[8, 32\] instead of \[24, 32\]"):
        load_into(build_mask_rcnn(config, num_classes, 64, 96), found, allow_new_heads=False)
