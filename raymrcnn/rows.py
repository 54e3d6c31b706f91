"""Result rows: the parquet schema that infer writes and that score and report read.

One row an image, also where nothing was found. Failures have a schema of their own and never
appear among the results, so that results and failures together are the input, once each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymrcnn import storage
from raymrcnn.errors import DataError
from raymrcnn.structures import Detections, Failure

RESULT_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # XYXY, pixels of the upright image
        ("scores", pa.list_(pa.float32())),
        ("category_ids", pa.list_(pa.int64())),
        ("rles", pa.list_(pa.string())),  # compressed COCO RLE counts, size (height, width)
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("error", pa.string()),
    ]
)


_LISTS = ("boxes", "scores", "category_ids", "rles")  # an entry a detection
_TODO = "give a folder that `raymrcnn infer` wrote"


def results_table(detections: Iterable[Detections]) -> pa.Table:
    """Rows of `RESULT_SCHEMA`, one an image, in the order given."""
    rows = list(detections)
    per_image = np.cumsum([0] + [len(d.scores) for d in rows], dtype=np.int32)
    boxes = _joined([np.asarray(d.boxes, np.float32).reshape(-1) for d in rows], np.float32)
    scores = _joined([np.asarray(d.scores, np.float32) for d in rows], np.float32)
    categories = _joined([np.asarray(d.category_ids, np.int64) for d in rows], np.int64)
    offsets = pa.array(per_image, pa.int32())
    return pa.table(
        [
            pa.array([d.image_id for d in rows], pa.int64()),
            pa.array([d.file_name for d in rows], pa.string()),
            pa.array([d.width for d in rows], pa.int32()),
            pa.array([d.height for d in rows], pa.int32()),
            pa.ListArray.from_arrays(
                offsets, pa.FixedSizeListArray.from_arrays(pa.array(boxes), 4)
            ),
            pa.ListArray.from_arrays(offsets, pa.array(scores)),
            pa.ListArray.from_arrays(offsets, pa.array(categories)),
            pa.ListArray.from_arrays(
                offsets, pa.array([rle for d in rows for rle in d.rles], pa.string())
            ),
        ],
        schema=RESULT_SCHEMA,
    )


def failures_table(failures: Iterable[Failure]) -> pa.Table:
    """Rows of `FAILURE_SCHEMA`, in the order given."""
    rows = list(failures)
    return pa.table(
        {
            "image_id": pa.array([f.image_id for f in rows], pa.int64()),
            "file_name": pa.array([f.file_name for f in rows], pa.string()),
            "error": pa.array([f.error for f in rows], pa.string()),
        },
        schema=FAILURE_SCHEMA,
    )


@contextlib.contextmanager
def parquet_file(place: str | os.PathLike[str]) -> Iterator[pq.ParquetFile]:
    """A file of predictions, a path or a URI, to be read within.

    Raises:
        DataError: it is missing, damaged, or lacks a column that is asked for.
    """
    try:
        source = storage.open_file(str(place)) if storage.is_uri(place) else place
        with pq.ParquetFile(source) as file:
            yield file
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = storage.one_line(error)
        raise DataError(f"cannot be read ({reason})", where=str(place), todo=_TODO) from None


def iter_detections(
    table: pa.Table, where: str = "predictions", first_row: int = 0
) -> Iterator[Detections]:
    """The detections of each row.

    Args:
        table: of `RESULT_SCHEMA`, perhaps with other columns too.
        where: of the file, for errors.
        first_row: of the file, with which the table begins: names rows without an image id.

    Raises:
        DataError: a column is missing or of another type, or a row is not whole.
    """
    fields = [_column(table, field, where, first_row) for field in RESULT_SCHEMA]
    for batch in pa.table(fields, schema=RESULT_SCHEMA).to_batches():
        _require_whole(batch, where, first_row)
        first_row += batch.num_rows
        columns = {name: batch.column(name) for name in RESULT_SCHEMA.names}
        for i in range(batch.num_rows):
            boxes = columns["boxes"][i].values
            yield Detections(
                image_id=columns["image_id"][i].as_py(),
                file_name=columns["file_name"][i].as_py(),
                width=columns["width"][i].as_py(),
                height=columns["height"][i].as_py(),
                boxes=_numpy(boxes.flatten(), np.float32).reshape(-1, 4),
                scores=_numpy(columns["scores"][i].values, np.float32),
                category_ids=_numpy(columns["category_ids"][i].values, np.int64),
                rles=columns["rles"][i].as_py(),
            )


def coco_results(detections: Detections) -> list[dict[str, Any]]:
    """The image's entries of a COCO results file: bbox as [x, y, width, height] in pixels."""
    size = [detections.height, detections.width]
    entries = []
    for box, score, category_id, rle in zip(
        np.asarray(detections.boxes, np.float64).tolist(),
        detections.scores.tolist(),
        detections.category_ids.tolist(),
        detections.rles,
        strict=True,
    ):
        x1, y1, x2, y2 = box
        entries.append(
            {
                "image_id": detections.image_id,
                "category_id": category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                "segmentation": {"size": size, "counts": rle},
            }
        )
    return entries


