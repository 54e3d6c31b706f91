"""Checkpoints behind a URI.

An object store renames nothing, but an upload is there whole or not at all: the manifest is
uploaded last and deleted first, and a folder without one does not count.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError, RaymrcnnError
from raymrcnn.weights.copies import checkpoint_copy

FILES = (rundir.MODEL_FILE, rundir.STATE_FILE)
PUBLISH_S = 20.0  # between uploads of what grows
_WAITS_S = (2.0, 5.0, 15.0)  # between tries, where a storage refuses
_COMMITTED = re.compile(rf"step-(\d+)/{re.escape(rundir.CHECKPOINT_JSON)}")
T = TypeVar("T")


def committed_steps(run: str) -> list[int]:
    """Steps of the committed checkpoints, oldest first; raises as `storage.names`."""
    names = patiently(lambda: storage.files_below(storage.join(run, rundir.CHECKPOINTS)))
    return sorted(int(match[1]) for match in map(_COMMITTED.fullmatch, names) if match)


def publish(run: str, checkpoint: Path) -> None:
    """Commit a copy of a checkpoint's folder, and delete what others left uncommitted.

    Raises:
        OutputError, DataError: the storage refuses; the checkpoints before are as they were.
    """
    folder = storage.join(run, rundir.CHECKPOINTS)
    here = storage.join(folder, checkpoint.name)
    names = patiently(lambda: storage.files_below(folder))
    whole = {name.partition("/")[0] for name in names if _COMMITTED.fullmatch(name)}
    for orphan in {name.partition("/")[0] for name in names} - whole - {checkpoint.name}:
        patiently(lambda: storage.remove_below(storage.join(folder, orphan)))  # noqa: B023
    if checkpoint.name in whole:  # a damaged one, done again: half of each would be neither
        patiently(lambda: storage.remove(storage.join(here, rundir.CHECKPOINT_JSON)))
    for name in (*FILES, rundir.CHECKPOINT_JSON):
        patiently(lambda: storage.upload(checkpoint / name, storage.join(here, name)))  # noqa: B023


def brought(run: str, step: int) -> Path:
    """A folder of this machine with a checkpoint, verified; raises as `checkpoint_copy`."""
    where = storage.join(run, rundir.CHECKPOINTS, rundir.step_name(step))
    return patiently(lambda: checkpoint_copy(where, FILES))


def remove(run: str, step: int) -> None:
    """Delete a checkpoint.

    Raises:
        OutputError: the storage refuses.
    """
    where = storage.join(run, rundir.CHECKPOINTS, rundir.step_name(step))
    patiently(lambda: storage.remove(storage.join(where, rundir.CHECKPOINT_JSON)))
    patiently(lambda: storage.remove_below(where))


def patiently(work: Callable[[], T]) -> T:
    """What a storage refuses is tried again, for half a minute in all."""
    for wait_s in _WAITS_S:
        try:
            return work()
        except (OutputError, DataError):
            time.sleep(wait_s)
    return work()


class Published:
    """Uploads what grows, now and then from a thread; a failure there is left to the next time.

    Args:
        upload: brings what has changed to its URI.
    """

    def __init__(self, upload: Callable[[], None]) -> None:
        self._upload, self._one = upload, threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="raymrcnn-published", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Upload, and wait for it; raises what `upload` does."""
        with self._one:
            patiently(self._upload)

    def close(self) -> None:
        """Upload for the last time; raises as `now`."""
        self._over.set()
        self._thread.join()
        self.now()

    def _work(self) -> None:
        while not self._over.wait(PUBLISH_S):
            try:
                with self._one:
                    self._upload()
            except RaymrcnnError:
                continue
