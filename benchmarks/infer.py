"""Inference in one process: `Predictor` against torchvision's way, R-50-FPN at 800 / 1333 pixels.

From a file to run-length strings: decode, network, paste, encode, one photograph at a time. The
peer is PIL, torchvision's model in eval mode, `> 0.5` and pycocotools' `encode`. Same weights
(seeded, with tens of detections an image), same photographs, in turn. Ours runs as it does by
default, whose results are compared with the peer's; with norms folded into convolutions; and in
bfloat16.

Stated besides: what share of the machine's own rate of matrix products each of ours reaches over
the whole way (the network's operations by the seconds of an image), and the mask AP of each against
a ground truth made of the ten best float32 detections of each image, by pycocotools.

About 20 s an image with one thread; all 206 photographs take more than an hour. Run as
`python benchmarks/infer.py [--quick] [--images N] [--threads N]`, on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _seeded import (
    NUM_CLASSES,
    Side,
    answer_questions,
    machine,
    photographs,
    torchvision_model,
    write_weights,
)
from PIL import Image

RESULTS = Path(__file__).parent / "results" / "infer.json"
BEST = 10  # detections of an image that are the truth for the others; COCO has 7 objects
SIDES = {
    "torchvision": "torchvision's loop",
    "raymrcnn": "raymrcnn, float32",
    "raymrcnn_folded": "raymrcnn, float32, folded",
    "raymrcnn_bfloat16": "raymrcnn, bfloat16",
}


def theirs(weights: str) -> Callable[[str], dict[str, Any]]:
    from pycocotools import mask as coco_mask
    from torchvision.transforms.functional import to_tensor

    model = torchvision_model()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    def work(path: str) -> dict[str, Any]:
        with torch.no_grad():
            found = model([to_tensor(Image.open(path).convert("RGB"))])[0]
        masks = (found["masks"] > 0.5).numpy()
        rles = [
            coco_mask.encode(np.array(m[0, :, :, np.newaxis], dtype=np.uint8, order="F"))[0]
            for m in masks
        ]
        return {
            "boxes": found["boxes"].tolist(),
            "scores": found["scores"].tolist(),
            "labels": found["labels"].tolist(),
            "rles": [rle["counts"].decode() for rle in rles],
        }

    return work


def ours(weights: str, variant: str) -> Callable[[str], dict[str, Any]]:
    from raymrcnn.config import ModelConfig
    from raymrcnn.data.images import decode_image
    from raymrcnn.device.host_memory import reuse_freed_memory
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.model.predictor import Predictor
    from raymrcnn.structures import ImageRef
    from raymrcnn.weights import load_into, load_source

    reuse_freed_memory()
    model = build_mask_rcnn(ModelConfig(), NUM_CLASSES, 800, 1333)
    load_into(model, load_source(weights).state, allow_new_heads=False)
    dtype = torch.bfloat16 if variant == "raymrcnn_bfloat16" else torch.float32
    predictor = Predictor(
        model,
        range(1, NUM_CLASSES + 1),
        torch.device("cpu"),
        dtype,
        fold=True if variant == "raymrcnn_folded" else None,
    )

    def work(path: str) -> dict[str, Any]:
        ref = ImageRef(image_id=0, file_name=path, uri=path)
        found = predictor.predict([decode_image(path)], [ref])[0]
        return {
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "labels": found.category_ids.tolist(),
            "rles": found.rles,
        }

    return work


def run_side(name: str, weights: str) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    work = theirs(weights) if name == "torchvision" else ours(weights, name)

    def timed(path: str) -> dict[str, Any]:
        if path in ("float32", "bfloat16"):
            return {"gflops": gemm_rate(getattr(torch, path))}
        if path.startswith("count:"):
            return {"gflop": operations(work, path.removeprefix("count:"))}
        start = time.perf_counter()
        found = work(path)
        return {**found, "seconds": time.perf_counter() - start}

    answer_questions(timed)


def gemm_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """10^9 operations a second of a matrix product that is large enough."""
    a = torch.randn(side, side).to(dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds) / 1e9


def operations(work: Callable[[str], object], path: str) -> float:
    """10^9 multiplications and additions of the network on one photograph."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work(path)
    return counter.get_total_flops() / 1e9


