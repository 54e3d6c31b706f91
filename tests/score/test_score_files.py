"""Scores from predictions folders and COCO results files, and what is wrong with such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_scores import Truth, make, pycocotools_eval, result_rows, write_parts

from raymrcnn.data.coco import CocoIndex
from raymrcnn.errors import DataError
from raymrcnn.rows import coco_results
from raymrcnn.score.files import GroundTruth, part_files, score_coco_json, score_parts
from raymrcnn.structures import Detections


def _expected(truth: Truth, rows: list[Detections], kind: str) -> list[float]:
    detections = [entry for row in rows for entry in coco_results(row)]
    stats: list[float] = pycocotools_eval(truth, detections, kind).stats.tolist()
    return stats


def test_parts_score_as_pycocotools_scores_theirresult_rows(tmp_path: Path) -> None:
    truth, detections = make(20, 11)
    rows = result_rows(truth, detections)
    scores = score_parts(write_parts(tmp_path, rows[::-1]), truth)
    for kind in ("bbox", "segm"):
        assert list(scores.metrics[kind].values()) == _expected(truth, rows, kind)
    assert scores.num_images == 11


def test_the_index_of_an_annotation_file_is_ground_truth(tmp_path: Path) -> None:
    truth, detections = make(21, 9)
    file = tmp_path / "instances.json"
    document = {
        "images": [{**i, "file_name": f"{i['id']}.jpg"} for i in truth.images][::-1],
        "annotations": truth.annotations,
        "categories": [{"id": k, "name": n} for k, n in truth.names],
    }
    file.write_text(json.dumps(document))
    index: GroundTruth = CocoIndex.open(file)
    rows = result_rows(truth, detections)
    scores = score_parts(write_parts(tmp_path / "out", rows), index)
    for kind in ("bbox", "segm"):
        assert list(scores.metrics[kind].values()) == _expected(truth, rows, kind)


def test_images_without_a_row_count_as_empty_or_not_at_all(tmp_path: Path) -> None:
    truth, detections = make(22, 10)
    rows = result_rows(truth, detections)
    paths = write_parts(tmp_path, rows[:6])
    everything = score_parts(paths, truth)
    assert everything.num_images == 10
    for kind in ("bbox", "segm"):
        assert list(everything.metrics[kind].values()) == _expected(truth, rows[:6], kind)

    def cut(num_images: int) -> Truth:
        kept, annotations = truth.to_coco_dicts(range(num_images))
        return Truth(kept, annotations, truth.names)

    predicted = score_parts(paths, truth, images="predicted")
    assert predicted.num_images == 6
    assert list(predicted.metrics["segm"].values()) == _expected(cut(6), rows[:6], "segm")
    asked = score_parts(paths, truth, images=truth.image_ids[:8])
    assert asked.num_images == 8
    assert list(asked.metrics["segm"].values()) == _expected(cut(8), rows[:6], "segm")
    with pytest.raises(DataError, match="1 images that made-up.json does not have: 5000"):
        score_parts(paths, truth, images=np.array([5000]))


def test_an_unknown_image_or_one_that_comes_twice_is_refused(tmp_path: Path) -> None:
    truth, detections = make(23, 8)
    rows = result_rows(truth, detections)
    paths = write_parts(tmp_path / "twice", [*rows, rows[3]])
    with pytest.raises(DataError, match=f"images come more than once: {rows[3].image_id}"):
        score_parts(paths, truth)
    paths = write_parts(tmp_path / "same part", [rows[0], rows[0]])
    with pytest.raises(DataError, match="images come more than once"):
        score_parts(paths, truth)
    kept, annotations = truth.to_coco_dicts(range(1, 8))
    fewer = Truth(kept, annotations, truth.names)
    paths = write_parts(tmp_path / "unknown", rows)
    with pytest.raises(DataError, match=f"does not have: {rows[0].image_id}"):
        score_parts(paths, fewer)


def test_a_folder_or_file_that_is_no_prediction_says_so(tmp_path: Path) -> None:
    truth, _ = make(24, 2)
    with pytest.raises(DataError, match="no such folder"):
        part_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no part-\*.parquet in it"):
        part_files(tmp_path)
    cut = tmp_path / "part-000000.parquet"
    cut.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"part-000000.parquet: cannot be read"):
        score_parts([cut], truth)
    pq.write_table(pa.table({"image_id": [1]}), cut)
    with pytest.raises(DataError, match="no column 'file_name'"):
        score_parts([cut], truth)


def test_a_results_file_scores_as_pycocotools_scores_it(tmp_path: Path) -> None:
    truth, detections = make(25, 9)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(detections))
    both = score_coco_json(truth, file)
    file.write_text(json.dumps([{**d, "segmentation": None} for d in detections]))
    boxes = score_coco_json(truth, file)
    file.write_text(json.dumps([{k: v for k, v in d.items() if k != "bbox"} for d in detections]))
    masks = score_coco_json(truth, file)
    assert list(both.metrics) == ["bbox", "segm"]
    assert boxes.metrics == {"bbox": both.metrics["bbox"]}
    assert masks.metrics == {"segm": both.metrics["segm"]}
    for kind in ("bbox", "segm"):
        expected = pycocotools_eval(truth, detections, kind).stats.tolist()
        assert list(both.metrics[kind].values()) == expected
    file.write_text("[]")
    assert score_coco_json(truth, file).metrics["bbox"]["AP"] == 0
    assert score_coco_json(truth, file, images="predicted").metrics["bbox"]["AP"] == -1


def test_results_may_give_masks_in_other_forms(tmp_path: Path) -> None:
    truth, _ = make(26, 3)
    image = truth.images[0]
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    result: dict[str, Any] = {
        "image_id": image["id"],
        "category_id": truth.names[0][0],
        "score": 1,
        "segmentation": square,
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps([result]))
    outlined = score_coco_json(truth, file)
    result["segmentation"] = {"size": [image["height"], image["width"]], "counts": [1, 2]}
    file.write_text(json.dumps([result]))
    with pytest.raises(DataError, match=rf"results.json: image {image['id']}: the runs"):
        score_coco_json(truth, file)
    assert outlined.num_detections == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cut short"),
        ('[{"image_id": 1, "category_', "cut short"),
        ("no json", "not JSON: invalid character"),
        ("{}", r"top level: expected `array`, got `object`"),
        ('[{"image_id": 1}]', r"\[0\]: object missing required field `category_id`"),
        (
            '[{"image_id": "1", "category_id": 1, "score": 1}]',
            r"\[0\].image_id: expected `int`, got `str`",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "score": NaN, "bbox": [1, 2, 3, 4]}]',
            "a number at byte 44 is not finite",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "score": -Infinity, "bbox": [1, 2, 3, 4]}]',
            "is not finite",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 2, 3]}]',
            r"\[0\].bbox: expected `array` of length 4",
        ),
        (
            '[{"image_id": 1, "category_id": 1, "score": 1}]',
            "neither all a bbox nor all a segmentation",
        ),
        (
            '[{"image_id": 99999, "category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}]',
            "1 images that made-up.json does not have: 99999",
        ),
        (
            f'[{{"image_id": {2**63}, "category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}}]',
            r"\[0\].image_id: ",
        ),
        (
            f'[{{"image_id": 1, "category_id": {-(2**70)}, "score": 1, "bbox": [1, 2, 3, 4]}}]',
            r"\[0\].category_id: ",
        ),
    ],
)
def test_a_malformed_results_file_says_where_and_what(tmp_path: Path, text: str, says: str) -> None:
    truth, _ = make(27, 2)
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(DataError, match=says) as refused:
        score_coco_json(truth, file)
    assert str(refused.value).startswith(str(file))


def test_a_kind_that_is_asked_for_must_be_in_every_result(tmp_path: Path) -> None:
    truth, detections = make(28, 4)
    del detections[1]["bbox"]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(detections))
    assert list(score_coco_json(truth, file).metrics) == ["segm"]
    image_id = detections[1]["image_id"]
    with pytest.raises(DataError, match=rf"detection 1 \(image {image_id}\) has no bbox"):
        score_coco_json(truth, file, iou_types=["bbox"])
    with pytest.raises(DataError, match="cannot be read"):
        score_coco_json(truth, tmp_path / "missing.json")


def test_results_cut_at_any_byte_are_cut_short(tmp_path: Path) -> None:
    truth, _ = make(25, 1)
    text = json.dumps([{"image_id": 1, "category_id": 1, "score": -1e-3, "bbox": [-0.5, 1, 2, 3]}])
    for size in range(1, len(text)):
        (tmp_path / "a.json").write_text(text[:size])
        with pytest.raises(DataError, match=f"cut short: it ends within a value at byte {size}"):
            score_coco_json(truth, tmp_path / "a.json")
