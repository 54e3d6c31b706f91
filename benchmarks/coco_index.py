"""Opening COCO's largest annotation file: `CocoIndex` against `pycocotools.coco.COCO`.

Writes a made-up file of the size of instances_train2017.json (118 000 images, 860 000
annotations, about 440 MB), then opens it with each in turn, each time in a process of its own,
and reports the median time and the process's peak memory less that of a process that only
imports. Run as `python benchmarks/coco_index.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "coco_index.json"

CHILDREN = {
    "raymrcnn": """
import sys
from pathlib import Path
from raymrcnn.data.coco import CocoIndex
def read(path):
    index = CocoIndex.open(Path(path))
    return index, index.num_images, index.num_annotations
""",
    "pycocotools": """
from pycocotools.coco import COCO
def read(path):
    coco = COCO(path)
    return coco, len(coco.imgs), len(coco.anns)
""",
}
MEASURE = """
import json, resource, sys, time, contextlib, io
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    keep, images, annotations = read(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start, "peak_bytes": peak(), "imports_bytes": before,
    "images": images, "annotations": annotations,
}))
sys.stdout.flush()
import os; os._exit(0)  # freeing millions of dictionaries is not what is measured
"""


def write_annotations(path: Path, num_images: int, num_annotations: int) -> None:
    """A file with the statistics of instances_train2017.json; the same bytes each time."""
    rng = np.random.default_rng(0)
    polygons = []
    for _ in range(3000):
        # As measured on the real file's photographs: 1.1 polygons with 21.7 points an object.
        parts = rng.choice([1, 2, 3], p=[0.93, 0.05, 0.02])
        points = rng.lognormal(2.72, 0.72, parts).astype(int).clip(4, 200)
        polygons.append(
            json.dumps([[round(v, 2) for v in rng.uniform(0, 640, 2 * n)] for n in points])
        )
    choice = rng.integers(0, len(polygons), num_annotations)
    crowd = rng.random(num_annotations) < 0.012
    image = rng.integers(0, num_images, num_annotations)
    box = rng.uniform(1, 300, (num_annotations, 4)).round(2).tolist()
    runs = json.dumps({"counts": rng.integers(1, 900, 500).tolist(), "size": [480, 640]})
    with path.open("w") as stream:
        stream.write('{"info": {}, "licenses": [], "images": [')
        for i in range(num_images):
            name = f"{i:012d}.jpg"
            stream.write(
                f'{"," if i else ""}{{"license": 3,"file_name": "{name}","coco_url": '
                f'"http://images.example.org/train2017/{name}","height": 480,"width": 640,'
                f'"date_captured": "2013-11-14 11:18:45","flickr_url": '
                f'"http://farm9.example.org/8186/{name}","id": {i}}}'
            )
        stream.write('], "annotations": [')
        for j in range(num_annotations):
            mask = runs if crowd[j] else polygons[choice[j]]
            stream.write(
                f'{"," if j else ""}{{"segmentation": {mask},"area": {box[j][2] * box[j][3]:.3f},'
                f'"iscrowd": {int(crowd[j])},"image_id": {image[j]},"bbox": {box[j]},'
                f'"category_id": {1 + j % 80},"id": {j + 1}}}'
            )
        stream.write('], "categories": ')
        stream.write(json.dumps([{"id": k, "name": f"c{k}"} for k in range(1, 81)]) + "}")


def measure(name: str, path: Path) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN[name] + MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 000 annotations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    images, annotations = (2750, 20_000) if options.quick else (118_000, 860_000)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CHILDREN}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_made_up.json"
        write_annotations(path, images, annotations)
        file_bytes = path.stat().st_size
        for _ in range(options.repeats):
            for name, results in runs.items():
                results.append(measure(name, path))
                assert results[-1]["images"] == images
                assert results[-1]["annotations"] == annotations
    summary = {
        name: {
            "seconds": statistics.median(r["seconds"] for r in results),
            "peak_mb": statistics.median(r["peak_bytes"] for r in results) / 1e6,
            "grown_mb": statistics.median(r["peak_bytes"] - r["imports_bytes"] for r in results)
            / 1e6,
        }
        for name, results in runs.items()
    }
    ours, theirs = summary["raymrcnn"], summary["pycocotools"]
    document = {
        "images": images,
        "annotations": annotations,
        "file_mb": file_bytes / 1e6,
        "repeats": options.repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}",
        **summary,
        "times_faster": theirs["seconds"] / ours["seconds"],
        "times_smaller": theirs["grown_mb"] / ours["grown_mb"],
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{annotations} annotations of {images} images, {file_bytes / 1e6:.0f} MB of JSON")
    print(f"{'':12} {'seconds':>8} {'peak MB':>8} {'grown MB':>9}")
    for name, row in summary.items():
        print(f"{name:12} {row['seconds']:8.2f} {row['peak_mb']:8.0f} {row['grown_mb']:9.0f}")
    print(
        f"{document['times_faster']:.1f} times faster, {document['times_smaller']:.1f} times "
        "less memory"
    )


if __name__ == "__main__":
    main()
