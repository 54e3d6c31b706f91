"""One process at a time in a run behind a URI, where no file lock is: a lease, told by its beats.

The lease is an object that its holder renews; who finds one watches it. If it does not change it is
a dead process's, and is taken over. No clock of another machine is read. Object stores differ in
what they promise of two writes at once, so this guards against mistakes, not against malice: if two
ever train one run they write the same, as what a run does is a function of its recipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError, RaymrcnnError

BEAT_S = 10.0
PATIENCE_S = 35.0  # without a beat: its holder is dead
SETTLE_S = 1.0  # after a write, before it is read again: another may have written as well


@contextlib.contextmanager
def leased(run: str, note: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Keep other processes from running in the same run; yields what raises when one does.

    Raises:
        OutputError: another process runs there, or the storage refuses.
    """
    lease = _Lease(run)
    lease.take(note)
    over = threading.Event()

    def beats() -> None:
        while not over.wait(BEAT_S):
            # A storage that does not answer for a while costs nothing as long as nobody comes.
            with contextlib.suppress(RaymrcnnError):
                lease.renew()

    thread = threading.Thread(target=beats, name="raymrcnn-lease", daemon=True)
    thread.start()
    try:
        yield lease.require
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(RaymrcnnError):
            lease.give_back()


class _Lease:
    def __init__(self, run: str) -> None:
        self._where, self._run = storage.join(run, rundir.LEASE), run
        self._token, self._beat, self._lost = uuid.uuid4().hex, 0, False

    def take(self, note: Callable[[str], None]) -> None:
        found = self._read()
        if found is not None and not _is_dead(found):
            note(f"a process on {found.get('host')} was at work here: watched for {PATIENCE_S:g} s")
            end = time.monotonic() + PATIENCE_S
            while found is not None and time.monotonic() < end:
                time.sleep(min(1.0, PATIENCE_S))
                seen = self._read()
                if seen not in (None, found):
                    raise self._taken(seen or {})
                found = seen
        self._write()
        time.sleep(SETTLE_S)
        seen = self._read()
        if seen is None or seen.get("token") != self._token:
            raise self._taken(seen or {})

    def renew(self) -> None:
        seen = self._read()
        if seen is not None and seen.get("token") != self._token:
            self._lost = True
        else:
            self._write()

    def require(self) -> None:
        if self._lost:
            raise OutputError(
                "another process has taken this run over",
                where=self._run,
                todo="look at that one; this one stops, and nothing is lost",
            )

    def give_back(self) -> None:
        seen = self._read()
        if seen is not None and seen.get("token") == self._token:
            storage.remove(self._where)

    def _read(self) -> dict[str, Any] | None:
        if not storage.exists(self._where):
            return None
        try:
            found = json.loads(storage.read(self._where))
        except ValueError:
            return {}
        except DataError as error:
            if error.what == "no such file":  # given back in between
                return None
            raise
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        self._beat += 1
        storage.write_json(self._where, {**_who(), "token": self._token, "beat": self._beat})

    def _taken(self, by: dict[str, Any]) -> OutputError:
        return OutputError(
            f"another process is at work here ({by.get('host')}, process {by.get('pid')})",
            where=self._run,
            todo="wait for it or stop it, or choose another --out",
        )


def _who() -> dict[str, Any]:
    """Who holds a lease: process, and where its number means something."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        names = os.stat("/proc/self/ns/pid").st_ino
        return {"host": socket.gethostname(), "pid": os.getpid(), "boot": f"{boot}-{names}"}
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": None}


def _is_dead(found: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, and is none any more."""
    me = _who()
    if me["boot"] is None or any(found.get(name) != me[name] for name in ("host", "boot")):
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, LookupError, TypeError, ValueError):
        return False
    return False
