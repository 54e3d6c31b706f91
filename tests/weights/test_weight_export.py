"""Files for other programs: they take them whole, and every bit comes back."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import (
    MaskRCNN,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from raymrcnn.config import ModelConfig
from raymrcnn.errors import ConfigError, OutputError, WeightError
from raymrcnn.infer.convert import convert_weights
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.weights import load_model_source, load_source
from raymrcnn.weights.export import write_converted

V2 = {"norm": "batch", "rpn_convs": 2, "box_head_convs": 4}
SLIM = {"fpn_channels": 32, "box_head_channels": 48, "mask_head_channels": 16}
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "R-50 v1": (SLIM, 90),
    "R-50 v2": ({**V2, **SLIM}, 3),
    "R-101": ({"backbone": "resnet101", **SLIM}, 80),
    "X-101": ({"backbone": "resnext101_32x8d", "conventions": "detectron", **SLIM}, 2),
    "R-18, group norms, one class": (
        {"backbone": "resnet18", "norm": "group", "trainable_stages": 5, "init": "scratch", **SLIM},
        1,
    ),
    "R-18, heads for all classes": (
        {
            "backbone": "resnet18",
            "class_agnostic_boxes": True,
            "class_agnostic_masks": True,
            **SLIM,
        },
        3,
    ),
    "R-18, boxes for all classes": (
        {"backbone": "resnet18", "class_agnostic_boxes": True, **SLIM},
        2,
    ),
    "R-50 of Detectron": ({"conventions": "detectron", "frozen_norm_eps": 0.0, **SLIM}, 7),
}
TARGETS = [
    ("torchvision", "w.pth"),
    ("detectron2", "w.pth"),
    ("detectron2", "w.pkl"),
    ("safetensors", "w.safetensors"),
]


def shapes(config: ModelConfig, num_classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(build_mask_rcnn(config, num_classes, 64, 96).state_dict())


def noise(config: ModelConfig, num_classes: int, *, whole: bool = False) -> dict[str, Tensor]:
    """Random bits for every tensor, so also what is not a number.

    Kernels of the body have fewer values than they should, unless it is to be whole: they are most
    of the file, and go over one by one under other names alone.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in shapes(config, num_classes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        small = name.startswith("backbone.body.") and tensor.ndim == 4 and not whole
        shape = (*tensor.shape[:1], 1, 1, 2) if small else tensor.shape
        bits = torch.randint(-(2**31), 2**31, shape, generator=generator)
        state[name] = bits.to(torch.int32).view(torch.float32)
    return state


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.contiguous().view(torch.int32), other.contiguous().view(torch.int32)
    )


def info_of(config: ModelConfig, num_classes: int) -> ModelInfo:
    return ModelInfo(
        model=asdict(config),
        categories=tuple(Category(id=3 * i, name=f"kind {i}") for i in range(1, num_classes + 1)),
        short_side=64,
        long_side=96,
    )


@pytest.mark.parametrize(("target", "name"), TARGETS, ids=[f"{t} {n}" for t, n in TARGETS])
@pytest.mark.parametrize(("fields", "num_classes"), NETWORKS.values(), ids=NETWORKS.keys())
def test_every_tensor_and_the_record_come_back(
    fields: dict[str, Any], num_classes: int, target: str, name: str, tmp_path: Path
) -> None:
    config = ModelConfig(**fields)
    state, info = noise(config, num_classes), info_of(config, num_classes)
    write_converted(state, info, target, tmp_path / name)
    found = load_source(str(tmp_path / name))
    counters = {n for n in state if n.endswith("num_batches_tracked")}
    assert found.state.keys() - counters == state.keys() - counters
    for key in state.keys() - counters:
        assert same(found.state[key], state[key]), key
    again = load_model_source(str(tmp_path / name))
    assert again.config == config
    assert again.categories == info.categories
    assert (again.short_side, again.long_side) == (64, 96)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_torchvision_has_no_heads_for_all_classes(tmp_path: Path) -> None:
    fields, num_classes = NETWORKS["R-18, heads for all classes"]
    config = ModelConfig(**fields)
    model = tmp_path / "w.safetensors"
    state = noise(config, num_classes, whole=True)
    write_converted(state, info_of(config, num_classes), "safetensors", model)
    with pytest.raises(WeightError, match="boxes and masks of all classes at once") as caught:
        convert_weights(str(model), "torchvision", tmp_path / "w.pth")
    assert "--to detectron2" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [model.name]
    made = convert_weights(str(model), "detectron2", tmp_path / "w.pth")
    assert "CLS_AGNOSTIC_BBOX_REG True" in made.load_with
    assert "CLS_AGNOSTIC_MASK True" in made.load_with


