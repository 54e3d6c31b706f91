"""docs/scaling.md shows what its model computes, and the model keeps to what is known of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scaling_model as model  # noqa: E402

from raymrcnn.recipes import recipe_named  # noqa: E402
from raymrcnn.train.job import fresh_model  # noqa: E402


def test_the_page_holds_the_table_of_the_model() -> None:
    page = model.PAGE.read_text(encoding="utf-8")
    assert model.BEGIN in page
    assert model.with_table(page) == page, "run `python benchmarks/scaling_model.py`"


@pytest.mark.parametrize(("network", "recipe"), [("R-50", "r50_fpn_1x"), ("R-101", "r101_fpn_1x")])
def test_the_gradient_is_that_of_the_recipe(network: str, recipe: str) -> None:
    with torch.device("meta"):
        network_of = fresh_model(recipe_named(recipe), 80)
    learns = sum(p.numel() for p in network_of.parameters() if p.requires_grad)
    assert model.GRADIENT_BYTES[network] == 4 * learns


def test_more_cards_cost_more_and_faster_links_less() -> None:
    for machine in model.MACHINES:
        assert model.step_s(machine, 8) == machine.step_s
        steps = [model.step_s(machine, cards) for cards in (8, 16, 64, 512)]
        assert steps == sorted(steps)
    slow, fast = (model.all_reduce_s(10**8, 64, 1e11, rate) for rate in (1e9, 1e10))
    assert slow > 5 * fast
    # A ring over two cards of one host: each byte passes the link once, each way.
    assert model.all_reduce_s(8 * 10**8, 2, 1e9, 1e9) == pytest.approx(1.0, rel=0.01)
