"""Seeds that repeat, and arithmetic of the precision that was asked for."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from raymrcnn.device.numerics import autocast, seed_everything


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_one_seed_decides_all_three_generators(seed: int) -> None:
    seed_everything(seed)
    first = draws()
    assert draws() != first
    seed_everything(seed)
    assert draws() == first
    seed_everything(seed + 1)
    assert not set(draws()) & set(first)


def test_float32_is_plain_arithmetic_and_bfloat16_is_mixed() -> None:
    a = torch.rand(3, 3)
    with autocast(torch.device("cpu"), torch.float32):
        assert not torch.is_autocast_enabled("cpu")
        assert torch.equal(a @ a, a.mm(a))
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16
        assert (a + a).dtype is torch.float32
    assert (a @ a).dtype is torch.float32
