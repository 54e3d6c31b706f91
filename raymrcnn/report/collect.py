"""What a run folder and a predictions folder say, read once and in bounded memory.

Files that a report can do without may be missing; a folder that is neither of the two, or whose
main file is damaged, is refused. This module reads no image and no annotation.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import rundir
from raymrcnn.errors import DataError
from raymrcnn.rows import FAILURE_SCHEMA, RESULT_SCHEMA
from raymrcnn.structures import ImageRef

NUM_SCORE_BINS = 40
NUM_FAILURES_SHOWN = 20
_MAX_REASONS = 500  # distinct ones that are counted; the rest is counted together
_BATCH_ROWS = 256
_REF_COLUMNS = ("file_name", "uri", "offset", "length", "row")  # of images.parquet, besides the id
_FAILED_BLOCKS = rundir.FAILED_GLOB  # until infer has gathered them


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """The lines of metrics.jsonl, a step once: the last time that it was logged."""

    columns: dict[str, npt.NDArray[np.float64]]  # each [num_lines], NaN where a line lacks it
    resumed_at: tuple[int, ...]  # steps from which the run went on after a stop
    num_unreadable: int
    num_left_out: int = 0  # steps whose loss was not finite
    without_cards: tuple[str, ...] = ()  # cards that did no work and were left out, each once

    def __len__(self) -> int:
        return len(self.columns["step"])

    def column(self, name: str) -> npt.NDArray[np.float64] | None:
        """A column with at least one number, or None."""
        values = self.columns.get(name)
        return values if values is not None and np.isfinite(values).any() else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run folder."""

    folder: Path
    document: dict[str, Any]  # run.json
    metrics: Metrics | None
    validation: dict[int, dict[str, Any]]  # by step, the scores of checkpoints


@dataclass(frozen=True, kw_only=True, eq=False)
class Failures:
    """The images that failed: how often each reason, and the first rows."""

    total: int
    reasons: list[tuple[str, int]]  # most frequent first
    first: list[tuple[int, str, str]]  # image id, file name, error


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A predictions folder."""

    folder: Path
    parts: tuple[Path, ...]
    manifest: dict[str, Any]
    scores: dict[str, Any]
    image_ids: npt.NDArray[np.int64]  # sorted
    score_counts: npt.NDArray[np.int64]  # [NUM_SCORE_BINS] detections by score, 0 to 1
    per_image: npt.NDArray[np.int64]  # [most + 1]: images with 0, 1, 2, ... detections
    per_category: dict[int, int]  # detections by category id
    failures: Failures | None

    @property
    def num_detections(self) -> int:
        """In all images."""
        return int(self.score_counts.sum())


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run."""
    return (folder / rundir.RUN_JSON).is_file()


def is_predictions(folder: Path) -> bool:
    """Whether a folder holds predictions."""
    return (folder / rundir.MANIFEST).is_file() or any(folder.glob(rundir.PART_GLOB))


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: run.json is missing or no JSON object.
    """
    document = rundir.read_json(folder / rundir.RUN_JSON)
    if not isinstance(document, dict):
        raise DataError("is not a JSON object", where=str(folder / rundir.RUN_JSON))
    return Run(
        folder=folder,
        document=document,
        metrics=read_metrics(folder / rundir.METRICS),
        validation=_read_validation(folder / rundir.VALIDATION_JSON),
    )


def read_metrics(path: Path) -> Metrics | None:
    """Read metrics.jsonl; None if there is none or no line of it can be read.

    A line cut short (the run may be writing it) or malformed is counted and passed over.
    """
    if not path.is_file():
        return None
    lines: dict[int, dict[str, Any]] = {}
    resumed, num_unreadable, latest = [], 0, 0
    with path.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            entry = _metrics_line(text)
            if entry is None:
                num_unreadable += bool(text.strip())
                continue
            step = int(entry["step"])
            if math.isfinite(_float(entry.get("resumed_from"))):
                resumed.append(int(entry["resumed_from"]))
            if step <= latest:
                resumed.append(step)
                lines = {k: v for k, v in lines.items() if k < step}
            lines[step], latest = entry, step
    if not lines:
        return None
    rows = [lines[step] for step in sorted(lines)]
    names = {name for row in rows for name in row}
    columns = {name: np.asarray([_float(row.get(name)) for row in rows]) for name in names}
    left_out = [row["left_out"] for row in rows if isinstance(row.get("left_out"), list)]
    cards = [row["without_cards"] for row in rows if isinstance(row.get("without_cards"), list)]
    return Metrics(
        columns=columns,
        resumed_at=tuple(sorted(set(resumed))),
        num_unreadable=num_unreadable,
        num_left_out=sum(map(len, left_out)),
        without_cards=tuple(dict.fromkeys(str(card) for group in cards for card in group)),
    )


def read_predictions(folder: Path) -> Predictions:
    """Read a predictions folder; all result rows are passed once.

    Raises:
        DataError: a file in it is damaged or of another kind.
    """
    parts = tuple(sorted(folder.glob(rundir.PART_GLOB)))
    ids = [np.zeros(0, np.int64)]
    score_counts = np.zeros(NUM_SCORE_BINS, np.int64)
    per_image = np.zeros(1, np.int64)
    per_category: Counter[int] = Counter()
    for batch in result_batches(parts, ["image_id", "scores", "category_ids"]):
        ids.append(batch.column("image_id").to_numpy(zero_copy_only=False))
        scores = batch.column("scores").flatten().to_numpy(zero_copy_only=False)
        score_counts += np.histogram(scores, NUM_SCORE_BINS, (0.0, 1.0))[0]
        counts = np.bincount(np.diff(batch.column("scores").offsets.to_numpy()))
        per_image = _added(per_image, counts)
        known, times = np.unique(
            batch.column("category_ids").flatten().to_numpy(zero_copy_only=False),
            return_counts=True,
        )
        per_category.update(dict(zip(known.tolist(), times.tolist(), strict=True)))
    return Predictions(
        folder=folder,
        parts=parts,
        manifest=_optional_json(folder / rundir.MANIFEST),
        scores=_optional_json(folder / rundir.SCORES),
        image_ids=np.sort(np.concatenate(ids)),
        score_counts=score_counts,
        per_image=per_image,
        per_category=dict(per_category),
        failures=read_failures(_failure_files(folder)),
    )


def result_batches(
    parts: Sequence[Path], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of result files, a few at a time.

    Raises:
        DataError: a file is damaged or lacks a column of `RESULT_SCHEMA`.
    """
    for path in parts:
        yield from _batches(path, list(columns or RESULT_SCHEMA.names))


