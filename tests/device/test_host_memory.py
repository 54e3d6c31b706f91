"""Freed memory is used again: a process that has it faults no page a second time."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from raymrcnn.device.host_memory import reuse_freed_memory

taken = reuse_freed_memory() if sys.argv[1] == "on" else True
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(8_000_000)  # 64 MB, freed at once
before = faults()
for _ in range(5):
    np.ones(8_000_000)
print(int(taken), faults() - before)
"""


def run(setting: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, setting], capture_output=True, text=True, check=True
    )
    taken, faults = done.stdout.split()
    return taken == "1", int(faults)


def test_freed_memory_is_used_again() -> None:
    taken, faults = run("on")
    if not taken:
        pytest.skip("the C allocator is not glibc's")
    assert faults < 1000
    assert run("off")[1] > 5 * faults
