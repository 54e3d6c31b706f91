"""`raymrcnn weights` on runs, on other programs' files, on what is none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from command import done, refused

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.weights import load_source


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first blobs of a Caffe2 backbone."""
    path = tmp_path_factory.mktemp("caffe2") / "some.file"
    blobs = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "conv1_b": np.zeros(64, np.float32)}
    blobs |= {f"res_conv1_bn_{kind}": np.ones(64, np.float32) for kind in "sb"}
    path.write_bytes(pickle.dumps({"blobs": blobs}, 2))
    return path


def test_a_run_tells_its_network_and_classes(small_run: Path) -> None:
    found = json.loads(done("weights", "inspect", small_run, "--json"))
    assert found["kind"] == "detector"
    assert found["program"] == "raymrcnn"
    assert found["conventions"] == ["torchvision"]
    assert found["model"]["backbone"] == "resnet18"
    assert found["num_values"] > 10**6
    text = done("weights", "inspect", small_run)
    assert f"all {found['num_tensors']} tensors" in text
    assert found["categories"][0] in text


def test_a_backbone_says_where_it_is_at_home_and_what_is_left_out(backbone: Path) -> None:
    found = json.loads(done("weights", "inspect", backbone, "--json"))
    assert (found["kind"], found["program"]) == ("backbone", "Caffe2")
    assert found["conventions"] == ["detectron", "detectron2"]
    assert list(found["dropped"]) == ["conv1_b"]
    assert "detectron or detectron2" in done("weights", "inspect", backbone)


def test_tensors_that_are_too_many_are_listed(tmp_path: Path) -> None:
    small = ModelConfig(backbone="resnet18", fpn_channels=16, box_head_channels=32)
    state = dict(build_mask_rcnn(small, 3, 64, 96).state_dict())
    torch.save({**state, "stray.weight": torch.ones(2)}, tmp_path / "w.pth")
    line = refused("weights", "inspect", tmp_path / "w.pth")
    assert "1 unknown (stray.weight)" in line
    assert str(tmp_path / "w.pth") in line


def test_what_is_no_weight_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_text("hello")
    assert "neither a torch file" in refused("weights", "inspect", tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.")
    assert "asks for os.system" in refused("weights", "inspect", tmp_path / "b.pkl")
    assert "no such file" in refused("weights", "inspect", tmp_path / "none")


def test_a_run_goes_to_other_programs_and_back(small_run: Path, tmp_path: Path) -> None:
    text = done("weights", "convert", small_run, "--to", "detectron2", "--out", tmp_path / "d.pth")
    assert "read back the same" in text
    assert "MODEL.ROI_HEADS.NUM_CLASSES" in text
    assert "channel_order: RGB here, BGR there; set by INPUT.FORMAT" in text
    out = tmp_path / "t.pth"
    text = done("weights", "convert", tmp_path / "d.pth", "--to", "torchvision", "--out", out)
    assert "channel_order" not in text
    options = ("--to", "safetensors", "--out", tmp_path / "s.safetensors")
    made = json.loads(done("weights", "convert", out, *options, "--json"))
    run, back = (load_source(str(path)) for path in (small_run, made["path"]))
    assert back.info == run.info
    assert back.state.keys() == run.state.keys()
    assert all(torch.equal(back.state[name], run.state[name]) for name in run.state)
    assert "is there already" in refused("weights", "convert", out, *options)
    done("weights", "convert", out, *options, "--overwrite")


def test_heads_for_all_classes_are_told_of(tmp_path: Path) -> None:
    agnostic = ModelConfig(
        backbone="resnet18",
        fpn_channels=16,
        box_head_channels=32,
        class_agnostic_boxes=True,
        class_agnostic_masks=True,
    )
    weights, out = tmp_path / "w.pth", tmp_path / "t.pth"
    torch.save(build_mask_rcnn(agnostic, 3, 64, 96).state_dict(), weights)
    assert "boxes and masks of all classes at once" in done("weights", "inspect", weights)
    line = refused("weights", "convert", weights, "--to", "torchvision", "--out", out)
    assert "--to detectron2" in line
    assert not out.exists()


def test_a_file_that_cannot_be_converted_leaves_nothing(backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.pth"
    line = refused("weights", "convert", backbone, "--to", "torchvision", "--out", out)
    assert "ImageNet network alone" in line
    (tmp_path / "a.pth").write_text("hello")
    refused("weights", "convert", tmp_path / "a.pth", "--to", "torchvision", "--out", out)
    assert not out.exists()
    assert "none of safetensors" in refused(
        "weights", "convert", backbone, "--to", "x", "--out", out
    )