@pytest.mark.parametrize("network", ["R-50 v1", "R-50 v2", "R-101"])
def test_torchvisions_own_network_takes_the_file_strictly(network: str, tmp_path: Path) -> None:
    fields, num_classes = NETWORKS[network]
    config = ModelConfig(**{name: value for name, value in fields.items() if name not in SLIM})
    if network == "R-101":
        backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None)
        theirs = MaskRCNN(backbone, num_classes=num_classes + 1)
    else:
        build = maskrcnn_resnet50_fpn_v2 if network.endswith("v2") else maskrcnn_resnet50_fpn
        theirs = build(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    state = noise(config, num_classes, whole=True)
    write_converted(state, info_of(config, num_classes), "torchvision", tmp_path / "w.pth")
    theirs.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=True)
    for name, tensor in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert same(tensor, state[name]), name
    # What torchvision saves of it then is a plain state dict, and loads here as well.
    torch.save(theirs.state_dict(), tmp_path / "plain.pth")
    plain = load_source(str(tmp_path / "plain.pth")).state
    assert all(same(plain[name], state[name]) for name in plain)


def test_detectron2_finds_the_background_where_it_looks_for_it(tmp_path: Path) -> None:
    config = ModelConfig(backbone="resnet18", **SLIM)
    state = noise(config, 4)
    write_converted(state, info_of(config, 4), "detectron2", tmp_path / "w.pkl")
    document = pickle.loads((tmp_path / "w.pkl").read_bytes())
    assert (document["__author__"], document["matching_heuristics"]) == ("raymrcnn", False)
    theirs = document["model"]
    assert all(type(array) is np.ndarray for array in theirs.values())
    logits, deltas, masks = (
        state[f"roi_heads.{layer}.weight"].view(torch.int32)
        for layer in (
            "box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"
        )
    )  # fmt: skip
    found = theirs["roi_heads.box_predictor.cls_score.weight"].view(np.int32)
    assert np.array_equal(found, torch.cat((logits[1:], logits[:1])).numpy())
    found = theirs["roi_heads.box_predictor.bbox_pred.weight"].view(np.int32)
    assert np.array_equal(found, deltas[4:].numpy())  # four rows a class, in their order
    found = theirs["roi_heads.mask_head.predictor.weight"].view(np.int32)
    assert np.array_equal(found, masks[1:].numpy())


def test_detectron2s_own_names_come_back_from_here(shared: Path, tmp_path: Path) -> None:
    """Names and shapes of a file of its own, through ours and back."""
    names = np.load(shared / "oracle" / "r50_detectron2.npz").files
    expected = {name.partition("/")[2] for name in names if not name.startswith("shape/")}
    config = ModelConfig(conventions="detectron2")
    write_converted(noise(config, 80), info_of(config, 80), "detectron2", tmp_path / "w.pth")
    document = torch.load(tmp_path / "w.pth", weights_only=True)
    assert document["model"].keys() == expected


