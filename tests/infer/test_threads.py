"""The number of threads is the one that works fastest here, and no more than are of use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from raymrcnn.infer.threads import choose_num_threads


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "most", "chosen"),
    [
        ({1: 0.08, 2: 0.04, 4: 0.02, 8: 0.01}, 8, 8),  # a core each
        ({1: 0.04, 2: 0.04, 4: 0.01}, 4, 1),  # two hardware threads of one core, others not tried
        ({1: 0.08, 2: 0.04, 3: 0.06}, 3, 2),
        ({}, 1, 1),  # nothing to find out
    ],
)
def test_threads_that_do_not_help_are_not_taken(
    seconds: dict[int, float], most: int, chosen: int
) -> None:
    tried: list[int] = []

    def work() -> None:
        tried.append(torch.get_num_threads())
        time.sleep(seconds[tried[-1]])

    assert choose_num_threads(work, most) == chosen
    assert torch.get_num_threads() == chosen
    assert set(tried) <= set(range(1, most + 1))
    assert bool(tried) == (most > 1)
