"""Images inside larger files: WebDataset tars and parquet shards.

A tar gives where in it each image's bytes lie, so that any image can be read alone; that takes one
pass over the headers, and a packed tar is refused. A parquet file has the bytes of images in a
column, or their places. What is beside the images (labels, captions) is not looked at.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymrcnn import storage
from raymrcnn.data.fetch import is_text, parquet_column
from raymrcnn.errors import DataError
from raymrcnn.infer.inputs import ROWS_AT_ONCE, columns_of, tables_of
from raymrcnn.structures import ImageRef

TAR_SUFFIX, PARQUET_SUFFIX = ".tar", ".parquet"
NAME_COLUMNS = ("file_name", "path", "key", "__key__")
_IN_TARS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
                      ".ppm", ".pgm", ".jp2"})  # fmt: skip
_TARS_AT_ONCE = 8  # that are looked through; over a network each header is a round trip


def images_of_shards(shards: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
    """The images of shards, in order.

    Args:
        shards: name and place of each, all tars or all parquet files.

    Raises:
        DataError: a shard cannot be read, holds no image, or is of another kind than the first.
    """
    tars = [_is_tar(place) for _, place in shards]
    if any(tars) and not all(tars):
        raise DataError(
            "tars and parquet files cannot be one job",
            where=shards[tars.index(not tars[0])][1],
            todo="give either",
        )
    return _images_of_tars(shards) if tars[0] else _images_of_parquet(shards)


def _is_tar(place: str) -> bool:
    return place.partition("?")[0].lower().endswith(TAR_SUFFIX)


def _images_of_tars(shards: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
    def rows() -> Iterator[ImageRef]:
        image_id = 0
        with ThreadPoolExecutor(_TARS_AT_ONCE, "tar") as pool:
            waiting = iter(shards)
            ahead = [(one, pool.submit(_members, one[1])) for one in islice(waiting, _TARS_AT_ONCE)]
            while ahead:
                (name, place), members = ahead.pop(0)
                for one in islice(waiting, 1):
                    ahead.append((one, pool.submit(_members, one[1])))
                for member, offset, length in members.result():
                    image_id += 1
                    yield ImageRef(
                        image_id=image_id,
                        file_name=posixpath.join(name, member),
                        uri=place,
                        offset=offset,
                        length=length,
                    )

    return tables_of(rows())


def _members(place: str) -> list[tuple[str, int, int]]:
    """Name, first byte and number of bytes of every image in a tar, in its order."""
    found = []
    try:
        stream: Any = storage.open_file(place) if storage.is_uri(place) else open(place, "rb")  # noqa: SIM115
        with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else headers stay in memory
                suffix = os.path.splitext(member.name)[1].lower()
                if member.isreg() and suffix in _IN_TARS:
                    found.append((member.name, member.offset_data, member.size))
            stream.seek(tar.offset)  # of the next header, where tarfile takes any rest for the end
            if 0 < len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it is cut short")
    except tarfile.TarError as error:
        raise DataError(
            f"cannot read the tar ({storage.one_line(error)})",
            where=place,
            todo="unpack a packed one (.gz), or copy it again",
        ) from None
    except OSError as error:
        raise DataError(f"cannot read ({storage.one_line(error)})", where=place) from None
    if not found:
        raise DataError("no image is in it", where=place, todo="remove it from the input")
    # An empty member has no range to read: it becomes a failure of its own when it is fetched.
    return found


def _images_of_parquet(shards: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
    for _, place in shards:  # all of them, before anything is written
        with _opened(place) as file:
            _column_of(file, place)

    def tables() -> Iterator[pa.Table]:
        first_id = 1
        for name, place in shards:
            with _readable(place), _opened(place) as file:
                for table in _tables_of_file(file, name, place, first_id):
                    first_id += table.num_rows
                    yield table

    return tables()


def _tables_of_file(
    file: pq.ParquetFile, name: str, place: str, first_id: int
) -> Iterable[pa.Table]:
    schema = file.schema_arrow
    column, holds_bytes = _column_of(file, place)
    named = next((c for c in NAME_COLUMNS if c in schema.names and is_text(schema.field(c).type)),
                 None)  # fmt: skip
    has_ids = "image_id" in schema.names and pa.types.is_integer(schema.field("image_id").type)
    wanted = {*(["image_id"] if has_ids else []), *([named] if named else [])}
    wanted |= set() if holds_bytes else {column}
    row = 0
    if not wanted:
        batches = _empty_batches(file.metadata.num_rows)
    else:
        batches = file.iter_batches(ROWS_AT_ONCE, columns=sorted(wanted))
    for batch in batches:
        rows = np.arange(row, row + batch.num_rows)
        ids = batch.column("image_id").cast(pa.int64()) if has_ids else pa.array(rows + first_id)
        if ids.null_count:
            raise DataError("an image_id is missing", where=place)
        labels = batch.column(named) if named else _numbered(name, rows)
        places = (
            pa.repeat(pa.scalar(place, pa.string()), len(rows))
            if holds_bytes
            else _places(batch.column(column), place)
        )
        row += batch.num_rows
        more = {"row": pa.array(rows, pa.int64())} if holds_bytes else {}
        yield columns_of(
            len(rows),
            image_id=ids,
            file_name=pc.fill_null(labels.cast(pa.string()), ""),
            uri=places,
            **more,
        )


def _empty_batches(num_rows: int) -> Iterator[Any]:
    for start in range(0, num_rows, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, num_rows - start)
        yield pa.RecordBatch.from_arrays([pa.nulls(size)], names=["none"])


def _numbered(name: str, rows: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array([f"{name}/{row}" for row in rows.tolist()], pa.string())


def _places(column: pa.Array, shard: str) -> pa.Array:
    """Places as they are given, or relative to the folder of the shard."""
    base, mark, query = shard.partition("?")
    folder = posixpath.dirname(base) + mark + query

    texts = pc.fill_null(column.cast(pa.string()), "")
    # At once where it can be, as lists are long: most hold places that stand for themselves.
    settled = pc.match_substring_regex(texts, "^(/|[A-Za-z][A-Za-z0-9+.-]+:/|$)")
    if pc.all(settled).as_py() is not False:
        return texts
    return pa.array(
        [
            text if stands else storage.join(folder, text)
            for text, stands in zip(texts.to_pylist(), settled.to_pylist(), strict=True)
        ],
        pa.string(),
    )


def _opened(place: str) -> pq.ParquetFile:
    with _readable(place):
        return pq.ParquetFile(storage.open_file(place) if storage.is_uri(place) else place)


@contextlib.contextmanager
def _readable(place: str) -> Iterator[None]:
    """Name the file in what pyarrow raises, also of a damaged page or an id that is too large."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read the parquet file ({storage.one_line(error)})", where=place
        ) from None


def _column_of(file: pq.ParquetFile, place: str) -> tuple[str, bool]:
    try:
        return parquet_column(file.schema_arrow)
    except DataError as error:
        raise DataError(error.what, where=place, todo=error.todo) from None
