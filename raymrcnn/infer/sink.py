"""Results that commit, each image exactly once, whatever is killed and started again.

The input is cut into blocks of consecutive images, and block k becomes `part-k.parquet`: on a disk
written under another name and renamed, in an object store one upload. The file is there whole or
not at all. What is left to do is the blocks without a file. A job's fingerprint stands in the
manifest, and another job is refused.

A block's failures are committed beside it, before it, and gathered into one file at the end.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError
from raymrcnn.infer.inputs import IMAGE_SCHEMA, ROWS_AT_ONCE, Tables, refs_in
from raymrcnn.rows import (
    FAILURE_SCHEMA,
    failures_table,
    iter_detections,
    parquet_file,
    results_table,
)
from raymrcnn.structures import Detections, Failure, ImageRef

FORMAT = 1
# A block is what one commit holds and what a kill can cost: small enough to spread a job over its
# workers, large enough that a million images make few files.
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS, BLOCKS_WANTED = 16, 256, 64

Folder = Path | str  # of predictions: on this machine, or a URI
_PART = re.compile(r"part-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A predictions folder that was opened for one job."""

    folder: Folder
    manifest: dict[str, Any]

    @property
    def num_images(self) -> int:
        """Images of the whole job."""
        return int(self.manifest["num_images"])

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole job."""
        return -(-self.num_images // int(self.manifest["block_rows"]))

    @property
    def complete(self) -> bool:
        """Whether every image has its row and the failures are gathered."""
        return bool(self.manifest["status"] == "complete")

    def pending(self) -> list[int]:
        """Blocks that are not committed."""
        done = set(self.done())
        return [block for block in range(self.num_blocks) if block not in done]

    def done(self) -> list[int]:
        """Blocks that are committed, in order."""
        matches = (_PART.fullmatch(name) for name in _names(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def num_done(self) -> int:
        """Images of the committed blocks."""
        return sum(len(self.rows_of(block)) for block in self.done())

    def failures(self) -> tuple[int, str]:
        """How many images of the committed blocks failed, and the first one's name and reason."""
        failed, done = set(_files(self.folder, rundir.FAILED_GLOB)), self.done()
        count, first = 0, ""
        for block in done if failed else []:
            if rundir.failed_name(block) in failed:
                table = _read_table(_at(self.folder, rundir.failed_name(block)))
                row = table.slice(0, 1).to_pylist()[0]
                first = first or f"{row['file_name']}: {row['error']}"
                count += table.num_rows
        return count, first

    def rows_of(self, block: int) -> range:
        """The rows of the input that a block is."""
        size = int(self.manifest["block_rows"])
        return range(block * size, min((block + 1) * size, self.num_images))


def open_predictions(
    folder: Folder, images: Tables, fingerprint: dict[str, Any], about: dict[str, Any]
) -> Predictions:
    """Start a job in a folder, or go on with the same job there.

    Args:
        folder: of the predictions.
        images: the input, in order, see `inputs`.
        fingerprint: what decides the results, JSON-ready; the digest of `images` is added.
        about: what else the manifest says, JSON-ready.

    Raises:
        OutputError: the folder cannot be written, or holds other files or another job.
        DataError: two images have one id, or the folder's manifest is damaged.
    """
    if _exists(_at(folder, rundir.MANIFEST)):
        manifest = read_manifest(folder)
        digest, _ = _spool(images, None)
        _require_same(folder, manifest["fingerprint"], {**fingerprint, "images": digest})
        return Predictions(folder=folder, manifest=manifest)
    with tempfile.TemporaryDirectory(prefix="raymrcnn-images-") as spool:
        local = Path(spool, rundir.IMAGES)
        with rundir.disk_errors(spool):
            digest, num_images = _spool(images, local)
        if isinstance(folder, Path):
            rundir.prepare_output(folder)
        if _files(folder, rundir.PART_GLOB):
            raise OutputError(
                "holds results without a manifest", where=str(folder), todo="choose another --out"
            )
        storage.upload(local, _at(folder, rundir.IMAGES))
    manifest = {
        "format": FORMAT,
        "status": "running",
        "num_images": num_images,
        "block_rows": block_rows(num_images),
        "fingerprint": {**fingerprint, "images": digest},
        **about,
    }
    _write_manifest(folder, manifest)
    return Predictions(folder=folder, manifest=manifest)


