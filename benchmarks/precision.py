"""What a lower precision costs in accuracy: mask AP of bfloat16 beside float32's, trained weights.

The weights are those of a run of `raymrcnn demo` (a small network that learned made-up shapes; one
is made where none is given, in minutes); the images are new ones of the same kind. Noise for
weights would not do: it tells nothing apart, so that a rounding moves detections at will.

Stated: AP of masks and boxes against the true shapes in both precisions, their difference with its
95% interval over the images, and AP of bfloat16 against a ground truth made of what float32 found
with a score of at least 0.5.

Run as `python benchmarks/precision.py [--run RUN] [--images N]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "precision.json"
DTYPES = ("float32", "bfloat16")
SEED = 1234  # of the images; those that a demo learns from have another
LEAST = 0.5  # score of a detection that counts as an object for the other precision


def demo_run(home: Path) -> Path:
    command = [sys.executable, "-m", "raymrcnn.cli.main", "demo", "--out", str(home / "demo")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return home / "demo" / "run"


def found_in(index: Any, root: Path, run: Path, dtype: str) -> list[Any]:
    """Detections of each image of a split."""
    from raymrcnn.data.images import decode_image
    from raymrcnn.device.accelerator import CPU
    from raymrcnn.infer.job import load_predictor
    from raymrcnn.structures import ImageRef

    predictor = load_predictor(str(run), CPU, torch.device("cpu"), dtype)
    found: list[Any] = []
    for k, image_id in enumerate(index.image_ids.tolist()):
        name = index.file_name(k)
        path = str(root / "train2017" / name)
        ref = ImageRef(image_id=image_id, file_name=name, uri=path)
        found += predictor.predict([decode_image(path)], [ref])
    return found


def write_results(found: list[Any], path: Path) -> Path:
    from raymrcnn.rows import coco_results

    path.write_text(json.dumps([entry for one in found for entry in coco_results(one)]))
    return path


def write_truth(found: list[Any], truth: Path, path: Path) -> Path:
    """Annotations of the same images, made of detections."""
    from raymrcnn.rows import coco_results

    document = json.loads(truth.read_text())
    entries = [e for one in found for e in coco_results(one) if e["score"] >= LEAST]
    document["annotations"] = [
        {**e, "id": k, "area": e["bbox"][2] * e["bbox"][3], "iscrowd": 0}
        for k, e in enumerate(entries, start=1)
    ]
    path.write_text(json.dumps(document))
    return path


def measure(run: Path, images: int, home: Path) -> dict[str, Any]:
    from raymrcnn.data.coco import CocoIndex
    from raymrcnn.data.synthetic import write_synthetic
    from raymrcnn.score.coco import merge, records_of
    from raymrcnn.score.compare import compare
    from raymrcnn.score.files import match_coco_json, score_coco_json

    root = home / "data"
    write_synthetic(root, images * 5 // 4 + 1, seed=SEED)
    annotations = root / "annotations/instances_train2017.json"
    index = CocoIndex.open(annotations)
    found, states = {}, {}
    for dtype in DTYPES:
        found[dtype] = found_in(index, root, run, dtype)
        path = write_results(found[dtype], home / f"{dtype}.json")
        state, ids = match_coco_json(index, path, detail=True)
        states[dtype] = [state]
    aps = {dtype: merge(states[dtype]).to_json() for dtype in DTYPES}
    made = CocoIndex.open(write_truth(found["float32"], annotations, home / "found.json"))
    against = {d: score_coco_json(made, home / f"{d}.json").to_json() for d in DTYPES}
    differences = {}
    for kind in ("bbox", "segm"):
        a, b = (records_of(states[dtype], kind) for dtype in DTYPES)
        entry = compare(a, b, ids, index.categories)["metrics"]["AP"]
        differences[kind] = {name: round(entry[name], 4) for name in ("difference", "low", "high")}
    return {
        "images": len(index.image_ids),
        "objects": index.num_annotations,
        "AP": {
            kind: {dtype: round(aps[dtype][kind]["AP"], 4) for dtype in DTYPES}
            for kind in ("bbox", "segm")
        },
        "bfloat16_minus_float32": differences,
        "AP_against_what_float32_found": {
            kind: {dtype: round(against[dtype][kind]["AP"], 4) for dtype in DTYPES}
            for kind in ("bbox", "segm")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="of `raymrcnn demo`; else one is made")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="20 images, no file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        run = options.run or demo_run(home)
        result = measure(run, 20 if options.quick else options.images, home)
    result = {
        "benchmark": "precision",
        "what": "AP of bfloat16 beside float32, weights that were trained",
        **result,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}",
    }
    print(json.dumps(result, indent=2))
    if not options.quick:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
