"""The input of a prediction job as a table: one row an image, in order, streamed and never whole.

Rows say where an image is, not what is in it. Nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import pyarrow as pa

from raymrcnn.structures import ImageRef

ROWS_AT_ONCE = 8192  # rows of a table, and of a row group of `images.parquet`

IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("row", pa.int64()),
    ]
)

Tables = Iterable[pa.Table]


def tables_of(refs: Iterable[ImageRef]) -> Iterator[pa.Table]:
    """Tables of `IMAGE_SCHEMA` with these rows."""
    rows: list[ImageRef] = []
    for ref in refs:
        rows.append(ref)
        if len(rows) == ROWS_AT_ONCE:
            yield pa.Table.from_pylist([asdict(one) for one in rows], schema=IMAGE_SCHEMA)
            rows = []
    if rows:
        yield pa.Table.from_pylist([asdict(one) for one in rows], schema=IMAGE_SCHEMA)


def refs_in(table: pa.Table) -> list[ImageRef]:
    """The rows of a table; columns that an older version did not write have their defaults."""
    return [ImageRef(**row) for row in table.to_pylist()]


def columns_of(num_rows: int, **columns: pa.Array) -> pa.Table:
    """A table of `IMAGE_SCHEMA`; columns that are not given have the defaults of `ImageRef`."""
    plain = ImageRef(image_id=0, file_name="", uri="")
    return pa.table(
        [
            columns[field.name]
            if field.name in columns
            else pa.repeat(pa.scalar(getattr(plain, field.name), field.type), num_rows)
            for field in IMAGE_SCHEMA
        ],
        schema=IMAGE_SCHEMA,
    )


def limited(tables: Tables, limit: int) -> Iterator[pa.Table]:
    """The first so many rows; 0: all."""
    left = limit
    for table in tables:
        if not limit:
            yield table
        elif left > 0:
            yield table.slice(0, left)
            left -= table.num_rows
        else:
            return
