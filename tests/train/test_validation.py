"""Scoring checkpoints on the way: what is due, what stays, what is best. Scores are made up."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small import prepared, run_here

from raymrcnn import rundir
from raymrcnn.errors import ConfigError, DataError, RunError
from raymrcnn.train.checkpoint import committed_steps
from raymrcnn.train.metrics import MetricsWriter, join_scores, read_metrics
from raymrcnn.train.validation import (
    Cancelled,
    Validation,
    Wanted,
    best_step,
    is_due,
    steps_due,
    to_keep,
    validated,
)


def checkpoint(run: Path, step: int) -> None:
    folder = run / rundir.CHECKPOINTS / rundir.step_name(step)
    folder.mkdir(parents=True)
    (folder / rundir.CHECKPOINT_JSON).write_text("{}")


def document(ap: float) -> dict[str, Any]:
    each = {"AP": ap, "AP50": ap, "AP75": ap}
    return {"bbox": each, "segm": each, "num_images": 4}


class Scorer:
    """Gives each step the AP that it was told, and writes what a prediction job would."""

    def __init__(self, aps: dict[int, float]) -> None:
        self.aps, self.asked = aps, []

    def __call__(self, wanted: Wanted) -> dict[str, Any]:
        step = int(wanted.checkpoint.name.removeprefix("step-"))
        self.asked.append((step, wanted.workers))
        wanted.predictions.mkdir(parents=True, exist_ok=True)
        for name in ("scores.json", "part-000000000.parquet"):
            (wanted.predictions / name).write_text("{}")
        (wanted.predictions / "overlays").mkdir(exist_ok=True)
        return document(self.aps[step])


def validation(run: Path, scorer: Any, last: int = 40) -> tuple[Validation, list[dict[str, Any]]]:
    news: list[dict[str, Any]] = []
    return Validation(run=run, every=10, last=last, validate=scorer, on_news=news.append), news


def never() -> bool:
    return False


def test_each_nth_step_and_the_last_are_due() -> None:
    assert [s for s in range(1, 36) if is_due(s, 10, 35)] == [10, 20, 30, 35]
    assert not any(is_due(s, 0, 35) for s in range(1, 36))


def test_checkpoints_are_scored_oldest_first_and_once(tmp_path: Path) -> None:
    for step in (10, 15, 20, 30):
        checkpoint(tmp_path, step)
    scorer = Scorer({10: 0.25, 20: 0.5, 30: 0.125})
    ours, news = validation(tmp_path, scorer)
    ours.run_due(3, never)
    assert scorer.asked == [(10, 3), (20, 3), (30, 3)]
    ours.run_due(3, never)
    assert len(scorer.asked) == 3, "what was scored is not due"
    assert [(n["step"], n["best"]) for n in news] == [(10, True), (20, True), (30, False)]
    assert (tmp_path / "best").read_text() == "checkpoints/step-0000020\n"
    written = json.loads((tmp_path / "validation.json").read_text())
    assert written["best"] == 20
    assert written["steps"]["20"]["segm"]["AP"] == 0.5
    # Rows stay for the best and the newest; of others what is small.
    rows = {p.parent.name for p in (tmp_path / "validation").glob("*/part-*")}
    assert rows == {"step-0000020", "step-0000030"}
    small = {p.name for p in (tmp_path / "validation/step-0000010").iterdir()}
    assert small == {"scores.json", "overlays"}


def test_of_equal_checkpoints_the_earliest_is_best() -> None:
    scored = {10: document(0.5), 20: document(0.5), 30: {"error": "?"}, 40: document(-1.0)}
    assert best_step(scored) == 10
    assert best_step({30: {"error": "?"}}) is None


def test_what_waits_for_its_scores_and_the_best_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint(tmp_path, step)
    assert to_keep(tmp_path, 10, 40) == {10, 20, 30}
    ours, _ = validation(tmp_path, Scorer({10: 0.5, 20: 0.25, 30: 0.125}))
    ours.run_due(1, never)
    assert to_keep(tmp_path, 10, 40) == {10}
    assert to_keep(tmp_path, 0, 40) == {10}, "the best stays when scoring is turned off"


def test_what_fails_is_tried_again_and_then_left_with_its_reason(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    tries = []

    def fails(wanted: Wanted) -> dict[str, Any]:
        tries.append(wanted)
        raise RunError("the card is lost", where="node a")

    ours, news = validation(tmp_path, fails)
    ours.run_due(1, never)
    assert len(tries) == 3
    assert "step 10 was not scored (the card is lost" in news[0]["note"].replace("node a: ", "")
    assert "step 10 is not scored" in news[-1]["note"]
    assert steps_due(tmp_path, 10, 40) == []
    assert "error" in validated(tmp_path)[10]
    assert not (tmp_path / "best").exists()


def test_a_cancelled_scoring_is_due_again(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    began = threading.Event()

    def waits(wanted: Wanted) -> dict[str, Any]:
        began.set()
        while not wanted.cancelled():
            time.sleep(0.01)
        raise Cancelled

    ours, news = validation(tmp_path, waits)
    ours.begin(10, 1)
    assert ours.busy
    assert ours.due() == [], "it is being scored"
    assert began.wait(10)
    ours.close()
    assert not ours.busy
    assert not news
    assert steps_due(tmp_path, 10, 40) == [10]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_text('{"steps": [1]}')
    with pytest.raises(DataError, match="delete it"):
        validated(tmp_path)


def test_scores_join_the_records_of_their_steps_also_while_the_run_writes(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    for step in (10, 20):
        writer.write({"step": step, "loss": 1.0, "seconds": step})
        checkpoint(tmp_path, step)
    ours, _ = validation(tmp_path, Scorer({10: 0.25, 20: 0.5}))
    ours.run_due(1, never)
    writer.write({"step": 30, "loss": 1.0, "seconds": 30})
    writer.write({"step": 40, "loss": 1.0, "seconds": 40})
    writer.close()
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == [10, 20, 30, 40]
    assert [r.get("val_segm_AP") for r in records] == [0.25, 0.5, None, None]
    join_scores(tmp_path)
    assert read_metrics(tmp_path) == records
    again = MetricsWriter(tmp_path, 20)  # a resumed run drops what it does again
    again.close()
    assert [r["val_segm_AP"] for r in read_metrics(tmp_path)] == [0.25, 0.5]


def test_a_run_saves_and_logs_what_is_to_be_scored_and_keeps_it(
    made_up: Path, tmp_path: Path
) -> None:
    changes = ("checkpoint.every=4", "checkpoint.keep=1", "validate.every=3", "log_every=5")
    run_here(prepared(made_up, tmp_path, *changes))
    assert committed_steps(tmp_path) == [3, 6], "4 is pruned, 3 waits for its scores"
    assert [r["step"] for r in read_metrics(tmp_path)] == [3, 5, 6]


def test_a_missing_validation_split_is_refused_at_the_start(made_up: Path, tmp_path: Path) -> None:
    with pytest.raises((DataError, ConfigError), match="test2017"):
        prepared(made_up, tmp_path / "run", "validate.every=3", "data.val_split=test2017")
    assert not (tmp_path / "run").exists()
