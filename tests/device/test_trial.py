"""A dead card is told from a sound one by what a process that tries it says. Needs no card."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from raymrcnn.device import trial
from raymrcnn.device.accelerator import CPU, MLU
from raymrcnn.device.trial import answered, card_fault

BEGINS = "print('begins', flush=True);"


def fault(program: str, limit_s: float = 20.0) -> str | None:
    return card_fault(MLU, os.environ, words=("-c", program), limit_s=limit_s, pause_s=0.0)


@pytest.mark.parametrize(
    ("program", "found"),
    [
        (BEGINS + "print('works')", None),
        (BEGINS + "print('fault: CNRT error 100125')", "CNRT error 100125"),
        (BEGINS + "import os; os.abort()", "its process ended with -6"),
        ("import nothing_of_the_kind", None),  # says nothing about the card
        ("import os; os.abort()", None),
    ],
)
def test_only_what_the_card_did_counts(program: str, found: str | None) -> None:
    assert fault(program) == found


def test_a_card_that_hangs_is_dead_and_a_host_that_is_slow_is_not() -> None:
    began = time.monotonic()
    assert fault(BEGINS + "import time; time.sleep(60)", 1.0) == "no answer in 1 s"
    assert fault("import time; time.sleep(60)", 0.5) is None
    assert time.monotonic() - began < 20


def test_a_card_that_works_at_the_second_try_is_sound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    told = iter(["begins\nfault: device busy\n", "begins\nworks\n"])
    monkeypatch.setattr(trial, "_run", lambda command, env, limit_s: (next(told), 0, limit_s))
    assert card_fault(MLU, {}, pause_s=0.0) is None
    assert next(told, None) is None, "it was tried twice"


def test_the_program_tries_the_device_that_it_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raymrcnn.device.trial", CPU.name],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["begins", "works"], done.stderr


def test_a_result_that_is_wrong_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    trial._compute(torch.device("cpu"))
    monkeypatch.setattr(torch, "ones", torch.zeros)
    with pytest.raises(RuntimeError, match="it computes 0, and 262144 is right"):
        trial._compute(torch.device("cpu"))


def test_who_waits_for_a_card_does_not_hang_with_it() -> None:
    with pytest.raises(RuntimeError, match=r"no answer in 0\.1 s"):
        answered(lambda: time.sleep(3), 0.1)
    with pytest.raises(ZeroDivisionError):
        answered(lambda: [][1 // 0], 5)
    answered(lambda: None, 5)
