"""Errors, confusions and calibration: made-up cases told by hand, and a peer's numbers."""

from __future__ import annotations

import copy
from typing import Any

import hotcoco
import numpy as np
import pytest
from made_up_scores import Entries, Truth, make, pycocotools_eval

from raymrcnn.errors import DataError
from raymrcnn.score.coco import IOU_TYPES, Matcher, Scores, merge, records_of
from raymrcnn.score.matching import AREAS
from raymrcnn.score.precision import PrecisionTable, summary
from raymrcnn.score.table import calibration_table, confusion_table, error_table


def _states(truth: Truth, detections: Entries, shards: int = 1, **options: Any) -> list[Any]:
    states = []
    for rows in np.array_split(np.arange(len(truth.images)), shards):
        matcher = Matcher(truth.categories, detail=True, **options)
        images, annotations = truth.to_coco_dicts(rows)
        ids = {image["id"] for image in images}
        mine = [d for d in detections if d["image_id"] in ids]
        matcher.update(images, annotations, mine)
        states.append(matcher.state())
    return states


@pytest.mark.parametrize("seed", range(6))
def test_records_give_pycocotools_precision_for_each_size_category_and_threshold(
    seed: int,
) -> None:
    truth, detections = make(seed, 10, num_categories=4, most_detections=25)
    states = _states(truth, detections, shards=3)[::-1]
    for kind in IOU_TYPES:
        records = records_of(states, kind)
        precision = pycocotools_eval(truth, detections, kind).eval["precision"]
        for i, area in enumerate(AREAS):
            table = PrecisionTable(records, 4, area, np.sort(truth.image_ids))
            ours = table.average_precision(np.ones(10))
            theirs = precision[:, :, :, i, 2]
            expected = np.where(theirs[:, 0] > -1, theirs.mean(axis=1), np.nan)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_an_image_of_weight_3_counts_as_if_it_were_there_three_times() -> None:
    truth, detections = make(11, 8)
    weights = np.array([3, 0, 1, 2, 1, 0, 1, 2], np.float64)
    records = records_of(_states(truth, detections), "segm")
    ids = np.sort(truth.image_ids)
    ours = PrecisionTable(records, 3, "", ids).average_precision(weights)
    images, annotations, found = [], [], []
    for image_id, weight in zip(ids.tolist(), weights.astype(int).tolist(), strict=True):
        for copy_ in range(weight):
            new = image_id * 10 + copy_
            images += [{**i, "id": new} for i in truth.images if i["id"] == image_id]
            for a in truth.annotations:
                if a["image_id"] == image_id:
                    annotations.append({**a, "image_id": new, "id": len(annotations) + 1})
            found += [{**d, "image_id": new} for d in detections if d["image_id"] == image_id]
    theirs = pycocotools_eval(Truth(images, annotations, truth.names), found, "segm")
    # Among equal scores copies of an image stand together, here as there.
    assert summary(ours)["AP"] == pytest.approx(theirs.stats[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_errors_calibration_and_confusion_are_those_of_a_peer_where_there_are_no_crowds(
    seed: int,
) -> None:
    truth, detections = make(seed + 100, 12, most_detections=25)
    for annotation in truth.annotations:
        annotation["iscrowd"] = 0
    draw = np.random.default_rng(seed)
    detections = [{**d, "score": float(draw.random())} for d in detections]
    scores = merge(_states(truth, detections, shards=2))
    for kind in IOU_TYPES:
        peer = _peer(truth, detections, kind)
        ours = scores.detail[kind]
        errors = peer.tide_errors()
        assert ours["errors"]["AP50"] == pytest.approx(errors["ap_base"], abs=1e-12)
        for name, delta in errors["delta_ap"].items():
            assert ours["errors"][name]["delta"] == pytest.approx(delta, abs=1e-12), name
            assert ours["errors"][name].get("count") == errors["counts"].get(name), name
        calibration = peer.calibration()
        for name in ("ece", "mce", "num_detections"):
            assert ours["calibration"][name] == pytest.approx(calibration[name], abs=1e-12)
        confusion = peer.confusion_matrix(min_score=0.5)
        ids = [*confusion["cat_ids"], None]
        table = np.zeros_like(confusion["matrix"])
        for pair in ours["confusion"]["pairs"]:
            table[ids.index(pair["truth"]), ids.index(pair["predicted"])] = pair["count"]
        np.testing.assert_array_equal(table, confusion["matrix"])


def _peer(truth: Truth, detections: Entries, kind: str) -> Any:
    document = {
        "images": truth.images,
        "annotations": copy.deepcopy(truth.annotations),
        "categories": [{"id": k, "name": name} for k, name in truth.names],
    }
    dropped = "segmentation" if kind == "bbox" else "bbox"
    coco = hotcoco.COCO(document)
    found = coco.load_res([{k: v for k, v in d.items() if k != dropped} for d in detections])
    peer = hotcoco.COCOeval(coco, found, kind)
    peer.evaluate()
    return peer


def _boxes(truth: list[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> Scores:
    """Scores of boxes (category, x, y, width, height and crowd or score) in one image."""
    image = {"id": 7, "height": 100, "width": 400}
    annotations = [
        {"id": i, "image_id": 7, "category_id": k, "bbox": list(box), "iscrowd": crowd,
         "area": box[2] * box[3]}
        for i, (k, *box, crowd) in enumerate(truth, start=1)
    ]  # fmt: skip
    detections = [
        {"image_id": 7, "category_id": k, "bbox": list(box), "score": score}
        for k, *box, score in found
    ]
    categories = Truth([], [], [(1, "cat"), (2, "dog")]).categories
    matcher = Matcher(categories, ["bbox"], detail=True)
    matcher.update([image], annotations, detections)
    return merge([matcher.state()])


def test_each_kind_of_error_is_told_by_hand() -> None:
    truth = [(1, 0, 0, 40, 40, 0), (1, 50, 0, 40, 40, 0), (2, 100, 0, 40, 40, 0),
             (2, 150, 0, 40, 40, 0), (1, 200, 0, 80, 80, 1)]  # fmt: skip
    found = [
        (1, 0, 0, 40, 40, 0.9),  # right
        (1, 2, 0, 40, 40, 0.8),  # the same again: Dupe
        (1, 70, 0, 40, 40, 0.7),  # half beside the second cat: Loc, which mends it
        (1, 100, 0, 40, 40, 0.95),  # on a dog, called a cat: Cls, which mends it
        (1, 175, 0, 40, 40, 0.6),  # half beside a dog, called a cat: Both
        (2, 300, 0, 40, 40, 0.55),  # on nothing: Bkg
        (1, 210, 10, 40, 40, 0.65),  # in a crowd: counts for nothing
    ]
    scores = _boxes(truth, found)
    errors = scores.detail["bbox"]["errors"]
    counts = {name: errors[name].get("count") for name in errors if name != "AP50"}
    # The detection in the crowd has an error too, as in the published tool; it changes no AP.
    assert counts == {
        "Cls": 1, "Loc": 1, "Both": 1, "Dupe": 1, "Bkg": 2, "Miss": 1, "FP": None, "FN": None,
    }  # fmt: skip
    # Cats: right at rank 2 of 2 objects, so precision 1/2 up to recall 1/2; dogs: none found.
    base = (51 / 101 * 0.5) / 2
    assert errors["AP50"] == pytest.approx(base)
    # Without the false cat of score 0.95 cats rise to precision 1; one of two dogs is found.
    assert errors["Cls"]["delta"] == pytest.approx((51 / 101 + 51 / 101) / 2 - base)
    # Ranks: false, right, false, mended: 2 of 4 right where both are found.
    assert errors["Loc"]["delta"] == pytest.approx(0.5 / 2 - base)
    assert errors["Dupe"]["delta"] == errors["Both"]["delta"] == errors["Bkg"]["delta"] == 0.0
    assert errors["FP"]["delta"] == pytest.approx(51 / 101 / 2 - base)
    # One cat and no dog is left to find.
    assert errors["FN"]["delta"] == pytest.approx(0.5 / 2 - base)
    pairs = {
        (p["truth"], p["predicted"]): p["count"]
        for p in scores.detail["bbox"]["confusion"]["pairs"]
    }
    assert pairs == {(1, 1): 1, (2, 1): 1, (None, 1): 3, (None, 2): 1, (1, None): 1, (2, None): 1}


def test_calibration_says_how_far_scores_are_from_the_share_that_is_right() -> None:
    truth = [(1, 50 * i, 0, 40, 40, 0) for i in range(4)]
    found = [(1, 0, 0, 40, 40, 0.95), (1, 50, 0, 40, 40, 0.91), (1, 0, 60, 40, 40, 0.93),
             (1, 0, 50, 30, 30, 0.15), (1, 100, 0, 40, 40, 1.0)]  # fmt: skip
    found_scores = _boxes(truth, found)
    calibration = found_scores.detail["bbox"]["calibration"]
    high, low = (0.95 + 0.91 + 0.93 + 1.0) / 4 - 0.75, 0.15
    assert calibration["mce"] == pytest.approx(max(high, low))
    assert calibration["ece"] == pytest.approx((4 * high + low) / 5)
    assert [b["count"] for b in calibration["bins"]] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 4]
    assert list(calibration["per_category"]) == ["1"]


def test_tables_of_the_detail_have_a_row_for_each_entry() -> None:
    truth, detections = make(31, 20)
    scores = merge(_states(truth, detections))
    assert [row[0] for row in error_table(scores)[1:]] == [
        *("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")
    ]
    assert len(calibration_table(scores)) == 11
    assert confusion_table(scores, "bbox")[0] == ["object", "taken for", "times"]
    assert merge(_states(truth, [])).detail["segm"]["errors"]["Miss"]["count"] == scores.num_objects


def test_malformed_masks_are_refused_by_id_or_left_out_and_listed() -> None:
    truth, detections = make(32, 8)
    broken = [{**a} for a in truth.annotations]
    broken[1]["segmentation"] = [[1.0, 2.0, 3.0, 4.0]]
    broken[3]["segmentation"] = {"size": [3, 3], "counts": "ab"}
    damaged = Truth(truth.images, broken, truth.names)
    with pytest.raises(DataError, match=f"annotation {broken[1]['id']}|{broken[3]['id']}") as found:
        _states(damaged, detections)
    assert "--skip-bad-annotations" in str(found.value)
    scores = merge(_states(damaged, detections, shards=3, skip_bad=True))
    assert scores.skipped == sorted((broken[1]["id"], broken[3]["id"]))
    assert scores.to_json()["skipped_annotations"] == scores.skipped
    kept = [a for i, a in enumerate(truth.annotations) if i not in (1, 3)]
    fewer = merge(_states(Truth(truth.images, kept, truth.names), detections))
    assert scores.metrics["segm"] == fewer.metrics["segm"]
    assert scores.metrics["bbox"] == merge(_states(truth, detections)).metrics["bbox"]
