"""Recipes: the published numbers, JSON and back, and changes of fields that are checked."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Recipe,
    ValidateConfig,
    field_paths,
    override,
    recipe_from_json,
)
from raymrcnn.errors import ConfigError
from raymrcnn.recipes import RECIPES, detectron_r101_fpn_1x, r101_fpn_1x, recipe_named, tiny

SECTIONS = (ModelConfig, DataConfig, OptimConfig, CheckpointConfig, ValidateConfig)
LEAVES = [path for path in field_paths(Recipe) if path != "name"]


def value_at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_called_what_it_is_listed_as(name: str) -> None:
    recipe = recipe_named(name)
    assert recipe.name == name
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = recipe_named(name)
    text = json.dumps(recipe.to_json(), allow_nan=False)
    again = recipe_from_json(json.loads(text))
    assert again == recipe
    # Equal is not enough: 1 == 1.0 == True, and a list of steps is no tuple.
    for path in LEAVES:
        assert type(value_at(again, path)) is type(value_at(recipe, path)), path


def test_the_reference_run_has_the_reference_numbers() -> None:
    """e2e_mask_rcnn_R_101_FPN_1x.yaml over maskrcnn-benchmark's defaults."""
    recipe = detectron_r101_fpn_1x()
    model = recipe.model
    assert (model.backbone, model.norm, model.conventions) == ("resnet101", "frozen", "detectron")
    assert model.trainable_stages == 3  # FREEZE_CONV_BODY_AT: 2
    assert (model.rpn_pre_nms_train, model.rpn_pre_nms_test) == (2000, 1000)
    assert (model.rpn_post_nms_train, model.rpn_post_nms_test) == (2000, 1000)
    assert (model.rpn_samples_per_image, model.box_samples_per_image) == (256, 512)
    assert recipe.optim == r101_fpn_1x().optim
    optim = recipe.optim
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (optim.base_lr, optim.batch_size, optim.scaled_lr) == (0.02, 16, 0.02)
    assert (optim.max_iter, optim.steps, optim.gamma) == (90_000, (60_000, 80_000), 0.1)
    assert (optim.warmup_iters, optim.warmup_factor) == (500, pytest.approx(1 / 3))
    assert (optim.bias_lr_factor, optim.bias_weight_decay) == (2.0, 0.0)
    data = recipe.data
    assert (data.short_side, data.long_side, data.flip_prob) == (800, 1333, 0.5)
    assert (data.crop_size, data.resize_to, data.jitter_hue) == (0, 0, 0.0)


@pytest.mark.parametrize("batch_size", [1, 8, 16, 64])
def test_the_learning_rate_is_linear_in_the_batch(batch_size: int) -> None:
    recipe = override(r101_fpn_1x(), [f"optim.batch_size={batch_size}"])
    assert recipe.optim.scaled_lr == pytest.approx(0.02 * batch_size / 16)


def test_the_model_zoo_recipe_augments_as_its_readme_says() -> None:
    recipe = recipe_named("modelzoo_300")
    data = recipe.data
    assert (data.crop_size, data.resize_to, data.short_side, data.long_side) == (300,) * 4
    assert data.flip_prob == 0.5
    assert min(data.jitter_brightness, data.jitter_contrast, data.jitter_saturation) > 0
    assert data.jitter_hue > 0
    assert recipe.optim == r101_fpn_1x().optim
    assert recipe.model == r101_fpn_1x().model


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tyny", "did you mean tiny?"),
        ("r101_fpn_2x", "did you mean r101_fpn_1x?"),
        ("", "choose one of tiny, "),
    ],
)
def test_an_unknown_recipe_is_answered_with_the_nearest(name: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_named(name)
    assert advice in str(caught.value)
    assert "--recipe" in str(caught.value)


def test_sections_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().optim.max_iter = 1  # type: ignore[misc]


# --set


@pytest.mark.parametrize("name", RECIPES)
def test_setting_each_field_to_its_own_value_changes_nothing(name: str) -> None:
    recipe = recipe_named(name)
    document = recipe.to_json()
    for path in LEAVES:
        section, _, leaf = path.rpartition(".")
        value = (document[section] if section else document)[leaf]
        assert override(recipe, [f"{path}={json.dumps(value)}"]) == recipe, path
    plain = [f"{p}={value_at(recipe, p)}" for p in LEAVES if isinstance(value_at(recipe, p), str)]
    assert len(plain) >= 5
    assert override(recipe, plain) == recipe


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("optim.max_iter=5000", "optim.max_iter", 5000),
        ("optim.max_iter=5e3", "optim.max_iter", 5000),
        (" optim.base_lr = 1e-2 ", "optim.base_lr", 0.01),
        ("optim.base_lr=1", "optim.base_lr", 1.0),
        ("optim.steps=[10, 20]", "optim.steps", (10, 20)),
        ("optim.steps=[]", "optim.steps", ()),
        ("optim.name=adamw", "optim.name", "adamw"),
        ('optim.name="adamw"', "optim.name", "adamw"),
        ("model.frozen_norm_eps=null", "model.frozen_norm_eps", None),
        ("model.frozen_norm_eps=1e-5", "model.frozen_norm_eps", 1e-5),
        ("data.group_by_aspect=false", "data.group_by_aspect", False),
        ("data.train_split=2017", "data.train_split", "2017"),
        ("data.train_split=true", "data.train_split", "true"),
        ('data.train_split="2017"', "data.train_split", "2017"),
        ("data.train_split=a=b", "data.train_split", "a=b"),
        ("seed=7", "seed", 7),
    ],
)
def test_a_value_is_read_as_its_field_wants_it(assignment: str, path: str, value: Any) -> None:
    changed = value_at(override(r101_fpn_1x(), [assignment]), path)
    assert changed == value
    assert type(changed) is type(value)


