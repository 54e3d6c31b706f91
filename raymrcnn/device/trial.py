"""A card put to a small work, so that one that is dead is told from one that is not.

    python -m raymrcnn.device.trial mlu

tries the first card that it sees, in a process of its own, which a broken driver may hang or kill.
It says "begins" when all is loaded and the card is next, and then "works" or "fault: ...". What
goes wrong before that says nothing about the card, nor does memory that others fill.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from raymrcnn.device.accelerator import ROWS, Accelerator, first_device
from raymrcnn.device.child import run_for

ANSWER_S = 120.0  # of a card, the start of its driver's work in this process included
LIMIT_S = 2 * ANSWER_S + 180.0  # of the process: a busy host may take minutes to import torch
TRIES = 2  # a process that is just ending may still have the card
PAUSE_S = 5.0
BEGINS, WORKS, FAULT = "begins", "works", "fault: "
_SIDE = 64


def answered(work: Callable[[], None], limit_s: float = ANSWER_S) -> None:
    """Have a card do something, in a thread: who waits for a card that hangs would hang, too.

    Raises:
        RuntimeError: no answer came; or what `work` raised.
    """
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, name="raymrcnn-trial", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not ended:
        raise RuntimeError(f"no answer in {limit_s:g} s")
    if ended[0] is not None:
        raise ended[0]


def card_fault(
    accelerator: Accelerator,
    env: Mapping[str, str],
    *,
    words: Sequence[str] = ("-m", "raymrcnn.device.trial"),
    limit_s: float = LIMIT_S,
    pause_s: float = PAUSE_S,
) -> str | None:
    """What is wrong with the first card that a process with that environment sees.

    Args:
        accelerator: of the card.
        env: which shows it.
        words: of Python, of the program that tries it.
        limit_s: of that program, each time.
        pause_s: between two tries.

    Returns:
        One clause, of a card that failed `TRIES` times; None: it works, or that cannot be told.
    """
    fault = None
    for left in reversed(range(TRIES)):
        fault = _judged(*_run([sys.executable, *words, accelerator.name], env, limit_s))
        if fault is None:
            return None
        if left:
            time.sleep(pause_s)
    return fault


def _judged(said: str, code: int | None, limit_s: float) -> str | None:
    """What is wrong with the card, by what the program said and ended with (None: it hung)."""
    lines = said.splitlines()
    if BEGINS not in lines or WORKS in lines:
        return None
    told = next((line.removeprefix(FAULT) for line in lines if line.startswith(FAULT)), None)
    if told is not None:
        return told
    return f"no answer in {limit_s:g} s" if code is None else f"its process ended with {code}"


def _run(
    command: Sequence[str], env: Mapping[str, str], limit_s: float
) -> tuple[str, int | None, float]:
    """What a program printed and its exit code, None where it hangs; and the limit."""
    with tempfile.TemporaryFile() as stdout:
        whole = {**env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        code = run_for(command, limit_s, stdout, whole)
        stdout.seek(0)
        return stdout.read().decode(errors="replace"), code, limit_s


def _compute(device: torch.device) -> None:
    """Have the device multiply two matrices, and look at the result."""
    ones = torch.ones(_SIDE, _SIDE, device=device)
    total = (ones @ ones).sum().item()
    if not abs(total / _SIDE**3 - 1) < 0.01:  # some cards multiply with few digits
        raise RuntimeError(f"it computes {total:g}, and {_SIDE**3} is right")


def main(name: str) -> None:
    """Try the first card that this process sees, and say how it went."""
    device = first_device(ROWS[name])
    print(BEGINS, flush=True)
    try:
        answered(partial(_compute, device))
        said = WORKS
    except torch.OutOfMemoryError:
        said = WORKS  # but others fill its memory
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        said = f"{FAULT}{text.splitlines()[0][:200]}"
    print(said, flush=True)
    os._exit(0)  # a thread may be left that never ends


if __name__ == "__main__":
    main(sys.argv[1])
