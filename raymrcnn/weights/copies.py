"""Copies of checkpoints of runs behind a URI, on this machine's disk.

A run has one folder here, `runs/NAME-HASH` in the cache folder (RAYMRCNN_CACHE_DIR), which all
processes of the machine share; its two newest copies stay. What is behind the URI is the truth: a
copy counts as long as it is what the manifest there says, and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raymrcnn import rundir, storage
from raymrcnn.errors import WeightError
from raymrcnn.storage import Place
from raymrcnn.weights.files import sha256_of

KEPT = 2  # copies of one run


def folder_of(run: str) -> Path:
    """Where this machine keeps copies of a run behind a URI."""
    digest = hashlib.sha256(run.encode()).hexdigest()[:16]
    return storage.cache_folder() / "runs" / f"{storage.name_of(run)}-{digest}"


def home_of(run: Place) -> Path:
    """The folder of a run, or this machine's of one behind a URI."""
    return folder_of(run) if isinstance(run, str) else run


def manifest_of(checkpoint: str) -> dict[str, Any]:
    """The manifest of a checkpoint behind a URI.

    Raises:
        WeightError: it is damaged.
        DataError: there is none, or the storage does not answer.
    """
    where = storage.join(checkpoint, rundir.CHECKPOINT_JSON)
    data = storage.read(where)
    try:
        document: dict[str, Any] = json.loads(data)
        for sealed in document["files"].values():
            int(sealed["bytes"]), str(sealed["sha256"])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise WeightError("is not a checkpoint's manifest", where=where) from None
    return document


def checkpoint_copy(checkpoint: str, wanted: Sequence[str]) -> Path:
    """A folder of this machine with the manifest and the wanted files of a checkpoint, verified.

    Args:
        checkpoint: its URI: RUN/checkpoints/step-...
        wanted: names of files in it.

    Raises:
        WeightError: it is damaged: a file is missing, or of another size or SHA-256.
        DataError: the storage does not answer.
        OutputError: the disk of this machine refuses.
    """
    document = manifest_of(checkpoint)
    base, mark, query = checkpoint.partition("?")
    run = posixpath.dirname(posixpath.dirname(base)) + mark + query
    home = folder_of(run) / rundir.CHECKPOINTS
    copy = home / storage.name_of(checkpoint)
    with rundir.disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        with _held(home / f".{copy.name}{rundir.LOCK}"):
            copy.mkdir(exist_ok=True)
            for name in wanted:
                _bring(storage.join(checkpoint, name), copy / name, document["files"].get(name))
            rundir.write_json(copy / rundir.CHECKPOINT_JSON, document)
            os.utime(copy)
    forget(run)
    return copy


def forget(run: str) -> None:
    """Delete all copies of a run but the newest."""
    with contextlib.suppress(OSError):  # room, not truth
        copies = list((folder_of(run) / rundir.CHECKPOINTS).glob("step-*"))
        for old in sorted(copies, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _bring(uri: str, path: Path, sealed: Mapping[str, Any] | None) -> None:
    """Have a file here as its manifest says; read from afar only where it is not."""
    if sealed is not None:
        if path.is_file() and _is(path, sealed):
            return
        if storage.size(uri) == sealed["bytes"]:
            descriptor, name = tempfile.mkstemp(prefix=rundir.TMP_PREFIX, dir=path.parent)
            os.close(descriptor)
            tmp = Path(name)
            try:
                storage.download(uri, tmp)
                if _is(tmp, sealed):
                    tmp.replace(path)
                    return
            finally:
                tmp.unlink(missing_ok=True)
    raise WeightError(f"{path.name} is damaged", where=uri)


def _is(path: Path, sealed: Mapping[str, Any]) -> bool:
    return bool(path.stat().st_size == sealed["bytes"] and sha256_of(path) == sealed["sha256"])


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """One process of this machine at a time; a kill lets go."""
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
