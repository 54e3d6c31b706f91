from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_folders import NUM_IMAGES, WIDTH, Folders, box_mask, detections_of

from raymrcnn.data.coco import open_split
from raymrcnn.masks import bitmap_to_rle
from raymrcnn.report import quality
from raymrcnn.report.collect import read_predictions
from raymrcnn.report.quality import Truth, evenly, match, rank, truth_of
from raymrcnn.rows import results_table
from raymrcnn.structures import Detections


def truth_of_boxes(objects: list[tuple[int, tuple[int, int, int, int], bool]]) -> Truth:
    return Truth(
        category_ids=np.asarray([c for c, _, _ in objects], np.int64),
        iscrowd=np.asarray([crowd for _, _, crowd in objects], bool),
        rles=[bitmap_to_rle(box_mask(*box)) for _, box, _ in objects],
    )


def test_exact_detection_has_quality_one() -> None:
    box = (10, 10, 30, 30)
    found = match(detections_of(1, [(0.9, 5, box)]), truth_of_boxes([(5, box, False)]))
    assert found.pairs == ((0, 0, 1.0),)
    assert found.quality == 1.0


def test_quality_is_iou_over_found_and_half_of_missed_and_extra() -> None:
    detections = detections_of(
        1,
        [
            (0.9, 1, (0, 0, 20, 16)),  # IoU 0.8 with the first object
            (0.8, 2, (50, 0, 70, 20)),  # right place, wrong category
            (0.3, 1, (70, 40, 90, 60)),  # not confident
        ],
    )
    truth = truth_of_boxes(
        [(1, (0, 0, 20, 20), False), (1, (50, 0, 70, 20), False), (1, (70, 40, 90, 60), False)]
    )
    found = match(detections, truth)
    assert found.pairs == ((0, 0, pytest.approx(0.8)),)
    assert found.missed == (1, 2) and found.extra == (1,)
    assert found.quality == pytest.approx(0.8 / (1 + 3 / 2))


def test_object_is_found_once_by_the_highest_score() -> None:
    detections = detections_of(1, [(0.6, 1, (0, 0, 20, 20)), (0.9, 1, (0, 0, 20, 18))])
    found = match(detections, truth_of_boxes([(1, (0, 0, 20, 20), False)]))
    assert found.pairs == ((1, 0, pytest.approx(0.9)),)
    assert found.extra == (0,)


def test_overlap_of_half_is_no_match() -> None:
    found = match(
        detections_of(1, [(0.9, 1, (0, 0, 20, 10))]), truth_of_boxes([(1, (0, 0, 20, 20), False)])
    )
    assert found.pairs == () and found.quality == 0.0


def test_crowd_need_not_be_found_and_excuses_what_lies_in_it() -> None:
    detections = detections_of(
        1, [(0.9, 1, (10, 10, 20, 20)), (0.9, 1, (36, 10, 56, 20)), (0.9, 2, (10, 10, 20, 20))]
    )
    found = match(detections, truth_of_boxes([(1, (0, 0, 40, 40), True)]))
    assert found.missed == ()
    assert found.extra == (1, 2)  # mostly outside; of another category


def test_nothing_to_find_and_nothing_found_has_no_quality() -> None:
    assert np.isnan(match(detections_of(1, []), truth_of_boxes([])).quality)


def test_a_higher_least_score_keeps_the_pairs_that_reach_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        corners = rng.integers(0, 40, (12, 2))
        sizes = rng.integers(8, 24, (12, 2))
        boxes = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in
                 zip(corners, sizes, strict=True)]  # fmt: skip
        # Few places, so that many overlap; few scores, so that some are equal.
        found = [(float(rng.choice([0.1, 0.3, 0.5, 0.9])), int(rng.integers(1, 3)), b)
                 for b in (*boxes[:8], *boxes[:4])]  # fmt: skip
        truth = truth_of_boxes([(int(rng.integers(1, 3)), b, bool(rng.random() < 0.2))
                                for b in boxes[2:]])  # fmt: skip
        detections = detections_of(1, found)
        every = match(detections, truth, 0.0)
        for least in (0.2, 0.4, 0.5, 0.95):
            high = match(detections, truth, least)
            reach = {d for d, (score, _, _) in enumerate(found) if score >= least}
            assert set(high.pairs) == {p for p in every.pairs if p[0] in reach}
            assert set(high.extra) == {d for d in every.extra if d in reach}
            lost = {g for d, g, _ in every.pairs if d not in reach}
            assert set(high.missed) == {*every.missed, *lost}


