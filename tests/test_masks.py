"""Every form of a COCO mask against pycocotools, and what would have crashed it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from raymrcnn.errors import DataError
from raymrcnn.masks import (
    bitmap_to_rle,
    polygons_to_bitmap,
    rle_areas,
    rle_iou,
    rle_to_bitmap,
    segmentation_to_rle,
)


def _random_polygons(seed: int, height: int, width: int) -> list[list[float]]:
    draw = np.random.default_rng(seed)
    reach = np.array([width, height])
    return [
        ((draw.random((draw.integers(3, 12), 2)) * 1.4 - 0.2) * reach).reshape(-1).tolist()
        for _ in range(draw.integers(1, 4))
    ]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 60), width=st.integers(1, 60))
def test_polygons_are_rasterised_as_pycocotools_does(seed: int, height: int, width: int) -> None:
    polygons = _random_polygons(seed, height, width)
    union = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    rle = segmentation_to_rle(polygons, height, width)
    assert rle == union["counts"].decode()
    bitmap = polygons_to_bitmap(polygons, height, width)
    assert bitmap.dtype == np.uint8
    assert (bitmap == coco_mask.decode([union])[:, :, 0]).all()
    assert (rle_to_bitmap(rle, height, width) == bitmap).all()
    assert bitmap_to_rle(bitmap) == rle
    assert rle_areas([rle, rle], height, width).tolist() == [bitmap.sum()] * 2


def test_all_three_forms_of_a_mask_give_one_string() -> None:
    polygons = [[1, 1, 6, 1, 6, 5, 1, 5]]
    rle = segmentation_to_rle(polygons, 8, 9)
    flat = polygons_to_bitmap(polygons, 8, 9).T.reshape(-1)
    ends = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist() + [72]
    counts = np.diff([0, *ends]).tolist()
    assert segmentation_to_rle({"size": [8, 9], "counts": counts}, 8, 9) == rle
    assert segmentation_to_rle({"size": [8, 9], "counts": rle}, 8, 9) == rle
    assert segmentation_to_rle({"size": [8, 9], "counts": rle.encode()}, 8, 9) == rle


def test_real_annotations_equal_pycocotools(shared: Path) -> None:
    file = shared / "data/coco-mini/annotations/instances_val2017.json"
    truth = json.loads(file.read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    assert len(truth["annotations"]) > 500
    for annotation in truth["annotations"]:
        height, width = sizes[annotation["image_id"]]
        parts = coco_mask.frPyObjects(
            annotation["segmentation"]
            if isinstance(annotation["segmentation"], list)
            else [annotation["segmentation"]],
            height,
            width,
        )
        ours = segmentation_to_rle(annotation["segmentation"], height, width)
        assert ours == coco_mask.merge(parts)["counts"].decode()


def test_a_bitmap_may_be_bool_or_of_other_numbers() -> None:
    bitmap = np.array([[0, 2, 255], [0, 0, 1]])
    rle = bitmap_to_rle(bitmap)
    assert rle == bitmap_to_rle(bitmap > 0)
    assert (rle_to_bitmap(rle, 2, 3) == (bitmap > 0)).all()


def test_overlaps_equal_pycocotools() -> None:
    masks = [bitmap_to_rle(np.random.default_rng(i).random((20, 30)) < 0.4) for i in range(5)]
    peers = [{"size": [20, 30], "counts": m.encode()} for m in masks]
    expected = coco_mask.iou(peers[:2], peers[2:], [0, 0, 0])
    assert (rle_iou(masks[:2], masks[2:], 20, 30) == expected).all()
    assert rle_iou([], masks, 20, 30).shape == (0, 5)
    with pytest.raises(DataError, match="cut short"):
        rle_iou(masks, ["o"], 20, 30)


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([], "empty list of polygons"),
        ([[]], "polygon 0 has 0 numbers"),
        ([[1, 2, 3, 4]], "polygon 0 has 4 numbers"),
        ([[0, 0, 5, 0, 5, 5], [1, 2, 3, 4, 5, 6, 7]], "polygon 1 has 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, float("inf")]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e300]], "longer than"),
        ([[0, 0, 1e6, 1e6] * 3], "longer than"),
        ([[10**400] * 6], "no list of numbers"),
        ([["a"] * 6], "no list of numbers"),
        ([None], "no flat list"),
        ([1, 2, 3, 4, 5, 6], "no flat list"),
        ([[[0, 0], [5, 0], [5, 5]]], "no flat list"),
        (None, "NoneType"),
        ("T3", "str"),
        (7, "int"),
        ({}, "lacks 'size' or 'counts'"),
        ({"size": [10, 10]}, "lacks"),
        ({"size": [10, 11], "counts": "^3"}, r"size \[10, 11\] in an image of \[10, 10\]"),
        ({"size": [100], "counts": [100]}, "size"),
        ({"size": "ab", "counts": [100]}, "size"),
        ({"size": [float("inf"), 10], "counts": [100]}, "size"),
        ({"size": [10, 10], "counts": [50, 49]}, "do not add up"),
        ({"size": [10, 10], "counts": [-5, 105]}, "do not add up"),
        ({"size": [10, 10], "counts": [2**70]}, "neither a string nor a list of integers"),
        ({"size": [10, 10], "counts": [0.5, 99.5]}, "neither"),
        ({"size": [10, 10], "counts": [[100]]}, "neither"),
        ({"size": [10, 10], "counts": []}, "neither"),
        ({"size": [10, 10], "counts": {}}, "neither"),
        ({"size": [10, 10], "counts": "T"}, "cut short"),
        ({"size": [10, 10], "counts": "ooooo0"}, "pixels where 100 should be"),
    ],
)
def test_a_malformed_segmentation_is_refused_with_its_place(segmentation: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        segmentation_to_rle(segmentation, 10, 10, where="annotation 17")
    assert str(refused.value).startswith("annotation 17: ")


def test_a_polygon_far_outside_is_an_empty_mask() -> None:
    far = [[1e5, 1e5, 2e5, 1e5, 2e5, 2e5]]
    assert not polygons_to_bitmap(far, 10, 10).any()


def test_importing_masks_does_not_import_torch() -> None:
    code = "import sys, raymrcnn.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
