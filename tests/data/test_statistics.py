"""Statistics: equal to what loops over the file count, and to pycocotools."""

from __future__ import annotations

import json
import statistics as plain
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from raymrcnn.data.statistics import Histogram, Spread, statistics
from raymrcnn.errors import DataError

from .damages import OTHER, SPLIT, write_whole
from .test_dataset import annotation, data_set


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize(("name", "split"), [("coco-mini", "train2017"), ("fruits-nuts", "all")])
def test_real_splits_are_counted_as_loops_count_them(
    name: str, split: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = statistics(shared / "data" / name, [split]).splits[split]
    coco = COCO(found.annotation_file)
    things = [a for a in coco.dataset["annotations"] if not a["iscrowd"]]
    assert found.num_objects == len(things)
    assert found.num_crowds == len(coco.anns) - len(things)
    per_image: dict[int, list[Any]] = {k: [] for k in coco.imgs}
    for thing in things:
        per_image[thing["image_id"]].append(thing)
    counts = [len(own) for own in per_image.values()]
    assert found.objects_per_image is not None
    assert found.objects_per_image.median == plain.median(counts)
    assert found.objects_per_image.most == max(counts)
    assert found.objects_per_image_bars.counts[:3] == tuple(counts.count(k) for k in range(3))
    assert found.by_size["small"] == sum(a["area"] < 32**2 for a in things)
    assert found.by_size["large"] == sum(a["area"] >= 96**2 for a in things)
    overlapped = {
        thing["id"]
        for own in per_image.values()
        for pair in combinations(own, 2)
        if overlap(pair[0]["bbox"], pair[1]["bbox"]) > 0.5
        for thing in pair
    }
    assert found.num_overlapped == len(overlapped)
    for category in found.categories:
        own = [a for a in things if a["category_id"] == category.id]
        assert category.num_objects == len(own)
        assert category.num_images == len({a["image_id"] for a in own})
        assert category.name == coco.cats[category.id]["name"]
    order = [c.num_objects for c in found.categories]
    assert order == sorted(order, reverse=True)
    assert found.long_tail.share_of_rarest_half == pytest.approx(
        sum(order[-(len(order) // 2) :]) / len(things)
    )
    kinds = [len({a["category_id"] for a in own}) for own in per_image.values()]
    assert found.categories_per_image is not None
    assert found.categories_per_image.mean == pytest.approx(plain.mean(kinds))


def test_every_split_is_counted_and_one_may_be_empty(tmp_path: Path) -> None:
    write_whole(tmp_path / "a")
    found = statistics(tmp_path / "a")
    assert list(found.splits) == [SPLIT, OTHER]
    whole, empty = found.splits[SPLIT], found.splits[OTHER]
    assert (whole.num_images, whole.num_objects, whole.num_crowds) == (5, 6, 1)
    assert whole.num_unannotated_images == 1
    assert whole.commonest_sizes == ((48, 32, 5),)
    assert (empty.num_images, empty.num_objects, empty.object_side_px) == (2, 0, None)
    assert empty.long_tail.num_empty == 3
    assert empty.long_tail.imbalance is None
    json.dumps(found.to_json())


def test_annotations_of_no_image_and_without_area_are_no_trouble(tmp_path: Path) -> None:
    data_set(tmp_path, [annotation(1)])
    path = tmp_path / "annotations/instances_t.json"
    document = json.loads(path.read_text())
    document["annotations"] += [annotation(2, 44), annotation(3, area=None, bbox=[1, 1, 4, 9])]
    path.write_text(json.dumps(document))
    found = statistics(tmp_path).splits["t"]
    assert found.num_objects == 2
    assert found.object_side_px is not None
    assert found.object_side_px.least == 6
    with pytest.raises(DataError, match="no such folder"):
        statistics(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no annotation file"):
        statistics(tmp_path / "t")


def test_bars_take_what_lies_on_their_lower_edge() -> None:
    bars = Histogram.of(np.array([0, 1, 1.5, 2, 99]), (0, 1, 2))
    assert bars.counts == (1, 2, 2)
    assert Spread.of(np.zeros(0)) is None
