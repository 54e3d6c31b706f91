"""Files of a predictions folder, on this machine or behind a URI."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import rundir, storage
from raymrcnn.rows import parquet_file


def at(folder: storage.Place, name: str) -> str:
    """The name of a file in a folder."""
    return storage.join(os.fspath(folder), name)


def names(folder: storage.Place) -> list[str]:
    """Names of what is in a folder; none where there is no such folder."""
    if storage.is_uri(folder):
        return storage.names(str(folder))
    try:
        return [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []


def matching(folder: storage.Place, pattern: str) -> list[str]:
    """Names that fit a pattern, sorted."""
    return sorted(name for name in names(folder) if fnmatch.fnmatchcase(name, pattern))


def exists(path: str) -> bool:
    """Whether there is such a file; an empty one behind a URI may be of an upload that was cut."""
    return bool(storage.size(path)) if storage.is_uri(path) else os.path.exists(path)


def num_rows(path: str) -> int:
    """Rows of a parquet file, by its footer alone; raises as `parquet_file`."""
    with parquet_file(path) as file:
        return int(file.metadata.num_rows)


def read_table(path: str) -> pa.Table:
    """A parquet file as a table; raises as `parquet_file`."""
    with parquet_file(path) as file:
        return file.read()


def write_table(path: str, table: pa.Table) -> None:
    """Commit a table; raises as `storage.write`."""
    if storage.is_uri(path):
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        storage.write(path, buffer.getvalue().to_pybytes())
        return
    rundir.write_atomic(Path(path), lambda tmp: pq.write_table(table, tmp, compression="zstd"))


def remove(path: str) -> None:
    """Delete a file, if it is there; raises as `storage.remove`."""
    if storage.is_uri(path):
        storage.remove(path)
        return
    with rundir.disk_errors(path):
        Path(path).unlink(missing_ok=True)
