"""Remote shards on this node's disk: each fetched once, whatever number of workers want it.

A shard is kept under the SHA-256 of its content, so data sets, runs and users of one machine share
it. Workers never wait for a shard: they read single images from afar until it is here. Environment:
RAYMRCNN_CACHE_DIR (by default raymrcnn/shards in the user's cache folder) and RAYMRCNN_CACHE_GIB
(64 by default; 0: no cache). When the limit is reached, shards of other data sets go, the longest
unused first; those of the data set in use never push each other out, and what does not fit is read
from afar for good.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from raymrcnn import rundir, storage
from raymrcnn.data.shards import Shard, sha256_of
from raymrcnn.errors import ConfigError, DataError, RaymrcnnError

DEFAULT_GIB = 64.0
_SUFFIX = ".parquet"
_LOCK = ".lock"
_ASK_AGAIN_S = 60.0


def folder() -> Path:
    """Where shards are kept on this node."""
    home = storage.cache_folder()
    return home if os.environ.get("RAYMRCNN_CACHE_DIR") else home / "shards"


def limit_bytes() -> int:
    """How much may be kept.

    Raises:
        ConfigError: RAYMRCNN_CACHE_GIB is no number.
    """
    text = os.environ.get("RAYMRCNN_CACHE_GIB", str(DEFAULT_GIB))
    try:
        gib = float(text)
        if not 0 <= gib < float("inf"):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a number of GiB",
            where="RAYMRCNN_CACHE_GIB",
            todo="set it to the space that shards may take on a node, or 0",
        ) from None
    return int(gib * 2**30)


def kept(shard: Shard) -> Path | None:
    """The file of a shard that is here, marked as used; None where it is not."""
    path = folder() / f"{shard.sha256}{_SUFFIX}"
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def fetch(uri: str, shard: Shard, ours: frozenset[str]) -> Path | None:
    """Bring a shard here, unless another process is at it or there is no room.

    Args:
        uri: of the shard.
        shard: as the manifest has it.
        ours: SHA-256 of all shards of the data set, which do not push each other out.

    Raises:
        DataError: the storage does not answer, or the shard is not the manifest's.
        OutputError: the disk of the cache refuses.
    """
    home = folder()
    with rundir.disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        with _held(home / f".{shard.sha256}{_LOCK}", wait=False) as mine:
            if not mine:
                return None
            there = kept(shard)
            if there is not None:
                return there
            with _reserved(home, shard, ours) as tmp:
                if tmp is None:
                    return None
                storage.download(uri, tmp)
                if tmp.stat().st_size != shard.bytes or sha256_of(tmp) != shard.sha256:
                    raise DataError(
                        "the shard is not what its manifest says", where=uri, todo="copy it again"
                    )
                path = home / f"{shard.sha256}{_SUFFIX}"
                tmp.chmod(0o644)
                tmp.replace(path)
                return path


@contextlib.contextmanager
def _reserved(home: Path, shard: Shard, ours: frozenset[str]) -> Iterator[Path | None]:
    """A temporary file whose space is counted already; None where there is no room for it."""
    with _held(home / _LOCK, wait=True):
        if not _make_room(home, shard.bytes, ours):
            yield None
            return
        descriptor, name = tempfile.mkstemp(prefix=rundir.TMP_PREFIX, dir=home)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # let go when this process ends, however it ends
        os.truncate(descriptor, shard.bytes)
    try:
        yield Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def _make_room(home: Path, wanted: int, ours: frozenset[str]) -> bool:
    """Delete what nobody uses, then the longest unused shards of others, until `wanted` fits."""
    limit = limit_bytes()
    used = 0
    others: list[tuple[float, int, Path]] = []
    for path in home.iterdir():
        if path.name.startswith(rundir.TMP_PREFIX):
            if _is_orphan(path):
                path.unlink(missing_ok=True)
                continue
        elif path.suffix != _SUFFIX:
            continue
        with contextlib.suppress(OSError):
            stat = path.stat()
            used += stat.st_size
            if path.suffix == _SUFFIX and path.stem not in ours:
                others.append((stat.st_mtime, stat.st_size, path))
    freeable = sum(size for _, size, _ in others)
    if used - freeable + wanted > limit:
        return False
    for _, size, path in sorted(others):
        if used + wanted <= limit:
            break
        # Whoever has it open reads on: the file goes when it is closed.
        path.unlink(missing_ok=True)
        used -= size
    return True


def _is_orphan(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _held(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock among processes and threads; False where another holds it and `wait` is not."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class Fetcher:
    """Fetches shards in a thread of this process; an error is kept for the next who asks."""

    def __init__(self, ours: frozenset[str]) -> None:
        self._ours = ours
        self._asked: dict[str, float] = {}
        self._wanted: queue.SimpleQueue[tuple[str, Shard]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: RaymrcnnError | None = None
        self._lock = threading.Lock()

    def ask(self, uri: str, shard: Shard) -> None:
        """Have a shard brought here some time.

        Raises:
            RaymrcnnError: what went wrong with one asked for before.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            now = time.monotonic()
            if now - self._asked.get(shard.sha256, -_ASK_AGAIN_S) < _ASK_AGAIN_S:
                return  # under way; or another process is at it, and may have died since
            self._asked[shard.sha256] = now
            self._wanted.put((uri, shard))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="raymrcnn-shards", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        while True:
            uri, shard = self._wanted.get()
            try:
                fetch(uri, shard, self._ours)
            except RaymrcnnError as error:
                self._error = error
                return
