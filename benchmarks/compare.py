"""Evaluations a second while two runs are compared, against pycocotools' accumulation.

A resample of 5000 made-up images (36 000 objects) is two evaluations, of AP in all sizes and of
each category. The peer is what pycocotools would do for one evaluation of a resample: accumulate
over the matches of the images that were drawn, which it has already. Both run in this process on
one thread. Run as `python benchmarks/compare.py [--quick]`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from score import CATEGORIES, Data, made_up

from raymrcnn.score.coco import Matcher, records_of
from raymrcnn.score.matching import AREAS
from raymrcnn.score.precision import PrecisionTable, summary
from raymrcnn.structures import Category

RESULTS = Path(__file__).parent / "results" / "compare.json"


def peer_of(data: Data) -> COCOeval:
    images, annotations, detections = copy.deepcopy(data)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        truth.createIndex()
        results = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
    return evaluation


def drawn(evaluation: COCOeval, chosen: np.ndarray) -> COCOeval:
    """The evaluation of the images that were drawn: their matches, as often as they were."""
    num = len(evaluation.params.imgIds)
    rows = np.array(evaluation.evalImgs, object).reshape(-1, num)
    other = copy.copy(evaluation)
    other.evalImgs = rows[:, np.sort(chosen)].reshape(-1).tolist()
    return other


def measure(quick: bool) -> dict[str, Any]:
    data = made_up(*(300, 2160) if quick else (5000, 36000))
    categories = [Category(**c) for c in CATEGORIES]
    matcher = Matcher(categories, ["bbox"], detail=True)
    matcher.update(*copy.deepcopy(data))
    records = records_of([matcher.state()], "bbox")
    ids = np.sort(np.array([i["id"] for i in data[0]]))
    tables = [PrecisionTable(records, len(categories), area, ids) for area in AREAS]
    peer = peer_of(data)
    ours_s, theirs_s = [], []
    for k in range(2 if quick else 4):
        chosen = np.random.default_rng(k).integers(0, len(ids), len(ids))
        weights = np.bincount(chosen, minlength=len(ids)).astype(np.float64)
        began = time.perf_counter()
        for _ in range(10):
            found = [table.average_precision(weights) for table in tables]
        ours_s.append((time.perf_counter() - began) / 10)
        again = drawn(peer, chosen)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            again.accumulate()
            again.summarize()
        theirs_s.append(time.perf_counter() - began)
        sizes = [summary(table)["AP"] for table in found[1:]]
        np.testing.assert_allclose(
            [*summary(found[0]).values(), *sizes], again.stats[:6], rtol=0, atol=1e-9
        )
    return {
        "benchmark": "compare",
        "what": "one evaluation of a resample: AP in all sizes and of each category, one thread",
        "images": len(data[0]),
        "objects": len(data[1]),
        "detections": len(data[2]),
        "raymrcnn_ms": round(1e3 * statistics.median(ours_s), 1),
        "pycocotools_ms": round(1e3 * statistics.median(theirs_s)),
        "ratio": round(statistics.median(t / o for o, t in zip(ours_s, theirs_s, strict=True)), 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}",
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 images")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    options = parser.parse_args()
    result = measure(options.quick)
    print(json.dumps(result, indent=2))
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
