"""What a run writes about itself: `metrics.jsonl` and TensorBoard events, one record a logged step.

A resumed run first drops the records of steps that it will do again, so no step stands twice.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymrcnn import rundir


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

    Args:
        run: the run folder.
        start: updates done before; records of later steps are dropped.
    """

    def __init__(self, run: Path, start: int) -> None:
        path = run / rundir.METRICS
        kept = [r for r in read_metrics(run) if r["step"] <= start]
        self.seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        rundir.write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
        with rundir.disk_errors(path):
            self._file = path.open("a", encoding="utf-8")
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        from tensorboardX import SummaryWriter  # comes with ray[train]; slow to import

        self._events = SummaryWriter(str(run / rundir.TENSORBOARD), purge_step=start + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, in full, at once."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with rundir.disk_errors(self._file.name):
            self._file.write(json.dumps({**record, "time": now}) + "\n")
            self._file.flush()
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._events.add_scalar(f"train/{name}", value, record["step"])

    def close(self) -> None:
        """Flush both files."""
        self._file.close()
        self._events.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run folder; a last line cut short by a kill is left out."""
    path = run / rundir.METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
