"""LVIS's scores against pycocotools' matching with LVIS's rules put on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_scores import Entries, Truth, make
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raymrcnn.data.coco import CocoIndex
from raymrcnn.score.coco import IOU_TYPES, LVIS_METRICS, Matcher, merge, records_of
from raymrcnn.score.precision import PrecisionTable
from raymrcnn.score.table import format_table, summary_lines


def _federated(seed: int, most_detections: int = 30) -> tuple[Truth, Entries]:
    truth, detections = make(seed, 10, num_categories=5, most_detections=most_detections)
    draw = np.random.default_rng(seed)
    ids = [k for k, _ in truth.names]
    images = []
    for image in truth.images:
        there = {a["category_id"] for a in truth.annotations if a["image_id"] == image["id"]}
        absent = [k for k in ids if k not in there and draw.random() < 0.5]
        partly = [k for k in sorted(there) if draw.random() < 0.4]
        fields = {"neg_category_ids": absent, "not_exhaustive_category_ids": partly}
        images.append({**image, **fields})
    annotations = [{**a, "iscrowd": 0} for a in truth.annotations]
    frequencies = {k: "rcf"[draw.integers(3)] for k in ids}
    return Truth(images, annotations, truth.names, frequencies=frequencies), detections


class _LvisEval(COCOeval):  # type: ignore[misc]
    """Ignores what matches nothing in a category of which not all objects were annotated."""

    partly: dict[int, set[int]]

    def evaluateImg(self, imgId: int, catId: int, aRng: Any, maxDet: int) -> Any:  # noqa: N802, N803
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if found is not None and catId in self.partly[imgId]:
            found["dtIgnore"] = np.logical_or(found["dtIgnore"], found["dtMatches"] == 0)
        return found


def _reference(truth: Truth, detections: Entries, kind: str) -> dict[str, float]:
    known = {i["id"]: set(i["neg_category_ids"]) for i in truth.images}
    for a in truth.annotations:
        known[a["image_id"]].add(a["category_id"])
    kept = []
    for image_id in known:
        mine = sorted((d for d in detections if d["image_id"] == image_id),
                      key=lambda d: -d["score"])[:300]  # fmt: skip
        kept += [d for d in mine if d["category_id"] in known[image_id]]
    dropped = "segmentation" if kind == "bbox" else "bbox"
    coco = COCO()
    coco.dataset = {"images": truth.images, "annotations": [dict(a) for a in truth.annotations],
                    "categories": [{"id": k} for k, _ in truth.names]}  # fmt: skip
    coco.createIndex()
    results = coco.loadRes([{k: v for k, v in d.items() if k != dropped} for d in kept])
    for k, result in list(results.anns.items()):
        if result["area"] == 0:
            results.imgToAnns[result["image_id"]].remove(results.anns.pop(k))
    results.dataset["annotations"] = list(results.anns.values())
    results.createIndex()
    evaluation = _LvisEval(coco, results, kind)
    evaluation.partly = {i["id"]: set(i["not_exhaustive_category_ids"]) for i in truth.images}
    evaluation.params.maxDets = [300]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]

    def mean(values: Any) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    groups = np.array([truth.frequencies[k] for k, _ in truth.names])
    found = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]),
             "AP75": mean(precision[5, ..., 0])}  # fmt: skip
    found |= {f"AP{a}": mean(precision[..., i]) for i, a in enumerate("sml", start=1)}
    found |= {f"AP{g}": mean(precision[:, :, groups == g, 0]) for g in "rcf"}
    found["AR300"] = mean(recall[..., 0])
    return found | {f"AR{a}": mean(recall[..., i]) for i, a in enumerate("sml", start=1)}


def _states(truth: Truth, detections: Entries) -> list[Any]:
    states = []
    for rows in (range(4), range(4, 10)):
        matcher = Matcher(truth.categories, detail=True, frequencies=truth.frequencies)
        images, annotations = truth.to_coco_dicts(rows)
        ids = {image["id"] for image in images}
        matcher.update(images, annotations, [d for d in detections if d["image_id"] in ids])
        states.append(matcher.state())
    return states


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "most"), [(s, 30) for s in range(6)] + [(7, 900), (8, 900)])
def test_lvis_scores_are_those_of_its_rules_in_any_shards(seed: int, most: int) -> None:
    truth, detections = _federated(seed, most)
    states = _states(truth, detections)
    scores = merge(states)
    for kind in IOU_TYPES:
        assert tuple(scores.metrics[kind]) == LVIS_METRICS
        expected = _reference(truth, detections, kind)
        assert scores.metrics[kind] == pytest.approx(expected, abs=1e-12)
        table = PrecisionTable(records_of(states, kind), 5, "", np.sort(truth.image_ids))
        mean = np.nanmean(table.average_precision(np.ones(10)))
        assert mean == pytest.approx(expected["AP"], abs=1e-12)
    assert {row["frequency"] for row in scores.per_category["bbox"]} <= set("rcf")
    assert format_table(scores)[7][1] == "IoU 0.50:0.95, rare categories, 300 detections an image"
    assert "rare" in summary_lines(scores)[7]


def test_an_lvis_file_says_what_it_needs_and_names_images_by_their_urls(tmp_path: Path) -> None:
    truth, detections = _federated(9)
    document = {
        "images": [
            {**i, "coco_url": f"http://images.cocodataset.org/val2017/{i['id']:012d}.jpg"}
            for i in truth.images
        ],
        "annotations": truth.annotations,
        "categories": [
            {"id": k, "name": n, "frequency": truth.frequencies[k]} for k, n in truth.names
        ],
    }
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(document))
    index = CocoIndex.open(path)
    assert index.file_name(0) == f"val2017/{truth.images[0]['id']:012d}.jpg"
    assert index.frequencies == truth.frequencies
    images, annotations = index.to_coco_dicts(range(10))
    for image, given in zip(images, truth.images, strict=True):
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            assert image[name] == given[name]
    matcher = Matcher(index.categories, frequencies=index.frequencies)
    matcher.update(images, annotations, detections)
    assert merge([matcher.state()]).metrics == merge(_states(truth, detections)).metrics