def test_the_last_of_several_assignments_counts_and_others_stay() -> None:
    recipe = override(tiny(), ["optim.max_iter=5", "seed=3", "optim.max_iter=9"])
    assert (recipe.optim.max_iter, recipe.seed) == (9, 3)
    assert recipe.model == tiny().model


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("optim.max_itr=5", "did you mean optim.max_iter"),
        ("max_iter=5", "did you mean optim.max_iter"),
        ("train.batch_size=5", "did you mean optim.batch_size"),
        ("model=5", "no field 'model'"),
        ("name=mine", "no field 'name'"),
        ("=5", "no field ''"),
        ("xyzzy=1", "`raymrcnn recipes NAME` lists the fields"),
        ("optim.max_iter", "write it as section.field=value"),
        ("", "is not an assignment"),
    ],
)
def test_what_names_no_field_is_answered_with_the_nearest(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(tiny(), [assignment])
    assert said in str(caught.value)
    assert "--set" in str(caught.value)
    assert "mean name" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("optim.max_iter=many", "optim.max_iter: 'many' is not a whole number"),
        ("optim.max_iter=1.5", "optim.max_iter: 1.5 is not a whole number"),
        ("optim.max_iter=true", "optim.max_iter: True is not a whole number"),
        ("optim.max_iter=1e999", "optim.max_iter: inf is not a whole number"),
        ("optim.max_iter=null", "optim.max_iter: None is not a whole number"),
        ("optim.base_lr=NaN", "optim.base_lr: nan is not a number"),
        (f"optim.base_lr={'9' * 400}", "is not a number"),
        ("optim.base_lr=[1]", "optim.base_lr: [1] is not a number"),
        ("data.group_by_aspect=1", "data.group_by_aspect: 1 is not true or false"),
        ("optim.steps=5", "optim.steps: 5 is not a list; write it as [1,2,3]"),
        ("optim.steps=[1,x]", "optim.steps: '[1,x]' is not a list"),
        ('optim.steps=[1,"x"]', "optim.steps[1]: 'x' is not a whole number"),
        ("optim.name=sgdd", "did you mean sgd?"),
        ("model.backbone=vgg", "resnet18, resnet50, resnet101"),
        ("model.backbone=50", "50 is not one of"),
        ("model.frozen_norm_eps=x", "model.frozen_norm_eps: 'x' is not a number"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_field(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(tiny(), [assignment])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "optim.max_iter=0",
        "optim.batch_size=-1",
        "optim.base_lr=0",
        "optim.momentum=1",
        "optim.gamma=-0.1",
        "optim.warmup_factor=0",
        "optim.warmup_iters=-1",
        "optim.steps=[20,10]",
        "optim.steps=[10,10]",
        "checkpoint.every=0",
        "checkpoint.keep=0",
        "log_every=0",
        "seed=-1",
        "seed=2147483648",
        "data.short_side=0",
        "data.short_side=5000",
        "data.flip_prob=1.1",
        "data.jitter_hue=0.6",
        "data.jitter_contrast=-0.1",
        "data.loader_workers=-1",
        "model.anchor_sizes=[32,64]",
        "model.anchor_sizes=[0,1,2,3,4]",
        "model.aspect_ratios=[]",
        "model.aspect_ratios=[1,-1]",
        "model.trainable_stages=6",
        "model.frozen_norm_eps=-1",
        "model.norm=group",  # with 3 trainable stages
        "model.fpn_channels=0",
        "model.box_samples_per_image=0",
    ],
)
def test_a_value_out_of_range_is_refused_with_its_field(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(r101_fpn_1x(), [assignment])
    path = assignment.partition("=")[0]
    assert caught.value.where in (path, "model.trainable_stages")
    assert "\n" not in str(caught.value)


# What may stand in JSON, and of which type a field is

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
KINDS = {int: "whole", float: "finite", bool: "bool", str: "str", tuple: "tuple"}


@settings(max_examples=250, deadline=None)
@given(path=st.sampled_from(LEAVES), value=ANY_JSON)
def test_no_value_of_a_wrong_type_passes(path: str, value: Any) -> None:
    before = r101_fpn_1x()
    document = before.to_json()
    section, _, leaf = path.rpartition(".")
    (document[section] if section else document)[leaf] = value
    try:
        after = value_at(recipe_from_json(document), path)
    except ConfigError:
        return
    was = value_at(before, path)
    if path == "model.frozen_norm_eps":
        assert after is None or (type(after) is float and math.isfinite(after))
    else:
        assert type(after) is type(was)
    if isinstance(after, float):
        assert math.isfinite(after)
    if isinstance(after, tuple):
        kind = float if path == "model.aspect_ratios" else int
        assert all(type(x) is kind for x in after)
    assert list(after) == value if isinstance(after, tuple) else after == value


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"name": "x", "optim": {"lr": 1}}, "unknown field optim.lr"),
        ({"name": "x", "trainer": {}}, "unknown field trainer"),
        ({"name": "x", "optim": [1]}, "expected fields, found [1]"),
        ({"name": 5}, "name: 5 is not text"),
        ({}, "missing 1 required keyword-only argument: 'name'"),
        ("tiny", "expected fields, found 'tiny'"),
    ],
)
def test_json_that_is_no_recipe_says_where(document: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_from_json(document)
    assert said in str(caught.value)


def test_absent_fields_take_their_defaults() -> None:
    assert recipe_from_json({"name": "r50_fpn_1x"}) == RECIPES["r50_fpn_1x"]()


def test_every_field_can_be_named() -> None:
    declared = {f.name for section in SECTIONS for f in dataclasses.fields(section)}
    assert {path.rpartition(".")[2] for path in LEAVES} == declared | {"seed", "log_every"}