def mask_ap(images: list[Path], truth: list[Any], found: list[Any]) -> float:
    """COCO's AP of masks against the `BEST` best of other detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sizes = [Image.open(path).size for path in images]

    def entries(answers: list[Any], most: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for k, (answer, (width, height)) in enumerate(zip(answers, sizes, strict=True)):
            columns = (answer["boxes"], answer["scores"], answer["labels"], answer["rles"])
            for (x1, y1, x2, y2), score, label, rle in list(zip(*columns, strict=True))[:most]:
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append(
                    {"id": len(rows) + 1, "image_id": k, "category_id": label, "score": score,
                     "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                     "segmentation": {"size": [height, width], "counts": rle}}
                )  # fmt: skip
        return rows

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = {
            "images": [{"id": k, "width": w, "height": h} for k, (w, h) in enumerate(sizes)],
            "categories": [{"id": k} for k in range(1, NUM_CLASSES + 1)],
            "annotations": entries(truth, BEST),
        }
        objects.createIndex()
        scores = COCOeval(objects, objects.loadRes(entries(found, 100)), "segm")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return float(scores.stats[0])


def equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Labels and masks bit by bit, boxes within 1e-3 pixels, scores within 1e-6."""
    return (
        found["labels"] == expected["labels"]
        and found["rles"] == expected["rles"]
        and np.allclose(found["boxes"], expected["boxes"], rtol=0, atol=1e-3)
        and np.allclose(found["scores"], expected["scores"], rtol=0, atol=1e-6)
    )


def shared_share(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The share of expected detections that were found with the same label and mask."""
    pairs = [set(zip(one["labels"], one["rles"], strict=True)) for one in (found, expected)]
    return len(pairs[0] & pairs[1]) / max(len(pairs[1]), 1)


def measure(images: list[Path], weights: Path, threads: int) -> dict[str, Any]:
    sides = {name: Side(name, threads, "--weights", str(weights)) for name in SIDES}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    different = []  # names of photographs
    for index, path in enumerate([images[0], *images]):
        answers = {name: side.ask(str(path)) for name, side in sides.items()}
        if index:  # the first warms up
            if not equal(answers["raymrcnn"], answers["torchvision"]):
                different.append(path.name)
            for name, answer in answers.items():
                found[name].append(answer)
        if index % 10 == 0:
            print(f"{index} of {len(images)}", file=sys.stderr, flush=True)
    rates = {
        name: sides[name].ask("bfloat16" if name.endswith("bfloat16") else "float32")["gflops"]
        for name in SIDES
    }
    gflop = sides["raymrcnn"].ask(f"count:{images[0]}")["gflop"]
    for side in sides.values():
        side.close()
    base = found["torchvision"]
    medians = {n: statistics.median(one["seconds"] for one in of) for n, of in found.items()}
    return {
        "images": len(base),
        "threads": threads,
        "detections_per_image": statistics.mean(len(one["scores"]) for one in base),
        "seconds_per_image": {n: round(s, 3) for n, s in medians.items()},
        "times_torchvision": {
            n: round(
                statistics.median(
                    t["seconds"] / o["seconds"] for o, t in zip(of, base, strict=True)
                ),
                2,
            )
            for n, of in found.items()
        },
        "images_equal_in_float32": len(base) - len(different),
        "different": different,
        "identical_masks": {
            n: round(statistics.mean(map(shared_share, of, base)), 3) for n, of in found.items()
        },
        "gemm_gflops": {n: round(rate, 1) for n, rate in rates.items()},
        "network_gflop": round(gflop, 1),  # of the first photograph that is counted
        "share_of_gemm_rate": {
            n: round(gflop / of[0]["seconds"] / rates[n], 2) for n, of in found.items()
        },
        "mask_ap_against_float32": {
            n: round(mask_ap(images, found["raymrcnn"], of), 4) for n, of in found.items()
        },
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 images")
    parser.add_argument("--images", type=int, default=206, help="photographs")
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.weights)
        return
    with tempfile.TemporaryDirectory() as folder:
        images = photographs("val2017", 2 if options.quick else options.images, Path(folder))
        weights = Path(folder) / "weights.pth"
        write_weights(weights, Image.open(images[0]), residual_gain=0.2)
        result = measure(images, weights, options.threads)
    result = {"benchmark": "infer", "what": "R-50-FPN 800/1333, file to RLE", **result, **machine()}
    print(
        f"{result['what']}, {result['threads']} thread(s), medians of {result['images']} "
        f"photographs with {result['detections_per_image']:.0f} detections each"
    )
    for name, text in SIDES.items():
        seconds, ratio = result["seconds_per_image"][name], result["times_torchvision"][name]
        same, ap = result["identical_masks"][name], result["mask_ap_against_float32"][name]
        share = result["share_of_gemm_rate"][name]
        print(
            f"  {text:28s} {seconds:6.2f} s {ratio:5.2f} times   {same:5.1%} of masks identical   "
            f"AP {ap:.3f}   {share:.0%} of the rate of matrix products"
        )
    print(
        f"  float32: {result['images_equal_in_float32']} of {result['images']} photographs with "
        f"equal labels and masks, boxes within 1e-3 px and scores within 1e-6"
    )
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
