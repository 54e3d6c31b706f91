"""Predictions in an object store: scored on the way and later, compared, exported, drawn up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from s3 import BUCKET, s3_server
from typer.testing import CliRunner

from raymrcnn import storage
from raymrcnn.cli.main import app
from raymrcnn.device.accelerator import CPU
from raymrcnn.device.on_ray import ray_session

pytestmark = pytest.mark.ray


def answer(*words: object) -> Any:
    """What a command prints, in this process and its Ray."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, (result.exit_code, result.stderr, result.exception)
    return json.loads(result.stdout)


def test_a_folder_in_a_store_is_used_as_one_on_this_machine(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    here, file = tmp_path / "here", tmp_path / "dt.json"
    label = ["infer", "--data", made_up, "--weights", small_run, "--score-threshold", 0.0,
             "--device", "cpu"]  # fmt: skip
    with s3_server() as query, ray_session(None, CPU, 1):
        there = f"s3://{BUCKET}/out/predictions?{query}"
        local = answer(*label, "--out", here)
        remote = answer(*label, "--out", there, "--coco-json", file)
        assert remote["scores"] == local["scores"]
        assert remote["scores"]["segm"]["AP"] >= 0
        assert answer(*label, "--out", there)["already_done"]

        storage.remove(storage.join(there, "scores.json"))
        scores = answer("score", there)
        assert scores == json.loads((here / "scores.json").read_text())
        assert json.loads(storage.read(storage.join(there, "scores.json"))) == scores

        both = answer("score", "--compare", here, there, "--resamples", 3)
        assert both["b"] == there
        assert both["segm"]["metrics"]["AP"]["difference"] == 0.0

        storage.upload(file, f"s3://{BUCKET}/dt.json?{query}")
        truth = f"s3://{BUCKET}/gt.json?{query}"
        storage.upload(made_up / "annotations/instances_val2017.json", truth)
        of_file = answer("score", f"s3://{BUCKET}/dt.json?{query}", "--annotations", truth)
        assert of_file["segm"] == scores["segm"]
