"""A program with a time limit, also where it waits in a broken driver and cannot be ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import BinaryIO


def run_for(
    command: Sequence[str],
    limit_s: float,
    stdout: BinaryIO,
    env: Mapping[str, str],
    folder: str | None = None,
) -> int | None:
    """Run a program and return its exit code; None: it did not end, and was killed.

    A process that waits in the driver may not die: once killed it is waited for only a second. So
    its output goes to a file, as a pipe would be waited for, too.

    Args:
        command: the program and its arguments.
        limit_s: after which it is killed, with all that it started.
        stdout: what it prints; its errors are dropped.
        env: its whole environment.
        folder: that it runs in; None: this one.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(1)
        return None
