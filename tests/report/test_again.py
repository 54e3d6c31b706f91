"""The commands that a page shows do what the folders did."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from report_folders import Folders

from raymrcnn import rundir
from raymrcnn.cli.main import app
from raymrcnn.config import Recipe, override
from raymrcnn.recipes import recipe_named
from raymrcnn.report.again import infer_command, train_command
from raymrcnn.report.collect import read_predictions, read_run
from raymrcnn.report.page import write_report


def options_of(text: str) -> dict[str, Any]:
    """What the command line understands of a command; it is not run."""
    program, name, *words = shlex.split(text.replace("\\\n", " "))
    assert program == "raymrcnn"
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, words) as context:
        return dict(context.params)


def with_recipe(folder: Path, recipe: Recipe, **more: Any) -> str:
    document = json.loads((folder / rundir.RUN_JSON).read_text())
    document |= {"recipe": recipe.to_json(), **more}
    (folder / rundir.RUN_JSON).write_text(json.dumps(document))
    return train_command(read_run(folder))


@pytest.mark.parametrize("name", ["tiny", "r101_fpn_1x", "one of my own"])
def test_the_training_command_gives_the_same_recipe(folders: Folders, name: str) -> None:
    known = name if name != "one of my own" else "r50_fpn_1x"
    changes = ["optim.max_iter=77", "data.short_sides=[64, 96]", "model.conventions=detectron2"]
    recipe = override(recipe_named(known), changes)
    recipe = recipe.__class__(**{**vars(recipe), "name": name})
    given = options_of(with_recipe(folders.run, recipe, weights="a b/$x.pth"))
    again = override(recipe_named(given["recipe"]), given["assignments"])
    assert {**vars(again), "name": name} == vars(recipe)
    assert given["data"] == str(folders.root)
    assert given["weights"] == "a b/$x.pth"
    assert (given["workers"], given["device"]) == ("2", "cpu")
    assert str(given["out"]) == str(folders.run)


def test_a_recipe_of_another_version_gives_no_command(folders: Folders) -> None:
    document = json.loads((folders.run / rundir.RUN_JSON).read_text())
    document["recipe"]["optim"]["unknown"] = 3
    (folders.run / rundir.RUN_JSON).write_text(json.dumps(document))
    assert train_command(read_run(folders.run)) == ""
    assert "raymrcnn train" not in write_report([folders.run]).read_text()


def test_the_labelling_command_gives_the_same_options(folders: Folders) -> None:
    path = folders.predictions / rundir.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["options"] |= {
        "max_detections": 50, "batch_size": 3, "device": "cpu", "tta_flip": True,
        "tta_scales": [640, 800], "weights_left": ["x"],
    }  # fmt: skip
    manifest["fingerprint"] = {"limit": 12}
    path.write_text(json.dumps(manifest))
    given = options_of(infer_command(read_predictions(folders.predictions)))
    assert (given["weights"], given["split"]) == ("/runs/tiny/best", "val")
    assert (given["max_detections"], given["batch_size"], given["limit"]) == (50, 3, 12)
    assert (given["tta"], given["tta_scales"], given["allow_partial"]) == ("flip", "640,800", True)
    assert given["score_threshold"] == 0.05


def test_images_that_were_not_noted_are_a_word_in_capitals(folders: Folders) -> None:
    path = folders.predictions / rundir.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": None}))
    given = options_of(infer_command(read_predictions(folders.predictions)))
    assert list(given["images"]) == ["IMAGES"]
    path.write_text("{}")
    assert infer_command(read_predictions(folders.predictions)) == ""
