"""A load is complete, or says what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn

from raymrcnn.config import ModelConfig
from raymrcnn.errors import ConfigError, FetchError, WeightError
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.recipes import tiny
from raymrcnn.weights import backbone_init, load_into, torchvision_names
from raymrcnn.weights.names import CLASS_DEPENDENT, canonical_state

State = dict[str, Tensor]


def before_sequential(name: str) -> str:
    """A tensor's name as torchvision had it when it published its weights."""
    name = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(
        r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name
    )


def test_all_tensors_are_loaded(model: MaskRCNN, state: State) -> None:
    report = load_into(model, state, allow_new_heads=False)
    assert report.num_loaded == len(state)
    assert report.new == ()
    assert report.summary() == f"all {len(state)} tensors loaded"
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_names_of_the_published_files_are_known(model: MaskRCNN, state: State) -> None:
    old = {before_sequential(k): v for k, v in state.items()}
    old["backbone.body.bn1.num_batches_tracked"] = torch.tensor(5)
    assert "roi_heads.mask_head.mask_fcn4.bias" in old and "rpn.head.conv.bias" in old
    assert canonical_state(old).keys() == state.keys()
    load_into(model, old, allow_new_heads=False)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_torchvisions_model_loads_whole() -> None:
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    ours = build_mask_rcnn(ModelConfig(), 3, 64, 64)
    report = load_into(ours, theirs.state_dict(), allow_new_heads=False)
    assert report.new == ()
    assert report.num_loaded == len(ours.state_dict())


def test_heads_of_another_size_stay_fresh_and_are_named(
    five_classes: MaskRCNN, state: State
) -> None:
    fresh = {k: v.clone() for k, v in five_classes.state_dict().items()}
    report = load_into(five_classes, state, allow_new_heads=True)
    assert set(report.new) == set(CLASS_DEPENDENT)
    assert "roi_heads.mask_predictor.mask_fcn_logits" in report.summary()
    for name, value in five_classes.state_dict().items():
        expected = fresh[name] if name in CLASS_DEPENDENT else state[name]
        assert torch.equal(value, expected)


def test_heads_of_another_size_are_refused_without_leave(
    five_classes: MaskRCNN, state: State
) -> None:
    before = {k: v.clone() for k, v in five_classes.state_dict().items()}
    with pytest.raises(WeightError, match="6 of another shape") as caught:
        load_into(five_classes, state, allow_new_heads=False)
    assert "is [4, 32] instead of [6, 32]" in str(caught.value)
    assert "resnet18 with 3 classes" in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in five_classes.state_dict().items())


@pytest.mark.parametrize("leave", [True, False])
def test_what_does_not_fit_is_listed(model: MaskRCNN, state: State, leave: bool) -> None:
    changed = dict(state)
    del changed["backbone.body.conv1.weight"]
    changed["surprise.weight"] = torch.zeros(1)
    changed["rpn.head.conv.0.0.bias"] = torch.zeros(99)
    with pytest.raises(WeightError) as caught:
        load_into(model, changed, allow_new_heads=leave)
    message = str(caught.value)
    assert "1 missing (backbone.body.conv1.weight)" in message
    assert "1 unknown (surprise.weight)" in message
    assert "1 of another shape (rpn.head.conv.0.0.bias is [99] instead of [16])" in message


def test_a_long_list_is_cut(model: MaskRCNN, state: State) -> None:
    with pytest.raises(WeightError, match=r"missing \([^()]*, \.\.\.\)") as caught:
        load_into(model, {"a": torch.zeros(1)}, allow_new_heads=False)
    assert len(str(caught.value)) < 400
    with pytest.raises(WeightError):
        load_into(build_mask_rcnn(tiny().model, 3, 64, 64), state, allow_new_heads=True)


