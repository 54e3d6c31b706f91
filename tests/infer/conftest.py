"""Makes `small_weights` importable by the tests beside it, and weights for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a small network for the made-up data set."""
    from small_weights import write_run

    return write_run(tmp_path_factory.mktemp("small-run"))
