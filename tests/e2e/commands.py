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

import numpy as np
import pyarrow.parquet as pq
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


def rows(folder: Path) -> dict[int, Any]:
    """Every row and every failure by image id; fails where an image has two, or none."""
    found: dict[int, Any] = {}
    parts = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    for row in [r for table in parts for r in table.to_pylist()]:
        assert row["image_id"] not in found, "an image has two rows"
        found[row["image_id"]] = row
    for failure in pq.read_table(folder / "failures.parquet").to_pylist():
        assert failure["image_id"] not in found, "a failed image has a row as well"
        found[failure["image_id"]] = failure["error"]
    asked = pq.read_table(folder / "images.parquet").column("image_id").to_pylist()
    assert sorted(found) == sorted(asked), "images were lost"
    return found


def assert_same_rows(ours: dict[int, Any], theirs: dict[int, Any]) -> None:
    """The same images with the same detections, up to rounding.

    Actors choose their number of threads by timing, and another number rounds otherwise.
    """
    assert ours.keys() == theirs.keys()
    for image_id, row in ours.items():
        other = theirs[image_id]
        assert row["file_name"] == other["file_name"]
        assert row["category_ids"] == other["category_ids"]
        np.testing.assert_allclose(row["scores"], other["scores"], atol=1e-5)
        np.testing.assert_allclose(row["boxes"], other["boxes"], atol=1e-2)
