"""Run folders, torchvision names, and what a bare state dict tells."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from raymrcnn.config import ModelConfig
from raymrcnn.errors import FetchError, WeightError
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.recipes import tiny
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.train.checkpoint import save_checkpoint
from raymrcnn.weights import (
    infer_architecture,
    load_into,
    load_model_source,
    load_source,
    torchvision_names,
)
from raymrcnn.weights.torchvision_names import NORM_EPS, coco_categories, fetch

State = dict[str, Tensor]
CATEGORIES = (Category(id=7, name="cat"), None, Category(id=9, name="dog"))


@pytest.fixture
def run(state: State, small: ModelConfig, tmp_path: Path) -> Path:
    """A run folder with a checkpoint at step 5."""
    info = ModelInfo(
        model=asdict(replace(small, frozen_norm_eps=0.0)),
        categories=CATEGORIES,
        short_side=64,
        long_side=96,
    )
    save_checkpoint(tmp_path, 5, state, {}, info, keep=3)
    return tmp_path


def test_a_run_folder_is_its_newest_checkpoint(run: Path, state: State) -> None:
    newer = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    info = load_source(str(run)).info
    assert info is not None
    save_checkpoint(run, 6, newer, {}, info, keep=3)
    for path in (run, run / "checkpoints" / "step-0000006"):
        source = load_source(str(path))
        assert all(torch.equal(source.state[k], v) for k, v in newer.items())
        assert "step 6" in source.description
    older = load_source(str(run / "checkpoints" / "step-0000005"))
    assert torch.equal(
        older.state["backbone.body.conv1.weight"], state["backbone.body.conv1.weight"]
    )


def test_a_run_folder_tells_architecture_and_categories(run: Path, small: ModelConfig) -> None:
    source = load_model_source(str(run))
    assert source.config == replace(small, frozen_norm_eps=0.0)
    assert source.categories == CATEGORIES
    assert (source.short_side, source.long_side) == (64, 96)
    assert load_source(str(run)).norm_eps == 0.0
    model = build_mask_rcnn(source.config, len(source.categories), 64, 96)
    model.load_state_dict(source.state)


def test_a_folder_without_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="holds no checkpoint"):
        load_source(str(tmp_path))


def test_an_altered_checkpoint_is_refused(run: Path) -> None:
    path = run / "checkpoints" / "step-0000005" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightError, match="is not the file that was saved"):
        load_source(str(run))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.pop("files"), "KeyError: 'files'"),
        (lambda d: d.update(format=9), "has format 9, and 1 is known"),
        (lambda d: d["model_info"].pop("categories"), "KeyError: 'categories'"),
        (lambda d: d["model_info"].update(categories=[[1]]), "IndexError"),
        (lambda d: d["model_info"]["model"].update(wings=2), "unknown field model.wings"),
        (lambda d: d["model_info"]["model"].update(backbone="vgg"), "'vgg' is not one of"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(run: Path, change: object, complaint: str) -> None:
    path = run / "checkpoints" / "step-0000005" / "checkpoint.json"
    document = json.loads(path.read_text())
    change(document)  # type: ignore[operator]
    path.write_text(json.dumps(document))
    with pytest.raises(WeightError, match=complaint):
        load_source(str(run))


def test_a_manifest_cut_short_is_one_line(run: Path) -> None:
    path = run / "checkpoints" / "step-0000005" / "checkpoint.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(WeightError, match="is not JSON"):
        load_source(str(run))


def test_a_missing_model_file_is_one_line(run: Path) -> None:
    (run / "checkpoints" / "step-0000005" / "model.safetensors").unlink()
    with pytest.raises(WeightError, match="cannot be read"):
        load_source(str(run))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
def test_architecture_is_told_from_tensors(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, fpn_channels=64, box_head_channels=32)  # type: ignore[arg-type]
    with torch.device("meta"):
        state = dict(build_mask_rcnn(config, 4, 800, 1333).state_dict())
    assert infer_architecture(state) == (config, 4)


def test_group_norms_are_told_from_tensors() -> None:
    config, num_classes = infer_architecture(build_mask_rcnn(tiny().model, 2, 64, 64).state_dict())
    assert num_classes == 2
    assert config.norm == "group"
    assert config.mask_head_channels == tiny().model.mask_head_channels


def test_torchvisions_own_model_is_told_from_its_tensors() -> None:
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert infer_architecture(theirs.state_dict()) == (ModelConfig(), 90)


def test_torchvisions_second_version_is_told_and_loads_whole() -> None:
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=3)
    config, num_classes = infer_architecture(theirs.state_dict())
    assert (config.norm, config.rpn_convs, config.box_head_convs) == ("batch", 2, 4)
    model = build_mask_rcnn(config, num_classes, 64, 96)
    state = {n: t + 1 for n, t in theirs.state_dict().items() if "num_batches" not in n}
    load_into(model, state, allow_new_heads=False)
    ours = model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())


def test_grouped_convolutions_are_told_from_plain_ones() -> None:
    with torch.device("meta"):
        model = build_mask_rcnn(ModelConfig(backbone="resnext101_32x8d"), 80, 64, 96)
    assert infer_architecture(model.state_dict())[0].backbone == "resnext101_32x8d"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("roi_heads.mask_head.0.0.weight"), "no roi_heads.mask_head.0.0.weight"),
        (lambda s: s.pop("backbone.body.layer2.1.conv1.weight"), None),
        (lambda s: s.update({"backbone.body.layer4.7.conv1.weight": torch.zeros(1)}), "3, 4, 23"),
        (lambda s: s.update({"rpn.head.cls_logits.weight": torch.zeros(9, 1, 1, 1)}), "9 anchors"),
    ],
)
def test_a_strange_network_says_what_is_strange(
    state: State, change: object, complaint: str | None
) -> None:
    changed = dict(state)
    change(changed)  # type: ignore[operator]
    if complaint is None:
        assert infer_architecture(changed)[0].backbone == "resnet18"  # the load tells what lacks
        return
    with pytest.raises(WeightError) as caught:
        infer_architecture(changed)
    assert complaint in str(caught.value) or "blocks" in str(caught.value)


def test_a_bare_file_of_91_classes_has_coco_ids(model: MaskRCNN, tmp_path: Path) -> None:
    state = build_mask_rcnn(ModelConfig(backbone="resnet18"), 90, 64, 64).state_dict()
    save_file(dict(state), tmp_path / "coco.safetensors")
    source = load_model_source(str(tmp_path / "coco.safetensors"))
    assert len(source.categories) == 90
    assert source.categories[17] == Category(id=18, name="dog")
    assert source.categories[11] is None
    assert (source.short_side, source.long_side) == (800, 1333)


def test_a_bare_file_of_other_classes_has_numbered_ones(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "m.safetensors")
    source = load_model_source(str(tmp_path / "m.safetensors"))
    assert [c.id for c in source.categories if c] == [1, 2, 3]
    assert source.config.fpn_channels == 16


def test_a_classifier_is_no_detector(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightError, match="holds an ImageNet classifier") as caught:
        load_model_source(str(tmp_path / "r18.pth"))
    assert str(tmp_path) in str(caught.value)


def test_coco_categories_are_those_of_the_annotations(shared: Path) -> None:
    path = shared / "data" / "coco-mini" / "annotations" / "instances_val2017.json"
    expected = [(c["id"], c["name"]) for c in json.loads(path.read_text())["categories"]]
    assert [(c.id, c.name) for c in coco_categories() if c] == sorted(expected)
    assert len(expected) == 80


def test_without_network_a_name_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise FetchError("could not be fetched (Name or service not known)")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torchvision_names, "download", unreachable)
    with pytest.raises(WeightError, match="could not be fetched .Name or service") as caught:
        load_source("MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
    assert "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cached_file_is_checked_against_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    torch.save(state, path)
    assert fetch("MaskRCNN_ResNet50_FPN_Weights.COCO_V1") == path
    with pytest.raises(WeightError, match="is damaged"):
        load_source("MaskRCNN_ResNet50_FPN_Weights.COCO_V1")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(WeightError, match=r"did you mean MaskRCNN_ResNet50_FPN_Weights\.COCO_V1"):
        load_source("MaskRCNN_ResNet50_FPN_Weights.COCO_V9")
    with pytest.raises(WeightError, match="no weights of that name"):
        load_source("Nothing_Weights.AT_ALL")


def test_the_published_file_is_known_by_its_hash(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "renamed.pth"
    torch.save(state, path)
    assert load_source(str(path)).norm_eps is None
    monkeypatch.setitem(NORM_EPS, load_source(str(path)).digest[:8], 0.0)
    assert load_source(str(path)).norm_eps == 0.0
    assert load_model_source(str(path)).config.frozen_norm_eps == 0.0
