"""`--device mlu` on hosts that have no card to give: one line that says what is in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.mlu_host import FakeCard, command, environment, why_not, write_host

pytestmark = [
    pytest.mark.mlu,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "namespaces work"),
]
GOOD = FakeCard()


def train(root: Path, base: dict[str, str], device: str) -> subprocess.CompletedProcess[str]:
    """Train on data that is not there: whatever is said of cards is said before."""
    words = ["train", "--data", root / "no-data", "--recipe", "tiny", "--device", device, "--out",
             root / "run"]  # fmt: skip
    return subprocess.run(
        command(root, sys.executable, "-m", "raymrcnn.cli.main", *words),
        env=environment(root, base), capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("card", "cards_of_torch", "said"),
    [
        (FakeCard(driver="4.15.2"), 2, "the driver is v4.15.2, and v4.20.6 is the oldest"),
        (FakeCard(exclusive=True, pid=7), 2, "every card (2) is in exclusive mode and taken"),
        (FakeCard(node=False), 0, "no /dev/cambricon_dev*, though the driver lists 2"),
    ],
    ids=["old-driver", "taken", "no-cards"],
)
def test_it_says_what_is_in_the_way(
    simulator: dict[str, str], tmp_path: Path, card: FakeCard, cards_of_torch: int, said: str
) -> None:
    write_host(tmp_path, [card, card])
    done = train(tmp_path, {**simulator, "TORCH_MLU_SIM_DEVICES": str(cards_of_torch)}, "mlu")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --device: no mlu device: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_cards_that_nothing_can_use_are_not_passed_over_without_a_word(tmp_path: Path) -> None:
    write_host(tmp_path, [GOOD, GOOD])
    shutil.rmtree(tmp_path / "site")
    said = "torch_mlu is not installed, though /dev has 2 cards"
    done = train(tmp_path, dict(os.environ), "mlu")
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    done = train(tmp_path, dict(os.environ), "auto")
    assert f"note: the MLU cards here are not used: {said}" in done.stderr
