"""Makes the helpers of these tests and of `tests/infer` importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("cli", "infer", "train")]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a small network for the made-up data set."""
    from small_weights import write_run

    return write_run(tmp_path_factory.mktemp("small-run"))


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these tests may start Ray: whatever is wrong is found before."""
    import ray

    def init(*args: object, **options: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", init)