def test_an_imagenet_classifier_fills_the_body_alone(model: MaskRCNN) -> None:
    classifier = resnet18(weights=None).state_dict()
    classifier["bn1.running_mean"].fill_(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_into(model, classifier, allow_new_heads=True)
    for name, value in model.state_dict().items():
        if name.startswith("backbone.body."):
            assert torch.equal(value, classifier[name.removeprefix("backbone.body.")])
        else:
            assert torch.equal(value, before[name]) and name in report.new
    assert len(report.summary()) < 200
    with pytest.raises(WeightError, match="missing"):
        load_into(model, classifier, allow_new_heads=False)


def test_a_classifier_of_another_depth_is_refused(state: State) -> None:
    other = build_mask_rcnn(ModelConfig(backbone="resnet50"), 3, 64, 64)
    with pytest.raises(WeightError, match="of another shape"):
        load_into(other, resnet18(weights=None).state_dict(), allow_new_heads=True)


def test_norms_made_with_another_eps_compute_the_same(small: ModelConfig, state: State) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        k: torch.rand(v.shape, generator=generator) * 1e-3 + 1e-4 if "running_var" in k else v
        for k, v in state.items()
    }
    image = torch.rand(1, 3, 64, 64, generator=generator)
    outputs = []
    for eps, made_with in ((0.0, None), (None, 0.0), (None, None)):
        config = ModelConfig(**{**vars(small), "frozen_norm_eps": eps})
        model = build_mask_rcnn(config, 3, 64, 96)
        load_into(model, state, allow_new_heads=False, norm_eps=made_with)
        with torch.no_grad():
            output = model.backbone.body(image)["3"]
        outputs.append(output / output.abs().max())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    assert not torch.allclose(outputs[2], outputs[0], rtol=0, atol=1e-3)


def test_imagenet_weights_come_from_the_cache(
    model: MaskRCNN, small: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise FetchError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torchvision_names, "download", unreachable)
    with pytest.raises(WeightError, match="give --weights FILE, or --set model.init=scratch"):
        backbone_init(model, small)


def test_imagenet_weights_do_not_fit_group_norms() -> None:
    with pytest.raises(ConfigError, match="model.norm=frozen"):
        backbone_init(build_mask_rcnn(tiny().model, 3, 64, 64), tiny().model)


@pytest.mark.parametrize("conventions", ["detectron", "detectron2"])
def test_torchvisions_imagenet_weights_are_not_taken_for_other_conventions(
    conventions: str,
) -> None:
    config = ModelConfig(backbone="resnet18", conventions=conventions)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no ImageNet weights are known for resnet18") as caught:
        backbone_init(build_mask_rcnn(config, 3, 64, 64), config)
    assert "R-101.pkl" in caught.value.todo


def test_a_part_is_loaded_where_that_is_allowed_and_the_rest_is_named(
    model: MaskRCNN, state: State
) -> None:
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    odd = dict(state)
    del odd["rpn.head.conv.0.0.bias"]
    odd["roi_heads.box_head.fc6.weight"] = torch.zeros(2, 2)
    odd["optimizer.momentum"] = torch.zeros(3)
    with pytest.raises(WeightError, match="1 missing"):
        load_into(model, odd, allow_new_heads=True)
    with pytest.raises(WeightError, match="1 missing"):
        load_into(model, odd, allow_new_heads=True, allow_left=True)
    report = load_into(model, odd, allow_new_heads=True, allow_left=True, allow_new=True)
    assert set(report.new) == {"rpn.head.conv.0.0.bias", "roi_heads.box_head.fc6.weight"}
    assert set(report.left) == {"roi_heads.box_head.fc6.weight", "optimizer.momentum"}
    assert report.num_loaded == len(state) - 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in report.new else state[name])
    assert "optimizer.momentum" in report.summary()
    with pytest.raises(WeightError, match="missing"):
        load_into(model, {"x": torch.zeros(1)}, allow_new_heads=True, allow_left=True,
                  allow_new=True)  # fmt: skip