def image_refs(folder: Path, image_ids: Sequence[int]) -> dict[int, ImageRef]:
    """What a job was given of some images, by their ids; nothing without images.parquet.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / rundir.IMAGES
    if not path.is_file():
        return {}
    wanted = np.asarray(image_ids, np.int64)
    found = {}
    for batch in _batches(path, ["image_id"], optional=_REF_COLUMNS):
        chosen = np.isin(batch.column("image_id").to_numpy(zero_copy_only=False), wanted)
        for row in batch.filter(pa.array(chosen)).to_pylist():
            found[row["image_id"]] = ImageRef(**{"file_name": "", "uri": "", **row})
    return found


def read_failures(paths: Sequence[Path]) -> Failures | None:
    """Read files of failures; None if no image failed.

    Raises:
        DataError: a file is damaged.
    """
    total = 0
    first: list[tuple[int, str, str]] = []
    reasons: Counter[str] = Counter()
    batches = (batch for path in paths for batch in _batches(path, FAILURE_SCHEMA.names))
    for batch in batches:
        for row in batch.to_pylist():
            name, error = row["file_name"] or "", row["error"] or "no reason given"
            if len(first) < NUM_FAILURES_SHOWN:
                first.append((row["image_id"], name, error))
            reason = failure_reason(name, error)
            known = reason in reasons or len(reasons) < _MAX_REASONS
            reasons[reason if known else "other reasons"] += 1
            total += 1
    return Failures(total=total, reasons=reasons.most_common(), first=first) if total else None


def failure_reason(file_name: str, error: str) -> str:
    """An error without what is particular to one file, so that like ones count together."""
    line = " ".join(error.split())[:300]
    if file_name:
        line = re.sub(rf"\S*{re.escape(' '.join(file_name.split()))}:?\s*", "", line)
    return re.sub(r"\d+(\.\d+)?", "N", line) or "no reason given"


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one: run.json may be of another version."""
    return dict(value) if isinstance(value, Mapping) else {}


def category_names(run: Run | None, predictions: Predictions | None) -> dict[int, str]:
    """Category ids to names, from whatever states them."""
    names: dict[int, str] = {}
    sources: list[Any] = []
    if run is not None:
        sources.append(mapping(run.document.get("data")).get("categories"))
    if predictions is not None:
        sources += [
            predictions.manifest.get("categories"),
            mapping(predictions.manifest.get("data")).get("categories"),
        ]
        rows = mapping(predictions.scores.get("per_category"))
        sources += [[(r.get("category_id"), r.get("name")) for r in per_category(rows, kind)]
                    for kind in rows]  # fmt: skip
    for pairs in sources:
        for pair in pairs if isinstance(pairs, list) else ():
            if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], int):
                names[pair[0]] = str(pair[1])
    return names


def per_category(section: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rows of one kind ("bbox" or "segm") in the per-category section of scores.json."""
    rows = section.get(kind)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _read_validation(path: Path) -> dict[int, dict[str, Any]]:
    steps = mapping(_optional_json(path).get("steps"))
    return {int(k): mapping(v) for k, v in sorted(steps.items()) if str(k).isdigit()}


def _failure_files(folder: Path) -> list[Path]:
    """The gathered failures, or those of each block where the job is not finished."""
    gathered = folder / rundir.FAILURES
    return [gathered] if gathered.is_file() else sorted(folder.glob(_FAILED_BLOCKS))


def _metrics_line(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not math.isfinite(_float(entry.get("step"))):
        return None
    return entry


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _optional_json(path: Path) -> dict[str, Any]:
    return mapping(rundir.read_json(path)) if path.is_file() else {}


def _added(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    total = np.zeros(max(len(left), len(right)), np.int64)
    total[: len(left)] += left
    total[: len(right)] += right
    return total


def _batches(
    path: Path, columns: list[str], optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"no column {missing[0]!r}",
                    where=str(path),
                    todo="give a folder that `raymrcnn infer` wrote",
                )
            there = [name for name in optional if name in file.schema_arrow.names]
            yield from file.iter_batches(_BATCH_ROWS, columns=[*columns, *there])
    except (OSError, pa.ArrowException) as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(f"cannot be read ({line})", where=str(path)) from None
