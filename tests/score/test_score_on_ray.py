"""Scoring in Ray tasks: the same numbers as in one process, and the same one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from made_up_scores import Truth, make, result_rows, write_parts

from raymrcnn.errors import DataError, RunError
from raymrcnn.rows import results_table
from raymrcnn.score import on_ray
from raymrcnn.score.files import Asked, score_parts
from raymrcnn.score.on_ray import EarlyMatching, _run, score_predictions

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    here = str(Path(__file__).parent)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("_ray")
def test_tasks_find_the_scores_of_one_process(tmp_path: Path) -> None:
    truth, detections = make(40, 30)
    rows = result_rows(truth, detections)[:25]
    paths = write_parts(tmp_path, rows, per_part=2)
    seen: list[tuple[int, int]] = []
    scores = score_predictions(
        tmp_path, truth, max_tasks=2, progress=lambda done, of: seen.append((done, of))
    )
    assert scores == score_parts(paths, truth)
    assert scores.num_images == 30
    assert seen[-1] == (13, 13)
    predicted = score_predictions(
        tmp_path, truth, images="predicted", asked=Asked(iou_types=["segm"])
    )
    assert predicted == score_parts(
        paths, truth, images="predicted", asked=Asked(iou_types=["segm"])
    )
    assert predicted.num_images == 25


@pytest.mark.usefixtures("_ray")
def test_parts_matched_while_others_are_made_count_once(tmp_path: Path) -> None:
    truth, detections = make(43, 30)
    paths = write_parts(tmp_path, result_rows(truth, detections), per_part=3)
    early = EarlyMatching(truth)
    for path in paths[5:]:
        early.add(path)
    assert len(early.tasks) == 1  # four parts in one task, the fifth waits
    scores = score_predictions(tmp_path, truth, early=early)
    assert scores == score_parts(paths, truth)
    pq.write_table(results_table([]), paths[0])
    broken = EarlyMatching(truth)
    paths[1].write_bytes(b"damaged")
    broken.add(paths[1])
    broken.start()
    with pytest.raises(DataError, match="cannot be read"):
        score_predictions(tmp_path, truth, early=broken)


@pytest.mark.usefixtures("_ray")
def test_an_error_in_a_task_is_the_users_one_line(tmp_path: Path) -> None:
    truth, detections = make(41, 8)
    rows = result_rows(truth, detections)
    write_parts(tmp_path, rows)
    kept, annotations = truth.to_coco_dicts(range(1, 8))
    with pytest.raises(DataError, match=f"does not have: {rows[0].image_id};"):
        score_predictions(tmp_path, Truth(kept, annotations, truth.names))
    pq.write_table(results_table(rows[2:3]), tmp_path / "part-999999.parquet")
    with pytest.raises(DataError, match=f"images come more than once: {rows[2].image_id}"):
        score_predictions(tmp_path, truth)


@pytest.mark.usefixtures("_ray")
def test_a_task_that_fails_of_itself_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, detections = make(41, 3)
    write_parts(tmp_path, result_rows(truth, detections))

    @ray.remote(num_cpus=1)
    def broken(*arguments: object) -> None:
        raise TypeError("no number")

    monkeypatch.setattr(on_ray, "_match_parts", broken)
    with pytest.raises(RunError, match=r"^scoring failed: .*no number; run the same"):
        score_predictions(tmp_path, truth)


@pytest.mark.usefixtures("_ray")
def test_no_more_tasks_are_under_way_than_allowed() -> None:
    @ray.remote(num_cpus=0)
    def task(i: int) -> int:
        return i

    started: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for i in range(20):
            started.append(i)
            yield (i,)

    finished = []
    for result in _run(task, calls(), 3):
        finished.append(result)
        assert len(started) - len(finished) <= 3
    assert sorted(finished) == list(range(20))
