"""How many threads make a piece of work fastest here: found by trying, not by counting cores.

Two hardware threads of one core, or cores that others use, make more threads slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ENOUGH = 0.95  # of the time of fewer threads; more threads must be at least this much better


def choose_num_threads(work: Callable[[], object], most: int) -> int:
    """Time `work` with 1, 2, 4, ... and `most` threads of torch, and leave torch at the best.

    It stops at the first number that is no better than the one before.

    Args:
        work: to be done, the same each time.
        most: threads that may be used.

    Returns:
        The number chosen.
    """
    best, best_s = 1, float("inf")
    numbers = sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})
    for number in numbers if most > 1 else []:
        torch.set_num_threads(number)
        work()  # threads start, memory is taken
        seconds = min(_timed(work) for _ in range(2))
        if seconds > best_s * ENOUGH:
            break
        best, best_s = number, seconds
    torch.set_num_threads(best)
    return best


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
