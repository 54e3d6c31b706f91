"""CNCL carries the gradients: two ranks on simulated cards, one of which lies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.conftest import simulator  # noqa: F401  (the fixture)

pytestmark = [pytest.mark.slow, pytest.mark.mlu]
SCRIPT = Path(__file__).with_name("cncl_rank.py")


def two_ranks(env: dict[str, str], folder: Path, data: Path, liar: str = "") -> list[Any]:
    folder.mkdir()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(folder), str(data), *words],
            stdout=subprocess.PIPE, text=True, env=env,
        )
        for rank, words in enumerate(([], [liar] if liar else []))
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in said]


def test_gradients_of_one_card_reach_the_other_over_cncl(
    simulator: dict[str, str],  # noqa: F811
    made_up: Path,
    tmp_path: Path,
) -> None:
    honest = two_ranks(simulator, tmp_path / "honest", made_up)
    lying = two_ranks(simulator, tmp_path / "lying", made_up, "tamper")
    for both in (honest, lying):
        assert both[0]["learnt"] == both[1]["learnt"]
        assert both[0]["allreduces"] >= 3  # of gradients alone, one a step
    assert lying[0]["learnt"] != honest[0]["learnt"], "the lie of rank 1 must show in rank 0"
