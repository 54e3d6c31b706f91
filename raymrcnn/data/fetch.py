"""The bytes of one image, wherever it is: a file, a URI, a range of a tar, a parquet row.

Called from many threads at once. A storage that does not answer is asked again; what is missing is
told at once. Nothing is decoded here.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import storage
from raymrcnn.data.store import ImageStore
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.structures import ImageRef

# Columns by the names that programs give them, in the order of preference.
BYTES_COLUMNS = ("bytes", "image_bytes", "image", "jpg", "jpeg", "png", "webp", "content")
PLACE_COLUMNS = ("uri", "url", "path", "image_path", "file_name")

TRIES, WAIT_S = 3, 0.5  # of a remote read, doubling
# Row groups of images in memory. Two even where they are large: blocks that are labelled at once
# may lie in two.
_MOST_GROUPS, _FEWEST_GROUPS, _MOST_GROUP_BYTES = 4, 2, 1 << 30
_GONE = "no such file"


class Fetcher:
    """Reads the images of a job.

    Args:
        store: of a data set's images, read by id and name; None: every image says where it is.
    """

    def __init__(self, store: ImageStore | None = None) -> None:
        self._store = store

    def __call__(self, ref: ImageRef) -> bytes | Path:
        """The bytes of an image file, or its path.

        Raises:
            DataError: it cannot be read.
        """
        if self._store is not None:
            return self._store.read(ref.image_id, ref.file_name)
        if not ref.uri:
            raise DataError("the input names no place for this image")
        try:
            return _read_patiently(ref)
        except (ConfigError, ValueError) as error:  # of a place that no storage knows
            what = error.what if isinstance(error, ConfigError) else storage.one_line(error)
            raise DataError(what, where=ref.uri) from None


def _read_patiently(ref: ImageRef) -> bytes | Path:
    for number in range(TRIES - 1 if storage.is_uri(ref.uri) else 0):
        try:
            return _read(ref)
        except DataError as error:
            if error.what == _GONE:
                raise
            time.sleep(WAIT_S * 2**number)
    return _read(ref)


def _read(ref: ImageRef) -> bytes | Path:
    if ref.row >= 0:
        return _row(ref.uri, ref.row)
    if ref.length:
        data = storage.read(ref.uri, ref.offset, ref.length)
    elif ref.offset:  # an empty member of a tar
        data = b""
    elif storage.is_uri(ref.uri):
        data = storage.read(ref.uri)
    else:
        return Path(ref.uri)
    return data


def _row(uri: str, row: int) -> bytes:
    """One value of the column of images; the row group that holds it is kept for its neighbours."""
    ends = _group_ends(uri)
    group = int(np.searchsorted(ends, row, side="right"))
    with _lock_of(uri, group):  # so that threads do not all read one row group
        column = _groups.get(uri, group)
    first = int(ends[group - 1]) if group else 0
    value = column[row - first].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        raise DataError("the shard has no bytes for this image")
    return bytes(value)


@functools.lru_cache(maxsize=64)
def _group_ends(uri: str) -> Any:
    with _opened(uri) as file:
        return np.cumsum([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)])


class _Groups:
    """The row groups that were read last, as long as they are not too much; for several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, uri: str, group: int) -> pa.ChunkedArray:
        with self._lock:
            if (uri, group) in self._kept:
                self._kept.move_to_end((uri, group))
                return self._kept[uri, group]
        column = _read_group(uri, group)
        with self._lock:
            self._kept[uri, group] = column
            while len(self._kept) > _MOST_GROUPS or (
                len(self._kept) > _FEWEST_GROUPS
                and sum(one.nbytes for one in self._kept.values()) > _MOST_GROUP_BYTES
            ):
                self._kept.popitem(last=False)
        return column


_groups = _Groups()


def _read_group(uri: str, group: int) -> pa.ChunkedArray:
    with _opened(uri) as file:
        name, _ = parquet_column(file.schema_arrow)
        try:
            return file.read_row_group(group, columns=[name]).column(name)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot read ({storage.one_line(error)})", where=uri) from None


@functools.lru_cache(maxsize=256)
def _lock_of(uri: str, group: int) -> threading.Lock:
    return threading.Lock()


def _opened(uri: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(storage.open_file(uri) if storage.is_uri(uri) else os.fspath(uri))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read ({storage.one_line(error)})", where=uri) from None


def parquet_column(schema: pa.Schema) -> tuple[str, bool]:
    """The column of a parquet file that is or names the images, and whether it holds bytes.

    Raises:
        DataError: there is none.
    """
    for name in BYTES_COLUMNS:
        if name in schema.names and _holds_bytes(schema.field(name).type):
            return name, True
    for name in PLACE_COLUMNS:
        if name in schema.names and is_text(schema.field(name).type):
            return name, False
    raise DataError(
        f"no column of images among {', '.join(schema.names)}",
        todo=f"name one {' or '.join(BYTES_COLUMNS[:3])} (bytes), or "
        f"{' or '.join(PLACE_COLUMNS[:3])} (places)",
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # as Hugging Face's data sets have it
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
