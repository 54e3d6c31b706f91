"""What a run writes about itself: `metrics.jsonl`, one record a logged step.

A resumed run first drops the records of steps that it will do again, so no step stands twice. Of a
run behind a URI the file grows on this machine, and is uploaded now and then and before each
checkpoint.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from raymrcnn import rundir, storage
from raymrcnn.errors import RaymrcnnError
from raymrcnn.storage import Place
from raymrcnn.train.remote import Published
from raymrcnn.train.validation import validated
from raymrcnn.weights import copies


@dataclass
class Clock:
    """Throughput and waiting between two records."""

    seconds_before: float = 0.0  # of the run, up to this start
    began: float = field(default_factory=time.perf_counter)
    mark: float = field(default_factory=time.perf_counter)
    steps: int = 0
    data_wait_s: float = 0.0

    def tick(self, data_wait_s: float) -> None:
        """Count one step."""
        self.steps += 1
        self.data_wait_s += data_wait_s

    def lap(self, batch_size: int) -> dict[str, float]:
        """Figures since the last lap: images a second over all workers, wait for data a step."""
        now = time.perf_counter()
        figures = {
            "images_per_s": batch_size * self.steps / max(now - self.mark, 1e-9),
            "data_wait_s": self.data_wait_s / max(self.steps, 1),
            "seconds": self.seconds_before + now - self.began,
        }
        self.mark, self.steps, self.data_wait_s = now, 0, 0.0
        return figures


class MetricsWriter:
    """Appends records to a run folder; used by the worker of rank 0.

    The first record after a start that went on from a checkpoint says from which step, and which
    cards were left out. Scores of checkpoints, which come later than the records of their steps,
    join these.

    Args:
        run: the run folder.
        start: updates done before; records of later steps are dropped.
        without: names of the cards that were left out.
    """

    def __init__(self, run: Place, start: int, without: Sequence[str] = ()) -> None:
        self._run, self._here = run, copies.home_of(run)
        self._mark: dict[str, Any] = {"resumed_from": start} if start else {}
        if without:
            self._mark["without_cards"] = list(without)
        kept = [r for r in read_metrics(run) if r["step"] <= start]
        self.seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._joined = 0 if isinstance(run, str) else _version(run)
        if isinstance(run, str):
            rundir.prepare_output(self._here)
        _write(self._here, _with_scores(kept, run))
        self._file = self._open()
        self._published = Published(self._upload) if isinstance(run, str) else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, in full, at once."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line, self._mark = {**record, **self._mark, "time": now}, {}
        with rundir.disk_errors(self._file.name):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._published is None and _version(self._run) != self._joined:
            self._joined = _version(self._run)
            self._file.close()
            join_scores(self._run)
            self._file = self._open()

    def publish(self) -> None:
        """Have all that was written where the run is.

        Raises:
            RaymrcnnError: the storage refuses.
        """
        if self._published is not None:
            self._published.now()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._published is not None:
            with contextlib.suppress(RaymrcnnError):  # what checkpoints need is there already
                self._published.close()

    def _upload(self) -> None:
        _write(self._run, _with_scores(read_metrics(self._here), self._run))

    def _open(self) -> TextIO:
        path = self._here / rundir.METRICS
        with rundir.disk_errors(path):
            return path.open("a", encoding="utf-8")


def join_scores(run: Place) -> None:
    """Put the scores of checkpoints into the records of their steps; where no worker writes."""
    if storage.exists(storage.below(run, rundir.VALIDATION_JSON)):
        _write(run, _with_scores(read_metrics(run), run))


def scores_record(record: Mapping[str, Any]) -> dict[str, float]:
    """What a scored checkpoint adds to the record of its step."""
    return {
        f"val_{kind}_{name}": float(record[kind][name])
        for kind in ("bbox", "segm")
        for name in ("AP", "AP50", "AP75")
        if name in record.get(kind, {})
    }


def read_metrics(run: Place) -> list[dict[str, Any]]:
    """The records of a run folder; a last line cut short by a kill is left out."""
    path = storage.below(run, rundir.METRICS)
    if not storage.exists(path):
        return []
    records = []
    for line in storage.read_text(path).splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _with_scores(records: list[dict[str, Any]], run: Place) -> list[dict[str, Any]]:
    scored = validated(run)
    return [{**r, **scores_record(scored.get(r["step"], {}))} for r in records]


def _write(run: Place, records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(r) + "\n" for r in records)
    storage.write_text(storage.below(run, rundir.METRICS), text)


def _version(run: Place) -> int:
    """Changes when validation.json does."""
    return storage.version_of(storage.below(run, rundir.VALIDATION_JSON))
