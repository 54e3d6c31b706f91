from __future__ import annotations

from pathlib import Path

import pytest
from report_folders import Folders, write_data, write_predictions, write_run


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "data", tmp_path / "run", tmp_path / "predictions")
    write_data(made.root)
    write_run(made.run, made.root)
    write_predictions(made.predictions, made.root)
    return made
