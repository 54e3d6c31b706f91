"""The end of a job: every image is there once, and the failures of all blocks are in one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, RunError
from raymrcnn.infer import files
from raymrcnn.infer.sink import Predictions, read_manifest
from raymrcnn.infer.spool import require_same_job
from raymrcnn.rows import FAILURE_SCHEMA

_AT_ONCE = 16  # parts that are looked at; over a network each is a round trip


def finish(predictions: Predictions, about: dict[str, Any]) -> Predictions:
    """Gather the failures and mark the job complete. May be cut and called again.

    On this machine the caller holds the folder (see `open_predictions`): what killed processes left
    there is removed. Behind a URI several processes may call this, and each gathers the same.

    Raises:
        OutputError: the disk refuses, or behind a URI another job took the folder.
        DataError: results are damaged.
        RunError: some blocks are not whole; they are pending again.
    """
    folder, manifest = predictions.folder, read_manifest(predictions.folder)
    require_same_job(folder, manifest["fingerprint"], predictions.manifest["fingerprint"])
    if manifest["status"] == "complete":
        return Predictions(folder=folder, manifest=manifest)
    failures = _gathered(predictions)
    files.write_table(files.at(folder, rundir.FAILURES), failures)
    manifest = {**manifest, "status": "complete", "num_failures": failures.num_rows, **about}
    storage.write_json(storage.below(folder, rundir.MANIFEST), manifest)
    if isinstance(folder, Path):  # behind a URI another process may be gathering these just now
        for pattern in (rundir.FAILED_GLOB, f"{rundir.TMP_PREFIX}*"):
            for name in files.matching(folder, pattern):
                files.remove(files.at(folder, name))
    return Predictions(folder=folder, manifest=manifest)


def _gathered(predictions: Predictions) -> pa.Table:
    """The failures of all blocks, where results and failures are each image once."""
    folder, blocks = predictions.folder, range(predictions.num_blocks)
    there = set(files.names(folder))

    def look(block: int) -> tuple[int, pa.Table]:
        part, failed = rundir.part_name(block), rundir.failed_name(block)
        with _said_what_to_do():
            failures = files.read_table(files.at(folder, failed)) if failed in there else None
            return files.num_rows(files.at(folder, part)) if part in there else -1, failures

    with ThreadPoolExecutor(_AT_ONCE, "gather") as pool:
        found = list(pool.map(look, blocks))
    # Two processes that wrote one block at the same moment may have left results of the one and
    # failures of the other.
    torn = [
        block
        for block, (num_rows, failures) in zip(blocks, found, strict=True)
        if num_rows + (failures.num_rows if failures else 0) != len(predictions.rows_of(block))
    ]
    for block in torn:
        files.remove(files.at(folder, rundir.part_name(block)))
    if torn:
        raise RunError(
            f"{len(torn)} of {len(blocks)} blocks did not hold each image once, as another process "
            "wrote them too",
            where=str(folder),
            todo="run the same command again, alone, and it labels their images again",
        )
    gathered = [failures for _, failures in found if failures is not None]
    return pa.concat_tables([FAILURE_SCHEMA.empty_table(), *gathered])


@contextlib.contextmanager
def _said_what_to_do() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        todo = "remove it and run the same command again, which labels its images anew"
        raise DataError(error.what, where=error.where, todo=todo) from None
