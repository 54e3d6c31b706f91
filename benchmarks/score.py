"""Scoring: `raymrcnn.score` against pycocotools, boxes and masks, on 5000 made-up images.

36 000 objects with polygons (1% crowds as run lengths) and some 50 000 detections with masks.
Both start from the same dictionaries in memory and end with the twelve numbers of each kind; ours
also checks every mask. They run in turn in this process and the medians are compared; the numbers
must be the same to the last bit. pycocotools has one thread; ours is timed with one and with as
many as there are cores. Run as `python benchmarks/score.py [--quick]`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raymrcnn.score.coco import IOU_TYPES, match_shard, merge
from raymrcnn.structures import Category

RESULTS = Path(__file__).parent / "results" / "score.json"
HEIGHT, WIDTH = 480, 640
CATEGORIES: list[dict[str, Any]] = [{"id": k, "name": f"kind {k}"} for k in range(1, 91) if k % 9]

Data = tuple[list[Any], list[Any], list[Any]]


def made_up(num_images: int, num_objects: int) -> Data:
    """Images, annotations and detections; the same each time."""
    draw = np.random.default_rng(0)
    images = [{"id": 3 * i + 7, "height": HEIGHT, "width": WIDTH} for i in range(num_images)]
    annotations: list[Any] = []
    detections: list[Any] = []
    for row in draw.integers(0, num_images, num_objects):
        outline = _outline(draw)
        of = {"image_id": images[row]["id"], "category_id": _category(draw)}
        rle = _rle(outline)
        crowd = bool(draw.random() < 0.01)
        form = rle if crowd else [outline.round(2).reshape(-1).tolist()]
        area = float(coco_mask.area(rle))
        annotations.append(
            {"id": len(annotations) + 1, **of, "iscrowd": int(crowd), "area": area}
            | {"bbox": _box(outline), "segmentation": form}
        )
        if draw.random() < 0.8:
            moved = outline + draw.normal(0, draw.choice([1, 4, 10]), outline.shape)
            detections.append({**of, **_detection(moved.clip(0, [WIDTH, HEIGHT]), draw.beta(4, 2))})
        if draw.random() < 0.6:
            other = {**of, "category_id": _category(draw)}
            detections.append({**other, **_detection(_outline(draw), draw.beta(2, 4))})
    order = draw.permutation(len(detections))
    return images, annotations, [detections[i] for i in order]


def _category(draw: np.random.Generator) -> int:
    return int(CATEGORIES[draw.integers(len(CATEGORIES))]["id"])


def _outline(draw: np.random.Generator) -> np.ndarray:
    centre = draw.random(2) * [WIDTH, HEIGHT]
    radius = np.exp(draw.uniform(np.log(8), np.log(160)))
    num_points = draw.integers(8, 40)
    angles = np.sort(draw.random(num_points)) * 2 * np.pi
    reach = radius * (0.7 + 0.5 * draw.random(num_points))
    corners = np.stack((np.cos(angles), 0.8 * np.sin(angles)), axis=1) * reach[:, None]
    return (centre + corners).clip(0, [WIDTH, HEIGHT])


def _rle(outline: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.frPyObjects([outline.reshape(-1).tolist()], HEIGHT, WIDTH)[0]
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def _box(outline: np.ndarray) -> list[float]:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _detection(outline: np.ndarray, score: float) -> dict[str, Any]:
    return {"bbox": _box(outline), "score": round(score, 3), "segmentation": _rle(outline)}


def our_way(data: Data) -> dict[str, list[float]]:
    categories = [Category(**c) for c in CATEGORIES]
    scores = merge([match_shard(*data, categories)])
    return {kind: list(scores.metrics[kind].values()) for kind in IOU_TYPES}


def pycocotools_way(data: Data) -> dict[str, list[float]]:
    found = {}
    images, annotations, detections = data
    for kind in IOU_TYPES:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "images": images,
                "annotations": annotations,
                "categories": CATEGORIES,
            }
            truth.createIndex()
            dropped = "bbox" if kind == "segm" else "segmentation"
            results = [{k: v for k, v in d.items() if k != dropped} for d in detections]
            evaluation = COCOeval(truth, truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        found[kind] = evaluation.stats.tolist()
    return found


WAYS = {"raymrcnn": our_way, "pycocotools": pycocotools_way}


def timed(name: str, data: Data) -> tuple[float, dict[str, list[float]]]:
    mine = copy.deepcopy(data)  # pycocotools writes into what it is given
    gc.collect()
    start = time.perf_counter()
    found = WAYS[name](mine)
    return time.perf_counter() - start, found


def measure(quick: bool) -> dict[str, Any]:
    """Both ways in turn, in this process."""
    data = made_up(*(200, 1440) if quick else (5000, 36000))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(1 if quick else 3):
        results = {}
        for name in WAYS:
            taken, results[name] = timed(name, data)
            seconds[name].append(taken)
        assert results["raymrcnn"] == results["pycocotools"], "the scores differ"
    ratios = [t / o for o, t in zip(seconds["raymrcnn"], seconds["pycocotools"], strict=True)]
    return {
        "images": len(data[0]),
        "objects": len(data[1]),
        "detections": len(data[2]),
        "raymrcnn_s": round(statistics.median(seconds["raymrcnn"]), 3),
        "pycocotools_s": round(statistics.median(seconds["pycocotools"]), 3),
        "ratio": round(statistics.median(ratios), 1),
        "identical": True,
    }


def main() -> None:
    """Measure with one thread and with all, each in a process of its own; print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 images, once")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.quick)))
        return
    runs = {}
    for threads in (1, os.cpu_count() or 1):
        flags = ["--child", *(["--quick"] if options.quick else [])]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        child = [sys.executable, __file__, *flags]
        output = subprocess.run(child, check=True, capture_output=True, env=environment).stdout
        runs[str(threads)] = json.loads(output)
    first = runs["1"]
    result = {
        "benchmark": "score",
        "what": "bbox and segm scores from dictionaries in memory",
        "threads": runs,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}",
    }
    print(
        f"{first['images']} images, {first['objects']} objects, {first['detections']} detections,"
        " boxes and masks; numbers identical"
    )
    print(f"{'threads':>8} {'pycocotools s':>14} {'raymrcnn s':>11} {'ratio':>7}")
    for number, run in runs.items():
        print(f"{number:>8} {run['pycocotools_s']:14.2f} {run['raymrcnn_s']:11.3f}", end="")
        print(f" {run['ratio']:7.1f}")
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
