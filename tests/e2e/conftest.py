"""Makes `commands`, and the small networks of other tests, importable by the tests beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(_TESTS / "train"), str(_TESTS / "infer")]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a small network for the made-up data set."""
    from small_weights import write_run

    return write_run(tmp_path_factory.mktemp("small-run"))