def block_rows(num_images: int) -> int:
    """Images of a block, of the last one perhaps fewer."""
    return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, -(-num_images // BLOCKS_WANTED)))


def read_manifest(folder: Folder) -> dict[str, Any]:
    """What a predictions folder says of its job.

    Raises:
        DataError: the manifest is missing, damaged, or of another version.
    """
    path = _at(folder, rundir.MANIFEST)
    manifest = storage.read_json(storage.below(folder, rundir.MANIFEST))
    kinds = {"status": str, "num_images": int, "block_rows": int, "fingerprint": dict}
    if (
        not isinstance(manifest, dict)
        or not all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
        or not isinstance(manifest.get("data") or {}, dict)
    ):
        raise DataError(
            "is not the manifest of predictions",
            where=path,
            todo="give a folder that `raymrcnn infer` wrote",
        )
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"has format {manifest.get('format')!r}, and {FORMAT} is known",
            where=path,
            todo="use the version of raymrcnn that wrote it",
        )
    return manifest


def read_images(folder: Folder, rows: range) -> list[ImageRef]:
    """The input of some rows; of the file, no more than the row groups that hold them are read."""
    with parquet_file(_at(folder, rundir.IMAGES)) as file:
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, rows.start, side="right"))
        last = int(np.searchsorted(ends, rows.stop - 1, side="right"))
        table = file.read_row_groups(list(range(first, last + 1)))
    before = int(ends[first]) - sizes[first]
    return refs_in(table.slice(rows.start - before, len(rows)))


def image_ids(folder: Folder) -> npt.NDArray[np.int64]:
    """The ids of all images of the job, int64, in order.

    Raises:
        DataError: the list of images is missing or damaged.
    """
    with parquet_file(_at(folder, rundir.IMAGES)) as file:
        return file.read(columns=["image_id"]).column("image_id").to_numpy()  # type: ignore[no-any-return]


def part_place(folder: Folder, block: int) -> Folder:
    """Where the results of a block lie."""
    name = rundir.part_name(block)
    return folder / name if isinstance(folder, Path) else storage.join(folder, name)


def commit_block(
    folder: Folder, block: int, detections: Sequence[Detections], failures: Sequence[Failure]
) -> None:
    """Write the results of one block; the block counts once this returns, and not before.

    Raises:
        OutputError: the disk refuses.
    """
    # First the failures: the results file is the mark that both are there.
    failed = _at(folder, rundir.failed_name(block))
    if failures:
        _write_table(failed, failures_table(failures))
    else:
        _remove(failed)
    _write_table(_at(folder, rundir.part_name(block)), results_table(detections))


def finish(predictions: Predictions, about: dict[str, Any]) -> Predictions:
    """Gather the failures and mark the job complete. May be cut and called again.

    To be called by the one process that works in the folder: what killed ones left is removed.

    Raises:
        OutputError: the disk refuses.
    """
    if predictions.complete:
        return predictions
    folder = predictions.folder
    assert not predictions.pending(), "a job is finished when every block is committed"
    parts = [_at(folder, name) for name in _files(folder, rundir.FAILED_GLOB)]
    gathered = pa.concat_tables([FAILURE_SCHEMA.empty_table(), *map(_read_table, parts)])
    _write_table(_at(folder, rundir.FAILURES), gathered)
    manifest = {
        **predictions.manifest,
        "status": "complete",
        "num_failures": gathered.num_rows,
        **about,
    }
    _write_manifest(folder, manifest)
    left = [_at(folder, name) for name in _files(folder, f"{rundir.TMP_PREFIX}*")]
    for path in (*parts, *left):
        _remove(path)
    return Predictions(folder=folder, manifest=manifest)


def read_results(folder: Folder) -> Iterator[Detections]:
    """Every committed result, in the order of the input.

    Raises:
        DataError: the folder holds no predictions, or a file of them is damaged.
    """
    parts = _files(folder, rundir.PART_GLOB)
    if not parts:
        raise DataError(
            "no predictions here", where=str(folder), todo="give a folder of `raymrcnn infer`"
        )
    for name in parts:
        path = _at(folder, name)
        yield from iter_detections(_read_table(path), path)


