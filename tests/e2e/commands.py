"""Commands of a user, run as processes, and the processes of a driver's Ray."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small import SMALL

COMMAND = [sys.executable, "-m", "raymrcnn.cli.main"]
SETS = [word for text in SMALL for word in ("--set", text)]


def call(
    *words: object, code: int = 0, limit_s: float = 300, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a command with --json to its end, and read what it prints."""
    done = subprocess.run(
        [*COMMAND, *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env=env,
    )
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout) if done.stdout else {}


def start(*words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=env,
    )


def wait_until(done: Callable[[], bool], process: subprocess.Popen[str], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert process.poll() is None, f"ended early: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str], title: str) -> list[int]:
    """Processes of a driver's Ray whose title holds a word, by walking down from the driver."""
    children = collections.defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent].append(int(entry.name))
    found, queue = [], [process.pid]
    while queue:
        for child in children[queue.pop()]:
            queue.append(child)
            try:
                if title in (Path("/proc") / str(child) / "cmdline").read_text():
                    found.append(child)
            except OSError:
                continue
    return found
