"""Recipes: functions that return a complete `Recipe`; a variant changes another by `replace`.

Recipes of a user's own are JSON files, read here too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from raymrcnn import rundir
from raymrcnn.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    recipe_from_json,
)
from raymrcnn.errors import ConfigError, DataError


def r50_fpn_1x() -> Recipe:
    """ResNet-50-FPN, 90000 steps of 16 images at 800 px: the 1x schedule of Detectron."""
    return Recipe(name="r50_fpn_1x")


def r101_fpn_1x() -> Recipe:
    """ResNet-101-FPN on the same schedule, with torchvision's conventions and ImageNet weights."""
    base = r50_fpn_1x()
    return replace(base, name="r101_fpn_1x", model=replace(base.model, backbone="resnet101"))


def detectron_r101_fpn_1x() -> Recipe:
    """The reference's own run, e2e_mask_rcnn_R_101_FPN_1x.yaml; give it --weights R-101.pkl.

    Everything that the file and its defaults say: stem and first stage frozen, 2000 proposals of
    the batch, 16 images a step at 0.02, 90000 steps with a tenth of it after 60000 and 80000.
    """
    base = r101_fpn_1x()
    return replace(
        base,
        name="detectron_r101_fpn_1x",
        model=replace(base.model, conventions="detectron"),
        data=replace(base.data, mask_targets="outline"),
    )


def modelzoo_300() -> Recipe:
    """ResNet-101-FPN on 300x300 crops with flip and colour jitter, as the reference documents."""
    base = r101_fpn_1x()
    return replace(
        base,
        name="modelzoo_300",
        data=replace(
            base.data,
            short_side=300,
            long_side=300,
            crop_size=300,
            resize_to=300,
            jitter_brightness=0.125,
            jitter_contrast=0.5,
            jitter_saturation=0.5,
            jitter_hue=0.05,
        ),
    )


def tiny() -> Recipe:
    """A small ResNet-18-FPN from scratch on 128 px images: learns in minutes on two CPU cores."""
    return Recipe(
        name="tiny",
        model=ModelConfig(
            backbone="resnet18",
            norm="group",
            init="scratch",
            trainable_stages=5,
            fpn_channels=64,
            anchor_sizes=(16, 32, 64, 96, 128),
            rpn_samples_per_image=64,
            rpn_pre_nms_train=200,
            rpn_post_nms_train=100,
            rpn_pre_nms_test=200,
            rpn_post_nms_test=100,
            box_samples_per_image=32,
            box_head_channels=256,
            mask_head_channels=64,
        ),
        data=DataConfig(short_side=128, long_side=192, loader_workers=0),
        optim=OptimConfig(
            name="adamw",
            batch_size=8,
            reference_batch_size=8,
            base_lr=1e-3,
            bias_lr_factor=1.0,
            weight_decay=0.01,
            clip_grad_norm=5.0,
            warmup_iters=30,
            warmup_factor=0.1,
            max_iter=400,
            steps=(320, 380),
        ),
        checkpoint=CheckpointConfig(every=100),
        log_every=10,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "r50_fpn_1x": r50_fpn_1x,
    "r101_fpn_1x": r101_fpn_1x,
    "detectron_r101_fpn_1x": detectron_r101_fpn_1x,
    "modelzoo_300": modelzoo_300,
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name, or of that file: a name that ends in .json is a path.

    Raises:
        ConfigError: no such recipe, with the nearest names; or a file that is none.
    """
    if name.lower().endswith(".json"):
        return recipe_file(rundir.home_expanded(name))
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, n=1)
    raise ConfigError(
        f"no recipe {name!r}",
        where="--recipe",
        todo=f"did you mean {near[0]}?"
        if near
        else f"choose one of {', '.join(RECIPES)}, or give a .json file",
    )


def recipe_file(path: Path) -> Recipe:
    """A recipe of a user's own: JSON as `raymrcnn recipes NAME --json` prints it, or a run.json.

    Sections and fields that it lacks have their defaults, and its name is that of the file.

    Raises:
        ConfigError: no such file, no JSON, or a field that is wrong; says which.
    """
    try:
        document = rundir.read_json(path)
    except DataError as error:
        raise ConfigError(error.what, where=str(path)) from None
    if isinstance(document, dict) and isinstance(document.get("recipe"), dict):
        document = document["recipe"]  # what a run folder holds
    if not isinstance(document, dict) or not document:
        raise ConfigError(
            "is no recipe",
            where=str(path),
            todo="start with `raymrcnn recipes r50_fpn_1x --json`",
        )
    try:
        return recipe_from_json({"name": path.stem, **document})
    except ConfigError as error:
        field = "" if error.where == "recipe" else f": {error.where.rstrip('.')}"
        raise ConfigError(error.what, where=f"{path}{field}", todo=error.todo) from None
