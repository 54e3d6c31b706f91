"""The scores against pycocotools', to the last bit, and what is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_scores import Entries, Truth, make, pycocotools_eval
from pycocotools import mask as coco_mask

from raymrcnn.errors import DataError
from raymrcnn.masks import rle_to_bitmap
from raymrcnn.score.coco import IOU_TYPES, METRICS, Scores, match_shard, merge


def _score(truth: Truth, detections: Entries) -> Scores:
    return merge([match_shard(truth.images, truth.annotations, detections, truth.categories)])


def _assert_equal(ours: Scores, truth: Truth, detections: Entries) -> None:
    for kind in IOU_TYPES:
        theirs = pycocotools_eval(truth, detections, kind)
        assert list(ours.metrics[kind]) == list(METRICS)
        assert list(ours.metrics[kind].values()) == theirs.stats.tolist()
        precision, recall = theirs.eval["precision"], theirs.eval["recall"]
        for k, row in enumerate(ours.per_category[kind]):
            single = precision[:, :, k, 0, 2]
            expected = single[single > -1].mean() if (single > -1).any() else -1
            assert row["AP"] == expected
            found = recall[:, k, 3, 2]
            assert row["ARl"] == (found[found > -1].mean() if (found > -1).any() else -1)


def _shards(truth: Truth, detections: Entries, num_shards: int, seed: int) -> list[Any]:
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(truth.images))
    shards = []
    for part in np.array_split(order, num_shards):
        images, annotations = truth.to_coco_dicts(part)
        chosen = {image["id"] for image in images}
        mine = [d for d in detections if d["image_id"] in chosen]
        shards.append(match_shard(images, annotations, mine, truth.categories))
    return [shards[i] for i in draw.permutation(num_shards)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_images=st.integers(1, 10), num_shards=st.integers(1, 4))
def test_made_up_data_scores_as_pycocotools_in_any_shards(
    seed: int, num_images: int, num_shards: int
) -> None:
    truth, detections = make(seed, num_images)
    ours = merge(_shards(truth, detections, num_shards, seed))
    _assert_equal(ours, truth, detections)
    assert ours.num_images == num_images
    assert ours.num_detections == len(detections)
    assert ours.num_objects == sum(not a["iscrowd"] for a in truth.annotations)


def test_more_than_a_hundred_detections_in_an_image_are_cut_as_pycocotools_cuts() -> None:
    truth, detections = make(5, 3, num_categories=2, most_detections=700)
    most = max(
        sum(d["image_id"] == i and d["category_id"] == k for d in detections)
        for i in truth.image_ids.tolist()
        for k, _ in truth.names
    )
    assert most > 110
    _assert_equal(_score(truth, detections), truth, detections)


def test_equal_scores_everywhere_are_ranked_as_pycocotools_ranks() -> None:
    truth, detections = make(6, 9)
    tied = [{**d, "score": 0.5} for d in detections]
    _assert_equal(merge(_shards(truth, tied, 3, 6)), truth, tied)


def test_nothing_detected_and_nothing_to_detect() -> None:
    truth, detections = make(7, 6)
    nothing = _score(truth, [])
    _assert_equal(nothing, truth, [])
    assert nothing.metrics["segm"]["AP"] == 0
    empty = Truth(truth.images, [], truth.names)
    _assert_equal(_score(empty, detections), empty, detections)
    assert _score(empty, detections).metrics["bbox"]["AP"] == -1


def test_annotation_id_0_is_an_annotation_like_any_other() -> None:
    truth, detections = make(8, 6)
    renumbered = [{**a, "id": i} for i, a in enumerate(truth.annotations)]
    ours = _score(Truth(truth.images, renumbered, truth.names), detections)
    _assert_equal(ours, truth, detections)


def test_real_detections_have_the_published_scores(shared: Path) -> None:
    folder = shared / "data/cocoeval-val2014-100"
    document = json.loads((folder / "instances_val2014_100.json").read_text())
    names = [(c["id"], c["name"]) for c in document["categories"]]
    truth = Truth(document["images"], document["annotations"], names)
    expected = json.loads((folder / "expected_stats.json").read_text())
    for kind in IOU_TYPES:
        detections = json.loads(
            (folder / f"instances_val2014_fake{kind}100_results.json").read_text()
        )
        state = match_shard(truth.images, truth.annotations, detections, truth.categories, [kind])
        ours = merge([state]).metrics[kind]
        assert ours == dict(
            zip(METRICS, pycocotools_eval(truth, detections, kind).stats.tolist(), strict=True)
        )
        # The published numbers were printed by another numpy, which sums in another order.
        for name, value in expected[kind].items():
            assert ours[name] == pytest.approx(value, abs=2e-16)


def test_masks_are_sized_by_their_own_area_not_their_box() -> None:
    height, width = 200, 200
    truth, _ = make(9, 1)
    image = {"id": 1, "height": height, "width": width}
    ring = [[0, 0, 100, 0, 100, 100, 0, 100, 0, 95, 95, 95, 95, 5, 5, 5, 5, 95, 0, 95]]
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": truth.names[0][0],
        "area": 500.0,
        "iscrowd": 0,
        "bbox": [0, 0, 100, 100],
        "segmentation": ring,
    }
    rle = coco_mask.merge(coco_mask.frPyObjects(ring, height, width))
    # A second detection, of a thin ring far away: small by its mask, large by its box.
    away = np.roll(rle_to_bitmap(rle["counts"].decode(), height, width), (95, 95), (0, 1))
    rles = [rle, coco_mask.encode(np.asfortranarray(away))]
    detections = [
        {
            "image_id": 1,
            "category_id": annotation["category_id"],
            "score": 0.9 - 0.5 * i,
            "bbox": [100 * i, 100 * i, 100, 100],
            "segmentation": {"size": [height, width], "counts": r["counts"].decode()},
        }
        for i, r in enumerate(rles)
    ]
    lone = Truth([image], [annotation], truth.names)
    ours = _score(lone, detections[::-1])
    _assert_equal(ours, lone, detections[::-1])
    assert ours.metrics["segm"]["APl"] == -1


def test_scores_are_written_in_the_order_of_the_contract() -> None:
    truth, detections = make(10, 8)
    document = json.loads(json.dumps(_score(truth, detections).to_json()))
    assert list(document)[:2] == ["bbox", "segm"]
    for kind in IOU_TYPES:
        assert list(document[kind]) == list(METRICS)
        curve = document["precision_recall"][kind]
        assert len(curve["recall"]) == 101
        theirs = pycocotools_eval(truth, detections, kind).eval["precision"][..., 0, 2]
        known = theirs[0, 0] > -1
        for name, i in (("0.50", 0), ("0.75", 5)):
            assert curve["precision"][name] == pytest.approx(theirs[i][:, known].mean(axis=1))
        rows = document["per_category"][kind]
        assert [(r["category_id"], r["name"]) for r in rows] == truth.names
        assert set(curve["per_category"]["0.50"]) == {
            str(k) for (k, _), there in zip(truth.names, known, strict=True) if there
        }


def _with(entry: dict[str, Any], **fields: Any) -> dict[str, Any]:
    changed = {**copy.deepcopy(entry), **fields}
    return {k: v for k, v in changed.items() if v is not ...}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image_id": 4242}, "1 images that the ground truth does not have: 4242"),
        ({"category_id": 999}, "1 categories that the ground truth does not have: 999"),
        ({"image_id": ...}, "detection 2 has no 'image_id'"),
        ({"image_id": "7"}, "detection 2 has 'image_id' '7', no integer"),
        ({"category_id": 1.0}, "detection 2 has 'category_id' 1.0, no integer"),
        ({"score": ...}, "detection 2 has no 'score'"),
        ({"score": float("nan")}, "has 'score' nan, not a finite number"),
        ({"score": float("inf")}, "has 'score' inf, not a finite number"),
        ({"score": None}, "has 'score' None, not a finite number"),
        ({"score": "0.5"}, "has 'score' '0.5', not a finite number"),
        ({"bbox": ["1", 2, 3, 4]}, "not four finite numbers"),
        ({"bbox": 5}, "not four finite numbers"),
        ({"bbox": ...}, "detection 2 has no 'bbox'"),
        ({"bbox": [1, 2, 3]}, r"has 'bbox' \[1, 2, 3\], not four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "not four finite numbers"),
        ({"segmentation": ...}, "has no compressed RLE"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "has no compressed RLE"),
        ({"segmentation": {"size": [1, 2], "counts": "2"}}, r"RLE of size \[1, 2\] in an image"),
        ({"segmentation": {"counts": "2"}}, "RLE of size None"),
    ],
)
def test_a_malformed_detection_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    truth, detections = make(11, 6)
    detections[2] = _with(detections[2], **fields)
    with pytest.raises(DataError, match=says):
        _score(truth, detections)


def test_a_cut_run_length_string_names_the_detection_and_its_image() -> None:
    truth, detections = make(11, 6)
    mask = detections[4]["segmentation"]
    detections[4]["segmentation"] = {**mask, "counts": mask["counts"][:-2]}
    image_id = detections[4]["image_id"]
    with pytest.raises(DataError, match=rf"the RLE of detection 4 \(image {image_id}\)"):
        _score(truth, detections)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"segmentation": ...}, "annotation 17 has no mask"),
        ({"segmentation": []}, "annotation 17 has no mask"),
        ({"segmentation": [[]]}, "annotation 17: polygon 0 has 0 numbers"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 17: polygon 0 has 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "annotation 17: polygon 0"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "annotation 17: polygon 0"),
        ({"segmentation": {"size": [1, 2], "counts": "2"}}, "annotation 17 has an RLE of size"),
        ({"area": ...}, "annotation 17 has no 'area'"),
        ({"image_id": 4242}, "annotation 17 names image 4242"),
    ],
)
def test_a_malformed_annotation_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    truth, detections = make(11, 6)
    assert truth.annotations[1]["id"] == 17
    truth.annotations[1] = _with(truth.annotations[1], **fields)
    with pytest.raises(DataError, match=says):
        _score(truth, detections)


def test_boxes_alone_need_no_masks() -> None:
    truth, detections = make(12, 6)
    bare = Truth(truth.images, [_with(a, segmentation=...) for a in truth.annotations], truth.names)
    boxes = [_with(d, segmentation=...) for d in detections]
    state = match_shard(bare.images, bare.annotations, boxes, bare.categories, ["bbox"])
    scores = merge([state])
    assert list(scores.metrics) == ["bbox"]
    expected = pycocotools_eval(truth, detections, "bbox").stats.tolist()
    assert list(scores.metrics["bbox"].values()) == expected


def test_image_ids_beyond_what_floats_hold_stay_apart() -> None:
    truth, detections = make(13, 4)
    base = 2**60
    images = [_with(i, id=base + i["id"]) for i in truth.images]
    annotations = [_with(a, image_id=base + a["image_id"]) for a in truth.annotations]
    moved = [_with(d, image_id=base + d["image_id"]) for d in detections]
    ours = _score(Truth(images, annotations, truth.names), moved)
    _assert_equal(ours, truth, detections)
