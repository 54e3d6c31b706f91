"""Shared fixtures: where the real material lies, and quiet defaults for a small machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real material beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real photographs (../shared) are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up data set of 32 training and 8 validation images, 96 to 112 px."""
    from raymrcnn.data.synthetic import write_synthetic

    root = tmp_path_factory.mktemp("made-up")
    write_synthetic(root, 40, seed=1, min_side=96, max_side=112)
    return root