def _column(table: pa.Table, field: pa.Field, where: str, first_row: int) -> pa.ChunkedArray:
    """A column as `RESULT_SCHEMA` has it."""
    if table.column_names.count(field.name) != 1:
        number = "more than one" if field.name in table.column_names else "no"
        raise DataError(f"{number} column {field.name!r}", where=where, todo=_TODO)
    column = table.column(field.name)
    fault = _cannot_be(column, field.type)
    if fault is None:
        return column.cast(field.type)
    place = f"column {field.name!r}"
    if _cannot_be(column.slice(0, 0), field.type) is None:  # not the type, but a value
        rows = range(len(column))  # taken, as a cast looks at more than a slice
        row = next((i for i in rows if _cannot_be(column.take([i]), field.type)), 0)
        place = f"{_row_name(table, row, first_row)}, {place}"
    raise DataError(f"{place} is no {field.type} ({fault})", where=where, todo=_TODO)


def _cannot_be(column: pa.ChunkedArray, wanted: pa.DataType) -> str | None:
    """Why values are damaged or of another type; None where they are as wanted."""
    try:
        column.cast(wanted).validate(full=True)
    except pa.ArrowException as error:
        return " ".join(str(error).split())[:200]
    return None


def _require_whole(batch: pa.RecordBatch, where: str, first_row: int) -> None:
    """Refuse rows that lack a value, or whose lists are not of one length."""
    for name in RESULT_SCHEMA.names:
        values, rows = batch.column(name), np.arange(batch.num_rows)
        while values is not None:
            absent = rows[values.is_null().to_numpy(zero_copy_only=False)]
            if len(absent):
                row = _row_name(batch, int(absent[0]), first_row)
                raise DataError(f"{row}: {name!r} lacks a value", where=where, todo=_TODO)
            nested = isinstance(values, (pa.ListArray, pa.FixedSizeListArray))
            rows = np.repeat(rows, pc.list_value_length(values)) if nested else rows
            values = values.flatten() if nested else None
    boxes, *others = (pc.list_value_length(batch.column(name)) for name in _LISTS)
    for name, lengths in zip(_LISTS[1:], others, strict=True):
        unequal = np.flatnonzero(pc.not_equal(lengths, boxes))
        if len(unequal):
            k = int(unequal[0])
            raise DataError(
                f"{_row_name(batch, k, first_row)}: {boxes[k]} boxes and {lengths[k]} {name}",
                where=where,
                todo=_TODO,
            )


def _row_name(rows: pa.Table | pa.RecordBatch, row: int, first_row: int) -> str:
    image_id = rows.column("image_id")[row].as_py()
    return f"row {first_row + row}" if image_id is None else f"image {image_id}"


def _joined(arrays: list[Any], dtype: Any) -> Any:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _numpy(values: pa.Array, dtype: Any) -> Any:
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
