from __future__ import annotations

import pytest
import torch
from torch import nn

from raymrcnn.config import OptimConfig, override
from raymrcnn.recipes import recipe_named
from raymrcnn.train.optim import build_optimizer, learning_rate, set_learning_rate


def test_the_rate_follows_the_schedule_of_the_reference() -> None:
    config = recipe_named("r101_fpn_1x").optim
    assert learning_rate(config, 0) == pytest.approx(0.02 / 3)
    assert learning_rate(config, 250) == pytest.approx(0.02 * (1 / 3 * 0.5 + 0.5))
    assert learning_rate(config, 500) == pytest.approx(0.02)
    assert learning_rate(config, 59_999) == pytest.approx(0.02)
    assert learning_rate(config, 60_000) == pytest.approx(0.002)
    assert learning_rate(config, 80_000) == pytest.approx(0.0002)


def test_the_rate_is_linear_in_the_batch() -> None:
    recipe = override(recipe_named("r50_fpn_1x"), ["optim.batch_size=4"])
    assert learning_rate(recipe.optim, 1000) == pytest.approx(0.005)


def test_biases_get_twice_the_rate_and_no_decay() -> None:
    model = nn.Linear(3, 2)
    config = OptimConfig()
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    set_learning_rate(optimizer, 0.1)
    weights, biases = optimizer.param_groups
    assert [p.shape for p in weights["params"]] == [torch.Size([2, 3])]
    assert (weights["lr"], weights["weight_decay"]) == (0.1, 1e-4)
    assert [p.shape for p in biases["params"]] == [torch.Size([2])]
    assert (biases["lr"], biases["weight_decay"]) == (0.2, 0.0)


def test_frozen_parameters_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(), torch.device("cpu"))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 2


def test_an_update_equals_the_formula_of_sgd() -> None:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.5), torch.device("cpu"))
    set_learning_rate(optimizer, 0.1)
    model.weight.grad = torch.full_like(model.weight, 2.0)
    optimizer.step()
    # g = grad + decay * w = 2.5; w <- 1 - 0.1 * 2.5
    assert model.weight.item() == pytest.approx(0.75)
