"""The input of a job as one file on this machine, before it becomes that of a predictions folder.

Here it gets its digest, and here a job is compared with the one that is in the folder. The input
is never whole in memory but for its ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError
from raymrcnn.infer.inputs import IMAGE_SCHEMA, ROWS_AT_ONCE, Tables


def write_spool(images: Tables, path: Path) -> tuple[str, int]:
    """Write the input to a file; the digest of its ids and names, and how many images it is.

    Raises:
        DataError: two images have one id, or there is none.
        OutputError: the disk refuses.
    """
    digest, ids = hashlib.sha256(), [np.zeros(0, np.int64)]
    with rundir.disk_errors(path), pq.ParquetWriter(path, IMAGE_SCHEMA, compression="zstd") as file:
        for table in _pieces(images):
            digest.update(_named(table))
            ids.append(table.column("image_id").to_numpy())
            file.write_table(table, row_group_size=ROWS_AT_ONCE)
    every = np.concatenate(ids)
    if not len(every):
        raise DataError("the input has no image", todo="give shards that have rows")
    _require_unique(every, path)
    return digest.hexdigest(), len(every)


def require_same_job(folder: storage.Place, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Compare the fingerprint of the job in a folder with that of the job that was asked for.

    Raises:
        OutputError: they differ.
    """
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


def take_places(folder: storage.Place, spool: Path, manifest: dict[str, Any]) -> None:
    """Let the rows in a folder say where the same images are now.

    Where an annotation file says which images these are, they may lie anywhere; else the place is
    part of what an image is. The query of a URI says how to come there, and is not.

    Args:
        folder: with a job of the same ids and names.
        spool: the input as it is now.
        manifest: of the job there.

    Raises:
        OutputError: the images lie elsewhere, and may be others.
        DataError: the rows there are damaged.
    """
    where = storage.below(folder, rundir.IMAGES)
    same, moved = False, None
    if storage.exists(where):
        try:
            same, moved = _compared(where, spool)
        except (OSError, pa.ArrowException) as error:
            what = f"cannot be read ({storage.one_line(error)})"
            raise DataError(what, where=str(where), todo="choose another --out") from None
    if moved is not None and manifest["fingerprint"].get("annotations") is None:
        raise OutputError(
            f"holds predictions of images of these names that lie elsewhere: {moved[0]}, "
            f"and not {moved[1]}",
            where=str(folder),
            todo="choose another --out, or give the same images to go on",
        )
    if not same and manifest["status"] != "complete":  # else the rows are not read again
        storage.upload(spool, str(where))


def _compared(there: storage.Place, now: Path) -> tuple[bool, tuple[str, str] | None]:
    """Whether two files have the same rows, and the places of the first image that moved."""
    same, opened = True, str(there) if isinstance(there, Path) else storage.open_file(there)
    with pq.ParquetFile(opened) as old, pq.ParquetFile(now) as new:
        for before, after in zip(_pieces(_groups(old)), _pieces(_groups(new)), strict=False):
            if before.equals(after):
                continue
            same = False
            was, here = _bare(before["uri"]), _bare(after["uri"])
            k = pc.index(pc.not_equal(was, here), True).as_py()
            if k >= 0:
                return False, (was[k].as_py(), here[k].as_py())
    return same, None


def _bare(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(uris, r"\?.*$", "")


def _groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    return (file.read_row_group(k) for k in range(file.num_row_groups))


def _named(table: pa.Table) -> bytes:
    """The id and the name of each row, in bytes that no other rows give."""
    keys = table.column("image_id").cast(pa.string())
    lines = pc.binary_join_element_wise(
        pc.binary_join_element_wise(keys, table.column("file_name"), "\0"), "", "\n"
    )
    return b"".join(piece.buffers()[2].to_pybytes() for piece in lines.chunks)


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of one size, so that row groups are neither many nor large."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= ROWS_AT_ONCE:
            yield held.slice(0, ROWS_AT_ONCE).combine_chunks()
            held = held.slice(ROWS_AT_ONCE)
    if held is not None and held.num_rows:
        yield held.combine_chunks()


def _require_unique(ids: npt.NDArray[np.int64], path: Path) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        same = pq.read_table(path, filters=[("image_id", "=", int(twice[0]))])
        name = same.column("file_name")[-1].as_py()
        raise DataError(f"two images have the id {twice[0]}", where=name)