def test_names_of_heads_with_more_layers_are_detectron2s(tmp_path: Path) -> None:
    """RPN.CONV_DIMS [-1, -1], ROI_BOX_HEAD.NUM_CONV 4, NUM_FC 1, norms in every place."""
    config = ModelConfig(**V2, **SLIM)
    write_converted(noise(config, 3), info_of(config, 3), "detectron2", tmp_path / "w.pth")
    names = torch.load(tmp_path / "w.pth", weights_only=True)["model"].keys()
    assert {
        "proposal_generator.rpn_head.conv.conv0.weight",
        "proposal_generator.rpn_head.conv.conv1.bias",
        "roi_heads.box_head.conv4.weight",
        "roi_heads.box_head.conv4.norm.running_var",
        "roi_heads.box_head.fc1.bias",
        "roi_heads.mask_head.mask_fcn1.weight",
        "backbone.fpn_lateral2.norm.weight",
        "backbone.fpn_output5.norm.bias",
    } <= names
    assert not any(re.search(r"fc2|mask_fcn\d\.norm\.\d|\.conv\.weight", name) for name in names)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A file of a small detector with classes of its own."""
    config = ModelConfig(backbone="resnet18", **SLIM)
    path = tmp_path / "run.safetensors"
    write_converted(noise(config, 3, whole=True), info_of(config, 3), "safetensors", path)
    return path


def test_what_torchvision_does_otherwise_is_told(tmp_path: Path) -> None:
    config = ModelConfig(
        conventions="detectron", anchor_sizes=(8, 16, 32, 64, 128), frozen_norm_eps=0.0, **SLIM
    )
    source = tmp_path / "a.safetensors"
    write_converted(noise(config, 3, whole=True), info_of(config, 3), "safetensors", source)
    done = convert_weights(str(source), "torchvision", tmp_path / "b.pth")
    told = {one.name: (one.weights, one.program) for one in done.differences}
    assert told["channel_order"] == ("BGR", "RGB")
    assert told["stride_in_1x1"] == ("True", "False")
    assert told["extra_width"] == ("1", "0")
    assert told["frozen_norm_eps"] == ("0", "1e-05")
    assert told["anchor_sizes"] == ("8, 16, 32, 64, 128", "32, 64, 128, 256, 512")
    assert told["short_side"] == ("64", "800")
    assert "mask_paste" not in told


def test_nothing_is_told_where_nothing_differs(tmp_path: Path) -> None:
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    done = convert_weights(str(tmp_path / "a.pth"), "torchvision", tmp_path / "b.pth")
    assert done.differences == ()
    assert done.load_with == (
        "maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)"
    )


def test_a_backbone_alone_becomes_safetensors_and_nothing_else(tmp_path: Path) -> None:
    blobs = {"conv1_w": np.ones((64, 3, 7, 7), np.float32)}
    blobs |= {f"res_conv1_bn_{kind}": np.ones(64, np.float32) for kind in "sb"}
    (tmp_path / "R.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    source = str(tmp_path / "R.pkl")
    done = convert_weights(source, "safetensors", tmp_path / "R.safetensors")
    assert done.kind == "backbone"
    before, after = load_source(source), load_source(str(tmp_path / "R.safetensors"))
    assert all(torch.equal(after.state[name], before.state[name]) for name in before.state)
    assert (after.conventions, after.norm_eps) == (("detectron", "detectron2"), 0.0)
    with pytest.raises(WeightError, match="ImageNet network alone"):
        convert_weights(source, "detectron2", tmp_path / "R.pth")


def test_what_is_there_is_kept_unless_told_otherwise(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.pth"
    out.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        convert_weights(str(run), "torchvision", out)
    assert out.read_text() == "mine"
    convert_weights(str(run), "torchvision", out, overwrite=True)
    assert load_source(str(out)).info is not None


@pytest.mark.parametrize(
    ("target", "name", "complaint"),
    [
        ("caffe2", "w.pkl", "is none of safetensors, torchvision, detectron2"),
        ("torchvision", "w.pkl", "does not end in .pth or .pt"),
        ("detectron2", "w.safetensors", "does not end in .pth or .pkl"),
        ("safetensors", "none/w.safetensors", "no such folder"),
    ],
)
def test_a_target_that_cannot_be_is_refused(
    run: Path, tmp_path: Path, target: str, name: str, complaint: str
) -> None:
    with pytest.raises((ConfigError, OutputError), match=complaint):
        convert_weights(str(run), target, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_a_disk_that_fills_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: No space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        convert_weights(str(run), "torchvision", tmp_path / "w.pth")
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_what_comes_back_otherwise_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def damaged(document: Any, stream: Any) -> None:
        name = "backbone.body.conv1.weight"
        save({**document, name: document[name] + 1}, stream)

    monkeypatch.setattr(torch, "save", damaged)
    with pytest.raises(OutputError, match="did not come back as it was written"):
        convert_weights(str(run), "torchvision", tmp_path / "w.pth")
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


@pytest.mark.parametrize(
    "record",
    [
        "", "[", "[" * 100_000, "null", "3", '"text"', "[]", "{}", '{"backbone": 3}',
        '{"backbone": {"program": "x", "conventions": ["mine"], "norm_eps": 0}}',
        '{"backbone": {"program": "x", "conventions": [], "norm_eps": 0}}',
        '{"model": {}, "categories": [[1]], "short_side": 8, "long_side": 9}',
        '{"model": {}, "categories": [[Infinity, "a"]], "short_side": 8, "long_side": 9}',
        '{"model": {}, "categories": [], "short_side": 0, "long_side": 9}',
        '{"model": {}, "categories": [], "short_side": 9, "long_side": 1e30}',
        '{"model": [], "categories": 3, "short_side": 9, "long_side": 9}',
    ],
)  # fmt: skip
def test_a_record_that_says_nothing_sensible_is_one_line(record: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"raymrcnn": record})
    with pytest.raises(WeightError, match="malformed raymrcnn record") as caught:
        load_source(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_record_is_plain_json(run: Path) -> None:
    from safetensors import safe_open

    with safe_open(run, "pt") as opened:
        record = json.loads(opened.metadata()["raymrcnn"])
    assert record["model"]["backbone"] == "resnet18"
    assert record["categories"][0] == [3, "kind 1"]
