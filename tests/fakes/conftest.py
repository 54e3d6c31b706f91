"""Fixtures with simulated cards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fakes.cards import HERE, ROOT, Card, build_module


@pytest.fixture(scope="session")
def simulator() -> dict[str, str]:
    """The environment of a process with two simulated cards; the library is built."""
    build = build_module()
    if not build.library_path().exists() and build.compiler() is None:
        pytest.skip("the MLU simulator needs a C++ compiler, and there is none here")
    build.build()
    stray = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in stray}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, ROOT))),
        "TORCH_MLU_SIM_DEVICES": "2",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def card(simulator: dict[str, str]) -> Iterator[Card]:
    """The process with the simulated cards."""
    made = Card(simulator)
    yield made
    made.process.stdin.close()
    made.process.wait(30)
