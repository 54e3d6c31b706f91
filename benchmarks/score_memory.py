"""What scoring costs the driver: 5 million detections in 100 000 made-up images, boxes and masks.

Images are matched a few thousand at a time in another process, as tasks are; this process holds
their states and merges them, as the driver does, and its memory is read all along. Run as
`python benchmarks/score_memory.py [--quick]`.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

from score import CATEGORIES, made_up

from raymrcnn.score.coco import Matcher, merge
from raymrcnn.structures import Category

RESULTS = Path(__file__).parent / "results" / "score_memory.json"
AT_ONCE, OBJECTS, MIN_DETECTIONS = 1000, 25_000, 50_000
SHIFT = 10**6


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@functools.cache
def template() -> Any:
    """1000 images with 50 detections each; the same each time."""
    images, annotations, detections = made_up(AT_ONCE, OBJECTS)
    more = [{**d, "score": d["score"] / 3} for d in detections]
    detections = (detections + more)[:MIN_DETECTIONS]
    assert len(detections) == MIN_DETECTIONS
    return images, annotations[: 7 * AT_ONCE], detections


def match(task: tuple[int, bool]) -> tuple[dict[str, bytes], float]:
    """The state of the images of one task, and the seconds that matching took."""
    number, detail = task
    images, annotations, detections = template()
    offset = SHIFT * number
    images = [{**i, "id": i["id"] + offset} for i in images]
    annotations = [
        {**a, "id": a["id"] + offset, "image_id": a["image_id"] + offset} for a in annotations
    ]
    detections = [{**d, "image_id": d["image_id"] + offset} for d in detections]
    matcher = Matcher([Category(**c) for c in CATEGORIES], detail=detail)
    began = time.perf_counter()
    matcher.update(images, annotations, detections)
    state = matcher.state()
    return state, time.perf_counter() - began


def main() -> None:
    """Match, merge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 000 detections")
    parser.add_argument("--detail", action="store_true", help="with the records of `--detail`")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    options = parser.parse_args()
    num_tasks = 2 if options.quick else 100
    start_mb = resident_mb()
    states, seconds, along = [], 0.0, []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for k, (state, taken) in enumerate(
            pool.imap(match, [(k, options.detail) for k in range(num_tasks)]), start=1
        ):
            states.append(state)
            seconds += taken
            if k % max(1, num_tasks // 10) == 0:
                along.append(round(resident_mb() - start_mb))
                print(f"{k * MIN_DETECTIONS:>9} detections: {along[-1]} MB more", flush=True)
    num_bytes = sum(len(part) for state in states for part in state.values())
    began = time.perf_counter()
    scores = merge(states)
    merge_s = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    result = {
        "benchmark": "score_memory",
        "what": "boxes and masks, states of tasks held and merged by the driver"
        + (", with detail" if options.detail else ""),
        "images": scores.num_images,
        "detections": scores.num_detections,
        "driver_mb_each_tenth": along,
        "states_bytes_a_detection": round(num_bytes / scores.num_detections, 1),
        "merge_s": round(merge_s, 1),
        "match_s": round(seconds, 1),
        "driver_peak_mb": round(peak_mb - start_mb),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