def _spool(images: Tables, path: Path | None) -> tuple[str, int]:
    """Write the input to a file where one is given; its digest, and how many images it is.

    Raises:
        DataError: two images have one id.
    """
    digest, ids = hashlib.sha256(), [np.zeros(0, np.int64)]
    writer = pq.ParquetWriter(path, IMAGE_SCHEMA, compression="zstd") if path else None
    try:
        for table in _pieces(images):
            digest.update(_named(table))
            ids.append(table.column("image_id").to_numpy())
            if writer:
                writer.write_table(table, row_group_size=ROWS_AT_ONCE)
    finally:
        if writer:
            writer.close()
    every = np.concatenate(ids)
    _require_unique(every, path)
    return digest.hexdigest(), len(every)


def _named(table: pa.Table) -> bytes:
    """The id and the name of each row, in bytes that no other rows give."""
    keys = table.column("image_id").cast(pa.string())
    lines = pc.binary_join_element_wise(
        pc.binary_join_element_wise(keys, table.column("file_name"), "\0"), "", "\n"
    )
    return b"".join(piece.buffers()[2].to_pybytes() for piece in lines.chunks)


def _pieces(images: Tables) -> Iterator[pa.Table]:
    """The same rows in tables of one size, so that row groups are neither many nor large."""
    held = IMAGE_SCHEMA.empty_table()
    for table in images:
        held = pa.concat_tables([held, table])
        while held.num_rows >= ROWS_AT_ONCE:
            yield held.slice(0, ROWS_AT_ONCE).combine_chunks()
            held = held.slice(ROWS_AT_ONCE)
    if held.num_rows:
        yield held.combine_chunks()


def _require_unique(ids: npt.NDArray[np.int64], path: Path | None) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    name = ""
    if path is not None:
        same = pq.read_table(path, filters=[("image_id", "=", int(twice[0]))])
        name = same.column("file_name")[-1].as_py()
    raise DataError(f"two images have the id {twice[0]}", where=name)


def _require_same(folder: Folder, there: dict[str, Any], asked: dict[str, Any]) -> None:
    others = sorted(
        name
        for name in {*there, *asked}
        if json.dumps(there.get(name)) != json.dumps(asked.get(name))
    )
    if others:
        first = others[0]
        raise OutputError(
            f"holds predictions of another job ({', '.join(others)} differ: {first} was "
            f"{there.get(first)!r} and is {asked.get(first)!r})",
            where=str(folder),
            todo="choose another --out, or give the same options to go on",
        )


def _at(folder: Folder, name: str) -> str:
    return storage.join(os.fspath(folder), name)


def _names(folder: Folder) -> list[str]:
    if storage.is_uri(folder):
        return storage.names(str(folder))
    try:
        return [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []


def _files(folder: Folder, pattern: str) -> list[str]:
    return sorted(name for name in _names(folder) if fnmatch.fnmatchcase(name, pattern))


def _exists(path: str) -> bool:
    return storage.size(path) is not None if storage.is_uri(path) else os.path.exists(path)


def _read_table(path: str) -> pa.Table:
    with parquet_file(path) as file:
        return file.read()


def _write_table(path: str, table: pa.Table) -> None:
    if storage.is_uri(path):
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        storage.write(path, buffer.getvalue().to_pybytes())
        return
    rundir.write_atomic(Path(path), lambda tmp: pq.write_table(table, tmp, compression="zstd"))


def _write_manifest(folder: Folder, manifest: dict[str, Any]) -> None:
    path = _at(folder, rundir.MANIFEST)
    if storage.is_uri(path):
        storage.write(path, (json.dumps(manifest, indent=2) + "\n").encode())
    else:
        rundir.write_json(Path(path), manifest)


def _remove(path: str) -> None:
    if storage.is_uri(path):
        storage.remove(path)
        return
    with rundir.disk_errors(path):
        Path(path).unlink(missing_ok=True)
