from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import small_recipe

from raymrcnn import rundir
from raymrcnn.api import train
from raymrcnn.errors import OutputError


def test_a_second_run_in_one_folder_is_refused_and_leaves_the_first(
    made_up: Path, tmp_path: Path
) -> None:
    with rundir.exclusive(tmp_path):
        with pytest.raises(OutputError, match="another process is at work here"):
            train(made_up, small_recipe(), out=tmp_path, device="cpu")
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
