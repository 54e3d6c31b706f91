"""Result rows: the parquet schema that infer writes and that score and report read.

One row an image, also where nothing was found. Failures have a schema of their own and never
appear among the results, so that results and failures together are the input, once each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

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


def iter_detections(table: pa.Table, where: str = "predictions") -> Iterator[Detections]:
    """The detections of each row.

    Raises:
        DataError: the table lacks a column of `RESULT_SCHEMA`.
    """
    missing = [name for name in RESULT_SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"no column {missing[0]!r}",
            where=where,
            todo="give a folder that `raymrcnn infer` wrote",
        )
    for batch in table.select(RESULT_SCHEMA.names).to_batches():
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


def _joined(arrays: list[Any], dtype: Any) -> Any:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _numpy(values: pa.Array, dtype: Any) -> Any:
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
