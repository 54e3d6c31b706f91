"""Names inside a run folder and a predictions folder, and writes that commit.

A write goes to a temporary name beside its target, is flushed to disk, and is renamed: a reader
sees the old file or the new one, never a half. Disk errors become an `OutputError` of one line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raymrcnn.errors import ConfigError, DataError, OutputError

TMP_PREFIX = ".tmp-"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: `Path` takes the other away

# Run folder
RUN_JSON = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LAST = "last"
BEST = "best"
TENSORBOARD = "tensorboard"
REPORT = "report.html"
VALIDATION = "validation"  # predictions folders of checkpoints
VALIDATION_JSON = "validation.json"
OVERLAYS = "overlays"  # in a predictions folder

# Checkpoint folder
MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
CHECKPOINT_JSON = "checkpoint.json"

# Predictions folder
MANIFEST = "manifest.json"
IMAGES = "images.parquet"
FAILURES = "failures.parquet"
SCORES = "scores.json"
PART_GLOB = "part-*.parquet"
FAILED_GLOB = "failed-*.parquet"  # of a job that is not complete

LOCK = ".lock"
LEASE = "lease.json"  # the same behind a URI
PROBE = ".probe"


def step_name(step: int) -> str:
    """The name of a checkpoint folder, sortable by step."""
    return f"step-{step:07d}"


def part_name(block: int) -> str:
    """The name of the results file of one block of input images."""
    return f"part-{block:09d}.parquet"


def failed_name(block: int) -> str:
    """The name of the failures file of one block, until the job is complete."""
    return f"failed-{block:09d}.parquet"


def local_path(text: str | os.PathLike[str], option: str) -> Path:
    """An absolute path on this machine's file system (or one mounted on it).

    Raises:
        ConfigError: a URI, which this option does not take, or the home of nobody.
    """
    if _URI.match(str(text)):
        raise ConfigError(
            f"{text} is a URI, and only paths are supported here",
            where=option,
            todo="mount the storage and give its path",
        )
    return home_expanded(text).absolute()


def home_expanded(text: str | os.PathLike[str]) -> Path:
    """A path whose `~` or `~NAME` in front is that home.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(
            "no user of this machine has that name",
            where=str(text),
            todo="write ./~ in front where a file is called so",
        ) from None


def prepare_output(folder: Path) -> None:
    """Create an output folder and prove that it can be written.

    Raises:
        OutputError: it cannot be created or written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(prefix=TMP_PREFIX, dir=folder)
        os.write(descriptor, b"raymrcnn")
        os.close(descriptor)
        os.unlink(probe)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder; a kill lets go of it.

    Raises:
        OutputError: another process runs there.
    """
    with contextlib.ExitStack() as held:
        with disk_errors(folder):
            lock = held.enter_context((folder / LOCK).open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    "another process is at work here",
                    where=str(folder),
                    todo="wait for it or stop it, or choose another --out",
                ) from None
        yield


@contextlib.contextmanager
def disk_errors(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a failed write into an `OutputError` that names the place."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write ({error.strerror or error})",
            where=str(where),
            todo="free space or choose another --out; what is there stays valid",
        ) from error


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then flush and rename it to `path`.

    Raises:
        OutputError: the disk refuses; `path` is as it was.
    """
    with disk_errors(path):
        descriptor, name = tempfile.mkstemp(prefix=TMP_PREFIX, dir=path.parent)
        os.close(descriptor)
        tmp = Path(name)
        try:
            write(tmp)
            _flush(tmp)
            tmp.chmod(0o644)
            tmp.replace(path)
            _flush(path.parent)
        finally:
            tmp.unlink(missing_ok=True)


def write_folder_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `path`, then flush and rename it to `path`.

    An older folder of that name is replaced. Raises as `write_atomic`.
    """
    with disk_errors(path):
        tmp = Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir=path.parent))
        try:
            write(tmp)
            for item in tmp.iterdir():
                _flush(item)
                item.chmod(0o755 if item.is_dir() else 0o644)  # safetensors keeps others out
            _flush(tmp)
            tmp.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            tmp.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Commit a text file."""
    write_atomic(path, lambda tmp: _write_and_close(tmp, text))


def write_json(path: Path, document: Any) -> None:
    """Commit a JSON file, indented."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that raymrcnn wrote.

    Raises:
        DataError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", where=str(path)) from None
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=str(path)) from None


def _write_and_close(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
