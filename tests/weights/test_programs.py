"""Files of other programs: each name has its place here, and nothing is skipped in silence."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raymrcnn.config import ModelConfig
from raymrcnn.errors import ConfigError, WeightError
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.weights import load_into, load_model_source, load_source
from raymrcnn.weights.programs import recognise


@pytest.fixture(scope="module")
def oracle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded files, as the programs themselves publish theirs."""
    folder = tmp_path_factory.mktemp("oracle")
    for kind, name in (
        ("caffe2", "R-50.pkl"), ("detectron2", "d2.pkl"), ("detectron2", "d2.pth"),
        ("maskrcnn_benchmark", "mb.pth"),
    ):  # fmt: skip
        script = shared / "oracle" / "make_weights.py"
        subprocess.run([sys.executable, script, kind, folder / name], check=True)
    return folder


@pytest.mark.parametrize(
    ("name", "program", "conventions"),
    [
        ("mb.pth", "maskrcnn-benchmark", "detectron"),
        ("d2.pkl", "detectron2", "detectron2"),
        ("d2.pth", "detectron2", "detectron2"),
    ],
)
def test_a_detector_loads_whole_under_its_own_conventions(
    oracle: Path, name: str, program: str, conventions: str
) -> None:
    source = load_source(str(oracle / name))
    assert source.program == program
    found = load_model_source(str(oracle / name))
    assert found.config.conventions == conventions
    assert found.config.backbone == "resnet50"
    assert [c.id for c in found.categories if c][:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert len(found.categories) == 80
    model = build_mask_rcnn(found.config, 80, 800, 1333)
    assert load_into(model, found.state, allow_new_heads=False).new == ()
    # Each tensor of the file is in the network, whatever it is called.
    named = recognise(found.state)
    assert named.state.keys() == {n for n in model.state_dict() if "num_batches" not in n}


def test_the_two_forms_of_detectron2_hold_the_same(oracle: Path) -> None:
    ours, theirs = (load_source(str(oracle / f"d2.{kind}")).state for kind in ("pkl", "pth"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_detectron2s_background_comes_first_here(oracle: Path) -> None:
    raw = torch.load(oracle / "d2.pth", weights_only=True)["model"]
    ours = load_source(str(oracle / "d2.pth")).state
    logits = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(ours[logits][0], raw[logits][80])
    assert torch.equal(ours[logits][1:], raw[logits][:80])
    deltas = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(ours[deltas][4:], raw[deltas])
    assert not ours[deltas][:4].any()


def test_caffe2_tensors_are_those_that_maskrcnn_benchmark_makes(oracle: Path, shared: Path) -> None:
    expected = json.loads((shared / "oracle/caffe2_R-50.checksums.json").read_text())["params"]
    source = load_source(str(oracle / "R-50.pkl"))
    assert source.dropped.keys() == {"conv1_b", "fc1000_w", "fc1000_b"}
    seen = set()
    for name, about in expected.items():
        if not about["changed"]:
            continue  # not from the file
        here = re.sub(r"^backbone\.body\.stem\.", "backbone.body.", name)
        tensor = source.state[here].contiguous()
        assert list(tensor.shape) == about["shape"], name
        digest = hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()
        assert digest.startswith(about["sha256"]), name
        seen.add(here)
    learnt = {n for n in source.state if "running" not in n}
    assert seen == learnt
    assert all(not source.state[n].any() for n in source.state if n.endswith("running_mean"))
    assert all((source.state[n] == 1).all() for n in source.state if n.endswith("running_var"))


@pytest.mark.parametrize("sheet", ["detectron", "detectron2"])
def test_a_caffe2_backbone_computes_the_same_under_both_sheets(oracle: Path, sheet: str) -> None:
    source = load_source(str(oracle / "R-50.pkl"))
    assert sheet in source.conventions
    model = build_mask_rcnn(ModelConfig(conventions=sheet), 3, 64, 96)  # type: ignore[arg-type]
    report = load_into(model, source.state, allow_new_heads=True, norm_eps=source.norm_eps)
    assert not any(name.startswith("backbone.body.") for name in report.new)
    norm = model.backbone.body.bn1
    image = torch.randn(1, 64, 4, 4)
    scale, shift = (source.state[f"backbone.body.bn1.{k}"].view(1, -1, 1, 1)
                    for k in ("weight", "bias"))  # fmt: skip
    torch.testing.assert_close(norm(image.clone()), image * scale + shift)


def caffe2_detector() -> dict[str, Tensor]:
    """Every name of a Detectron Mask R-CNN, with small tensors."""
    names = ["conv1_w", "conv1_b", "res_conv1_bn_s", "res_conv1_bn_b"]
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            for branch in ["branch1"] * (block == 0) + ["branch2a", "branch2b", "branch2c"]:
                names += [f"res{stage}_{block}_{branch}{k}" for k in ("_w", "_bn_s", "_bn_b")]
        lateral = "" if stage == 5 else "_lateral"
        names += [f"fpn_inner_res{stage}_{blocks - 1}_sum{lateral}_{k}" for k in "wb"]
        names += [f"fpn_res{stage}_{blocks - 1}_sum_{k}" for k in "wb"]
    for layer in (
        "conv_rpn_fpn2", "rpn_cls_logits_fpn2", "rpn_bbox_pred_fpn2", "fc6", "fc7", "cls_score",
        "bbox_pred", "_[mask]_fcn1", "_[mask]_fcn2", "_[mask]_fcn3", "_[mask]_fcn4", "conv5_mask",
        "mask_fcn_logits",
    ):  # fmt: skip
        names += [f"{layer}_w", f"{layer}_b"]
    return {name: torch.ones(2) for n in names for name in (n, f"{n}_momentum")}


def test_a_whole_detectron_model_has_a_place_for_every_blob() -> None:
    named = recognise(caffe2_detector())
    with torch.device("meta"):
        model = build_mask_rcnn(ModelConfig(conventions="detectron"), 80, 64, 96)
    assert named.state.keys() == model.state_dict().keys()
    assert named.program == "Detectron"
    assert all(n.endswith("_momentum") or n == "conv1_b" for n in named.dropped)


@pytest.mark.parametrize(
    "names",
    [
        {"backbone.body.stem.conv1.{}": "roi_heads.box.predictor.{}.{}"},
        {"conv1_{}": "{}_{}", "res_conv1_bn_s": ""},
    ],
    ids=["maskrcnn-benchmark", "Detectron"],
)
def test_boxes_of_all_classes_come_without_the_backgrounds(names: dict[str, str]) -> None:
    """CLS_AGNOSTIC_BBOX_REG: two classes, of which the second is every object's."""
    own = next(iter(names.values()))
    kinds = ("weight", "bias") if "." in own else ("w", "b")
    deltas = torch.arange(16.0).view(8, 2)
    state = {name.format(kinds[0]): torch.ones(2) for name in names}
    for kind, of in zip(kinds, (deltas, deltas[:, 0]), strict=True):
        state[own.format("cls_score", kind)] = torch.ones(81, 2)
        state[own.format("bbox_pred", kind)] = of
    named = recognise(state)
    found = "roi_heads.box_predictor.bbox_pred"
    assert torch.equal(named.state[f"{found}.weight"], deltas[4:])
    assert torch.equal(named.state[f"{found}.bias"], deltas[4:, 0])
    assert {f"{found}.weight[:4]", f"{found}.bias[:4]"} <= named.dropped.keys()
    # With one class beside the background, these are the background's and its own.
    for kind in kinds:
        state[own.format("cls_score", kind)] = torch.ones(2, 2)
    assert torch.equal(recognise(state).state[f"{found}.weight"], deltas)


@pytest.mark.parametrize("stray", ["fc8_w", "res6_0_branch1_w", "_[mask]_fcn1_gn_s"])
def test_a_name_that_no_table_knows_is_listed(stray: str) -> None:
    state = {**caffe2_detector(), stray: torch.ones(2)}
    named = recognise(state)
    assert stray in named.state
    with torch.device("meta"):
        model = build_mask_rcnn(ModelConfig(conventions="detectron"), 80, 64, 96)
    with pytest.raises(WeightError, match=re.escape(f"1 unknown ({stray})")):
        load_into(model, named.state, allow_new_heads=False)


@pytest.mark.parametrize(
    ("name", "program"), [("mb.pth", "maskrcnn_benchmark"), ("d2.pth", "detectron2")]
)
def test_every_tensor_lies_where_a_second_table_puts_it(
    oracle: Path, name: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of the tests of parity, which was written apart from the product's."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "model")
    from oracle_names import ours

    raw = torch.load(oracle / name, weights_only=True)["model"]
    expected, found = ours(program, raw), load_source(str(oracle / name)).state
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_training_under_other_conventions_than_the_weights_own_is_refused(
    oracle: Path, made_up: Path, tmp_path: Path
) -> None:
    from raymrcnn.config import override
    from raymrcnn.recipes import recipe_named
    from raymrcnn.train.job import TrainJob, prepare

    weights = str(oracle / "R-50.pkl")
    sides = ["data.short_side=64", "data.long_side=96", "optim.batch_size=2"]
    recipe = override(recipe_named("r50_fpn_1x"), sides)
    job = TrainJob(recipe=recipe, data_root=made_up, run_dir=tmp_path / "a", weights=weights)
    with pytest.raises(ConfigError) as caught:
        prepare(job)
    assert str(caught.value) == (
        "model.conventions: weights of Caffe2 are at home in the conventions of detectron or "
        "detectron2, not of torchvision; --set model.conventions=detectron"
    )
    recipe = override(recipe, ["model.conventions=detectron"])
    job = TrainJob(recipe=recipe, data_root=made_up, run_dir=tmp_path / "b", weights=weights)
    summary = prepare(job).summary
    assert summary["frozen_stages"] == ["conv1", "layer1"]  # stem and res2
    assert summary["frozen_norms"] == 53