def test_best_and_worst_images_are_disjoint_and_in_order(folders: Folders) -> None:
    predictions = read_predictions(folders.predictions)
    ranking = rank(predictions, open_split(folders.root, "val"), 5, 4)
    best = [item.matches.quality for item in ranking.best if item.matches]
    worst = [item.matches.quality for item in ranking.worst if item.matches]
    assert best == sorted(best, reverse=True) and worst == sorted(worst)
    assert (best[0], worst[0]) == (ranking.qualities.max(), ranking.qualities.min())
    assert len(best) == 5 and len(worst) == 4
    shown = [item.detections.image_id for item in ranking.best + ranking.worst]
    assert len(set(shown)) == 9
    mistakes = [len(i.matches.missed) + len(i.matches.extra) for i in ranking.worst if i.matches]
    assert worst == [0.0] * 4 and mistakes == sorted(mistakes, reverse=True)


def test_few_images_are_shared_between_best_and_worst(folders: Folders) -> None:
    predictions = read_predictions(folders.predictions)
    ranking = rank(predictions, open_split(folders.root, "val"), 100, 100)
    assert (len(ranking.best), len(ranking.worst)) == (8, 8)
    shown = {item.detections.image_id for item in ranking.best + ranking.worst}
    assert len(shown) == NUM_IMAGES


def test_large_folders_are_sampled_evenly_and_alike(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MAX_RANKED", 5)
    predictions = read_predictions(folders.predictions)
    index = open_split(folders.root, "val")
    first, second = rank(predictions, index, 3, 3), rank(predictions, index, 3, 3)
    assert first.num_looked_at == 5
    assert first.qualities.tolist() == second.qualities.tolist()
    ids = np.arange(10, 110)
    assert evenly(ids, 4).tolist() == [10, 35, 60, 85]
    assert evenly(ids, 1000) is ids


def test_images_whose_truth_cannot_be_used_are_counted(folders: Folders) -> None:
    path = folders.root / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = {"size": [9, 9], "counts": "abc"}
    document["images"][1]["width"] = WIDTH + 1
    for annotation in document["annotations"]:
        if annotation["image_id"] == 3:
            del annotation["segmentation"]
    kept = [image for image in document["images"] if image["id"] != 5]
    document["images"] = kept
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 5]
    path.write_text(json.dumps(document))
    ranking = rank(read_predictions(folders.predictions), open_split(folders.root, "val"), 3, 3)
    assert ranking.num_unreadable == 4
    assert ranking.num_looked_at == NUM_IMAGES
    assert len(ranking.qualities) == NUM_IMAGES - 4


def test_real_ground_truth_given_as_predictions_is_perfect(shared: Path, tmp_path: Path) -> None:
    index = open_split(shared / "data" / "coco-mini", "val2017")
    rows = []
    for i in range(60):
        truth = truth_of(index, i)
        real = np.flatnonzero(~truth.iscrowd)
        detections = Detections(
            image_id=int(index.image_ids[i]),
            file_name=index.file_name(i),
            width=int(index.widths[i]),
            height=int(index.heights[i]),
            boxes=np.zeros((len(real), 4), np.float32),
            scores=np.full(len(real), 0.9, np.float32),
            category_ids=truth.category_ids[real],
            rles=[truth.rles[g] for g in real],
        )
        rows.append(detections)
    pq.write_table(results_table(rows), tmp_path / "part-000000.parquet")
    ranking = rank(read_predictions(tmp_path), index, 3, 3)
    assert ranking.num_unreadable == 0 and len(ranking.qualities) > 40
    assert ranking.qualities.min() == ranking.qualities.max() == 1.0
