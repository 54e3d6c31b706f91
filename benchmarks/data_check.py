"""`data verify --no-decode` and `data stats` on a full-size annotation file, beside pycocotools.

The file is made up, sound, and has the statistics of COCO's instances_train2017.json; empty files
stand for its images. pycocotools has neither command: beside `verify` it opens the file and makes
run lengths, area and box of each mask; beside `stats` it opens the file and counts the same things
by loops. Each run is a process of its own, in turn.

    python benchmarks/data_check.py --quick     # 20 000 annotations
    python benchmarks/data_check.py             # 860 000 annotations
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _coco_file import write_annotations

RESULTS = Path(__file__).parent / "results" / "data_check.json"
SPLIT = "made_up"

OURS = """
from raymrcnn.data.{module} import {function}
def work(root):
    return {call}
"""
VERIFY = OURS.format(
    module="verify",
    function="verify",
    call=f"(lambda r: [r.num_annotations, r.levels['error']])(verify(root, '{SPLIT}', False))",
)
STATS = OURS.format(
    module="statistics",
    function="statistics",
    call=f"(lambda s: [s.num_objects + s.num_crowds, s.num_overlapped])"
    f"(statistics(root, ['{SPLIT}']).splits['{SPLIT}'])",
)
OPEN = f"""
import contextlib, io, os
import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
def opened(root):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(os.path.join(root, "annotations", "instances_{SPLIT}.json"))
"""
PEER_VERIFY = (
    OPEN
    + """
def work(root):
    coco, wrong = opened(root), 0
    for image in coco.dataset["images"]:
        wrong += not os.path.isfile(os.path.join(root, "made_up", image["file_name"]))
    for annotation in coco.dataset["annotations"]:
        rle = coco.annToRLE(annotation)
        x, y, w, h = mask.toBbox(rle).tolist()
        area, box = float(mask.area(rle)), annotation["bbox"]
        far = max(abs(a - b) for a, b in zip((x, y, w, h), box))  # thin tips cover no pixel
        wrong += area == 0 or far > 3 + 0.5 * max(box[2:])
    return [len(coco.anns), wrong]
"""
)
PEER_STATS = (
    OPEN
    + """
def work(root):
    coco = opened(root)
    sides = np.sqrt([a["area"] for a in coco.dataset["annotations"]])
    ratios = [a["bbox"][2] / a["bbox"][3] for a in coco.dataset["annotations"]]
    spreads = [np.quantile(v, (0, 0.25, 0.5, 0.75, 1)) for v in (sides, ratios)]
    overlapped = 0
    for image in coco.getImgIds():
        own = [a for a in coco.imgToAnns[image] if not a["iscrowd"]]
        if own:
            boxes = np.array([a["bbox"] for a in own])
            iou = mask.iou(boxes, boxes, [0] * len(own))
            np.fill_diagonal(iou, 0)
            overlapped += int((iou > 0.5).any(axis=1).sum())
    for category in coco.getCatIds():
        ids = coco.getAnnIds(catIds=[category])
        images = len({coco.anns[k]["image_id"] for k in ids})
    return [len(coco.anns), overlapped]
"""
)
SIDES = {
    "verify": {"raymrcnn": VERIFY, "pycocotools": PEER_VERIFY},
    "stats": {"raymrcnn": STATS, "pycocotools": PEER_STATS},
}
MEASURE = """
import json, resource, sys, time
start = time.perf_counter()
answer = work(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start, "answer": answer,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
sys.stdout.flush()
import os; os._exit(0)  # freeing millions of dictionaries is not what is measured
"""


def measure(program: str, root: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", program + MEASURE, str(root)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return dict(json.loads(done.stdout))


def write_split(root: Path, num_images: int, num_annotations: int) -> Path:
    path = root / "annotations" / f"instances_{SPLIT}.json"
    path.parent.mkdir()
    write_annotations(path, num_images, num_annotations)
    (root / SPLIT).mkdir()
    for i in range(num_images):
        (root / SPLIT / f"{i:012d}.jpg").touch()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 000 annotations")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=list(SIDES), help="one of the comparisons")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    images, annotations = (2750, 20_000) if options.quick else (118_000, 860_000)
    document: dict[str, object] = {
        "images": images,
        "annotations": annotations,
    }
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        document["file_mb"] = write_split(Path(folder), images, annotations).stat().st_size / 1e6
        for name, sides in SIDES.items():
            if options.only not in (None, name):
                continue
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(options.repeats):
                for side, program in sides.items():
                    runs[side].append(measure(program, Path(folder)))
            answers = [runs[side][0]["answer"] for side in sides]
            assert answers[0] == answers[1], (name, answers)
            row = {
                side: {
                    "seconds": statistics.median(r["seconds"] for r in results),
                    "peak_mb": statistics.median(r["peak_bytes"] for r in results) / 1e6,
                }
                for side, results in runs.items()
            }
            document[name] = {**row, "machine": machine, "runs": runs}
            for side, numbers in row.items():
                print(
                    f"{name:8} {side:12} {numbers['seconds']:7.2f} s {numbers['peak_mb']:7.0f} MB"
                )
            write(document, options.out)


def write(document: dict[str, object], out: Path) -> None:
    """After each comparison; one that was not made now stays as it was measured."""
    before = json.loads(out.read_text()) if out.is_file() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**before, **document}, indent=2) + "\n")


if __name__ == "__main__":
    main()
