from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_folders import NUM_IMAGES, Folders, detections_of

from raymrcnn import rundir
from raymrcnn.report.collect import failure_reason, image_refs, read_metrics, read_predictions
from raymrcnn.rows import results_table


def test_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n{"step": 3, "lo')
    metrics = read_metrics(path)
    assert metrics is not None
    assert metrics.columns["step"].tolist() == [1, 2]
    assert metrics.columns["loss"].tolist() == [3.0, 2.5]
    assert metrics.num_unreadable == 1


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [(10, 5.0), (20, 4.0), (30, 9.0), (20, 3.0), (30, 2.0)]
    path.write_text("".join(f'{{"step": {s}, "loss": {v}}}\n' for s, v in lines))
    metrics = read_metrics(path)
    assert metrics is not None
    assert metrics.columns["step"].tolist() == [10, 20, 30]
    assert metrics.columns["loss"].tolist() == [5.0, 3.0, 2.0]
    assert metrics.resumed_at == (20,)


def test_column_without_a_number_is_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "lr": "high"}\n{"step": 2, "loss_mask": 1}\n')
    metrics = read_metrics(path)
    assert metrics is not None
    assert metrics.column("loss") is None and metrics.column("lr") is None
    assert metrics.column("absent") is None
    mask = metrics.column("loss_mask")
    assert mask is not None and np.isnan(mask[0]) and mask[1] == 1


@pytest.mark.parametrize("text", ["", "\n\n", "not json\n", "[1]\n", '{"loss": 1}\n'])
def test_metrics_without_a_readable_line_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    assert read_metrics(path) is None


def test_counts_are_those_of_all_rows(folders: Folders) -> None:
    predictions = read_predictions(folders.predictions)
    assert predictions.image_ids.tolist() == list(range(1, NUM_IMAGES + 1))
    # 15 images with two detections, three of them with a third one, and an empty one.
    assert predictions.per_image.tolist() == [1, 0, 12, 3]
    assert predictions.per_category == {1: 15, 3: 3, 7: 15}
    assert predictions.num_detections == 33


def test_score_of_exactly_one_is_counted(tmp_path: Path) -> None:
    rows = results_table([detections_of(1, [(1.0, 1, (0, 0, 5, 5)), (0.0, 1, (0, 0, 5, 5))])])
    pq.write_table(rows, tmp_path / rundir.part_name(0))
    predictions = read_predictions(tmp_path)
    assert predictions.score_counts[-1] == 1 and predictions.score_counts[0] == 1


def test_places_are_those_of_the_wanted_images(folders: Folders) -> None:
    refs = image_refs(folders.predictions, [3, 999])
    assert {k: ref.uri for k, ref in refs.items()} == {3: str(folders.root / "val" / "003.png")}
    assert image_refs(folders.root, [3]) == {}


def test_restarts_and_steps_left_out_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    left_out = '{"step": 30, "resumed_from": 15, "left_out": [{"step": 21}, {"step": 22}]}'
    path.write_text(f'{{"step": 10}}\n{left_out}\n')
    metrics = read_metrics(path)
    assert metrics is not None
    assert metrics.resumed_at == (15,)
    assert metrics.num_left_out == 2


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("a/b.jpg", "/data/a/b.jpg: cut short (12 of 90 bytes)", "cut short (N of N bytes)"),
        ("b.jpg", "not an\nimage", "not an image"),
        ("(b.jpg", "x/(b.jpg: is empty", "is empty"),
        ("b.jpg", "b.jpg", "no reason given"),
        ("", "cannot connect to 10.0.0.1", "cannot connect to N.N"),
    ],
)
def test_reason_of_a_failure_is_without_its_file(name: str, error: str, reason: str) -> None:
    assert failure_reason(name, error) == reason
