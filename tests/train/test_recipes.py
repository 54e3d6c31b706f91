"""Each recipe that is shipped takes a step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small import run_here

from raymrcnn.config import override
from raymrcnn.recipes import RECIPES, recipe_named
from raymrcnn.train.job import TrainJob, prepare


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_a_step(made_up: Path, tmp_path: Path, name: str) -> None:
    # The step itself is the recipe's; images are small, and there are no pretrained weights here.
    changes = ["model.init=scratch", "optim.batch_size=2", "optim.max_iter=1", "optim.steps=[]"]
    if name != "modelzoo_300":
        changes += ["data.short_side=128", "data.long_side=192"]
    job = TrainJob(
        recipe=override(recipe_named(name), changes), data_root=made_up, run_dir=tmp_path
    )
    done, told = run_here(prepare(job))
    assert done == 1
    assert math.isfinite(told[-1]["loss"])
    assert (tmp_path / "last").exists()


def test_the_run_says_what_of_the_network_learns(made_up: Path, tmp_path: Path) -> None:
    """As in the reference: stem and first stage frozen (FREEZE_CONV_BODY_AT: 2), norms fixed."""
    recipe = override(recipe_named("detectron_r101_fpn_1x"), ["model.init=scratch"])
    prepare(TrainJob(recipe=recipe, data_root=made_up, run_dir=tmp_path))
    model = json.loads((tmp_path / "run.json").read_text())["model"]
    assert model["frozen_stages"] == ["conv1", "layer1"]
    assert model["frozen_norms"] == 104
    assert 0 < model["trainable"] < model["parameters"]
