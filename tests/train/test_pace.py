"""The worker that the others wait for is named, once, and let go once it keeps up."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ranks import run_in_ranks
from small import prepared

from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.train.metrics import read_metrics
from raymrcnn.train.pace import Lap, Pace, slowest


def told(pace: Pace, *laps: list[float]) -> list[str | None]:
    return [pace.take([Lap(own_s=s, data_wait_s=s / 2) for s in lap])[1] for lap in laps]


def test_a_worker_that_stays_slow_is_named_once_and_let_go_when_it_keeps_up() -> None:
    pace = Pace(["a", "a", "host-b", "b"])
    slow, fair, between = [1.0, 1.1, 1.9, 1.0], [1.0, 1.1, 1.0, 1.0], [1.0, 1.0, 1.4, 1.0]
    notes = told(pace, slow, slow, slow, slow, between, between, fair, fair)
    assert notes[:2] == [None, None], "not by one lap"
    assert notes[2] == (
        "worker 2 on host-b takes 1.9 times the others' time: 1.90 s a step to their 1.00 s, "
        "0.95 s of it waiting for data"
    )
    assert notes[3:6] == [None] * 3, "told once, also where it wavers"
    assert "worker 2 on host-b is no longer slow" in notes[6:]


def test_one_slow_lap_or_a_few_milliseconds_name_nobody() -> None:
    assert told(Pace(["a", "b"]), [1, 1], [1, 1], [1, 9], [1, 1], [1, 1]) == [None] * 5
    assert told(Pace(["a", "b"]), *[[0.001, 0.004]] * 5) == [None] * 5


def test_another_that_becomes_the_slow_one_is_named_in_turn() -> None:
    notes = told(Pace(["a", "b", "c"]), *[[3, 1, 1]] * 3, *[[1, 1, 3]] * 4)
    assert [note and note[:8] for note in notes].count("worker 2") == 1


def test_each_is_compared_with_the_median_of_the_others() -> None:
    assert slowest([1.0, 4.0, 2.0, 2.0]) == (1, 2.0)


def slow_one(folder: Path) -> None:
    """Makes the first process that comes slow."""
    try:
        os.close(os.open(folder / "taken", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    forward = MaskRCNN.forward

    def late(self: Any, *given: Any, **options: Any) -> Any:
        (folder / "rank").write_text(str(dist.get_rank()))
        time.sleep(0.7)
        return forward(self, *given, **options)

    MaskRCNN.forward = late  # type: ignore[method-assign]


def test_two_processes_agree_on_the_slow_one(made_up: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = prepared(made_up, run, "log_every=1", workers=2)
    news = run_in_ranks(job, 2, tmp_path / "meet", partial(slow_one, tmp_path))
    rank = int((tmp_path / "rank").read_text())
    (note,) = [item["note"] for item in news if "others' time" in str(item.get("note"))]
    assert note.startswith(f"worker {rank} on ")
    last = read_metrics(run)[-1]
    assert last["slowest_worker"] == rank
    assert last["slowest_times"] > 1.5
