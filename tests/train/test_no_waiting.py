"""Between two logged steps, none of our lines asks the device for a value."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small import prepared, small_recipe
from torch import Tensor

from raymrcnn.config import OptimConfig
from raymrcnn.data.loader import train_batches
from raymrcnn.train.job import fresh_model
from raymrcnn.train.loop import StepOptions, training_steps
from raymrcnn.train.optim import learning_rate
from raymrcnn.train.state import TrainState

ASKING = ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Where in the package a tensor was asked for its value, and how often."""
    found: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(Tensor, name)

        def asking(self: Tensor, *given: Any, **options: Any) -> Any:
            caller = sys._getframe(1)
            if "/raymrcnn/" in caller.f_code.co_filename:
                path = caller.f_code.co_filename.rpartition("/raymrcnn/")[2]
                found[f"{path}:{caller.f_lineno} {name}"] += 1
            return real(self, *given, **options)

        return asking

    for name in ASKING:
        monkeypatch.setattr(Tensor, name, counting(name))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "ema_decay": 0.9, "clip_grad_norm": 1.0},
        {"precision": "bfloat16"},
    ],
    ids=["plain", "with all", "bfloat16"],
)
def test_no_line_of_ours_waits_for_the_device(
    made_up: Path, tmp_path: Path, asked: Counter[str], changes: dict[str, Any]
) -> None:
    job = prepared(made_up, tmp_path)
    recipe = small_recipe()
    config = OptimConfig(**changes)
    model = fresh_model(recipe, 3).train()
    batches = train_batches(job.dataset, 0, 4)
    steps = training_steps(
        model,
        batches,
        TrainState(model, config, torch.device("cpu")),
        lambda step: learning_rate(recipe.optim, step),
        start=0,
        stop=100,
        device=torch.device("cpu"),
        options=StepOptions(
            dtype=getattr(torch, config.precision),
            accumulate=config.accumulate,
            clip_grad_norm=config.clip_grad_norm,
            check_every=3,
        ),
    )
    next(steps), next(steps)
    # The loader's own work, in its thread, is on the host.
    assert {place: n for place, n in asked.items() if not place.startswith("data/")} == {}
    next(steps)
    assert any(place.startswith("train/loop.py") for place in asked), "the check is seen"
    batches.close()  # type: ignore[attr-defined]
