"""`raymrcnn doctor` on hosts with MLU cards: each trouble by name, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.mlu_host import FakeCard, command, environment, why_not, write_host

from raymrcnn.doctor.host import LEAST

pytestmark = [
    pytest.mark.mlu,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "namespaces work"),
]
DOCTOR = (sys.executable, "-m", "raymrcnn.cli.main", "doctor")
GOOD = FakeCard()


def examined(
    root: Path, *words: str, base: dict[str, str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, *DOCTOR, *words), env=environment(root, base or dict(os.environ)) | env,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def of_cards(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What was found of cards, libraries and variables, by check."""
    told = json.loads(done.stdout)
    fails = [f for f in told["findings"] if f["status"] == "fail"]
    assert told["failures"] == len(fails)
    assert done.returncode == (1 if fails else 0), done.stderr
    found = {f["check"]: f for f in told["findings"]}
    names = [*LEAST, "visible devices", *(name for name in found if name.startswith("MLU card"))]
    return {name: found[name] for name in names if name in found}


# name: cards, other libraries, environment, the check that is not ok, its status, found, fix
TROUBLE: dict[str, tuple[list[FakeCard], dict[str, str], dict[str, str], str, str, str, str]] = {
    "old-driver": (
        [FakeCard(driver="4.15.2")] * 2, {}, {},
        "driver", "fail", "4.15.2, older than 4.20.6", "install driver 4.20.6 or newer",
    ),
    "old-library": (
        [GOOD], {"cncl": "0.9.1"}, {}, "cncl", "fail", "0.9.1, older than 1.1.1", "install cncl",
    ),
    "conflicting-variables": (
        [GOOD, GOOD], {}, {"CN_VISIBLE_DEVICES": "1", "MLU_VISIBLE_DEVICES": "0"},
        "visible devices", "warn", "CN_VISIBLE_DEVICES='1'", "unset CN_VISIBLE_DEVICES",
    ),
    "missing-card": (
        [GOOD, FakeCard(node=False)], {}, {},
        "MLU card 1", "fail", "/dev has no node of it", "--device /dev/cambricon_dev1",
    ),
    "ecc-off": ([GOOD, FakeCard(ecc=False)], {}, {}, "MLU card 1", "warn", "ECC is off", "on"),
    "taken": (
        [FakeCard(exclusive=True, pid=101934), GOOD], {}, {},
        "MLU card 0", "fail", "taken by process 101934", "MLU_VISIBLE_DEVICES",
    ),
    "unhealthy": (
        [GOOD, FakeCard(health="Bad")], {}, {},
        "MLU card 1", "fail", "does not call it healthy", "cnmon info",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLE)
def test_one_trouble_of_a_host_is_told_and_nothing_else(name: str, tmp_path: Path) -> None:
    cards, libraries, env, check, status, what, fix = TROUBLE[name]
    write_host(tmp_path, cards, **libraries)
    found = of_cards(examined(tmp_path, "--json", "--no-trial", **env))
    assert found[check]["status"] == status
    assert what in found[check]["what"]
    assert fix in found[check]["fix"]
    others = {k: f["status"] for k, f in found.items() if k != check}
    assert set(others.values()) == {"ok"}, others
    assert len([k for k in found if k.startswith("MLU card")]) == len(cards)


def test_the_table_of_a_good_host_says_ok_for_every_card(tmp_path: Path) -> None:
    write_host(tmp_path, [GOOD, FakeCard(model="MLU370-S4")])
    done = examined(tmp_path, "--no-trial", COLUMNS="140")
    assert "WARN" not in done.stdout.split("disk")[0], done.stdout
    assert "FAIL" not in done.stdout, done.stdout
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "MLU card 0 │ ok │ MLU370-X8, 23 GiB, healthy" in text, done.stdout
    assert "MLU card 1 │ ok │ MLU370-S4, 23 GiB, healthy" in text, done.stdout
    assert "driver │ ok │ 5.10.13" in text, done.stdout
    assert "0 failures" in done.stdout
    bad = tmp_path / "bad"
    write_host(bad, [FakeCard(exclusive=True, pid=7, driver="4.15.2")])
    done = examined(bad, "--no-trial", COLUMNS="140")
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "MLU card 0 │ FAIL │ MLU370-X8, 23 GiB, exclusive mode: taken by process 7" in text
    assert "driver │ FAIL │ 4.15.2, older than 4.20.6" in text


@pytest.mark.slow
def test_the_cards_of_a_good_host_are_put_to_work_each_by_itself(
    simulator: dict[str, str], tmp_path: Path
) -> None:
    write_host(tmp_path, [GOOD, GOOD])
    log = tmp_path / "log"
    env = {"TORCH_MLU_SIM_LOG": str(log), "CN_VISIBLE_DEVICES": "1,0"}
    done = examined(tmp_path, "--json", base=simulator, **env)
    assert {f["status"] for f in of_cards(done).values()} == {"ok"}
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["operators on mlu"]["status"] == "ok", found["operators on mlu"]
    assert found["all-reduce on mlu"]["status"] in ("ok", "warn"), found["all-reduce on mlu"]
    assert found["all-reduce on mlu"]["what"].startswith("2 at ")
    used = [line.split()[1] for line in log.read_text().splitlines()]
    assert sorted(used) == ["0", "1"], "each process of the sum took a card of its own"
