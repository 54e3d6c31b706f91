"""Inference in one process: `Predictor` against torchvision's way, R-50-FPN at 800 / 1333 pixels.

From a file to run-length strings: decode, network, paste, encode, one photograph at a time. The
peer is PIL, torchvision's model in eval mode, `> 0.5` and pycocotools' `encode`. Same weights
(seeded, with tens of detections an image), same photographs, in turn. Ours runs as it does by
default, whose results must equal the peer's; with norms folded into convolutions; and in bfloat16.
About 20 s an image with one thread. Run as `python benchmarks/infer.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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
        start = time.perf_counter()
        found = work(path)
        return {**found, "seconds": time.perf_counter() - start}

    answer_questions(timed)


def require_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["labels"] == expected["labels"]
    assert found["rles"] == expected["rles"]
    assert np.allclose(found["boxes"], expected["boxes"], rtol=0, atol=1e-3)
    assert np.allclose(found["scores"], expected["scores"], rtol=0, atol=1e-6)


def shared_share(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The share of expected detections that were found with the same label and mask."""
    pairs = [set(zip(one["labels"], one["rles"], strict=True)) for one in (found, expected)]
    return len(pairs[0] & pairs[1]) / max(len(pairs[1]), 1)


def measure(images: list[Path], weights: Path, threads: int) -> dict[str, Any]:
    sides = {name: Side(name, threads, "--weights", str(weights)) for name in SIDES}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    shared: dict[str, list[float]] = {name: [] for name in SIDES}
    detections = []
    for index, path in enumerate(images):
        answers = {name: side.ask(str(path)) for name, side in sides.items()}
        expected = answers["torchvision"]
        require_equal(answers["raymrcnn"], expected)
        if index == 0:  # warms up
            continue
        detections.append(len(expected["scores"]))
        for name, answer in answers.items():
            seconds[name].append(answer["seconds"])
            shared[name].append(shared_share(answer, expected))
    for side in sides.values():
        side.close()
    base = seconds["torchvision"]
    return {
        "images": len(base),
        "threads": threads,
        "detections_per_image": statistics.mean(detections),
        "seconds_per_image": {n: round(statistics.median(s), 3) for n, s in seconds.items()},
        "times_torchvision": {
            n: round(statistics.median(t / o for o, t in zip(s, base, strict=True)), 2)
            for n, s in seconds.items()
        },
        "identical_masks": {n: round(statistics.mean(s), 3) for n, s in shared.items()},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 images instead of 12")
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.weights)
        return
    with tempfile.TemporaryDirectory() as folder:
        images = photographs("val2017", 3 if options.quick else 13, Path(folder))
        weights = Path(folder) / "weights.pth"
        write_weights(weights, Image.open(images[0]))
        result = measure(images, weights, options.threads)
    result = {"benchmark": "infer", "what": "R-50-FPN 800/1333, file to RLE", **result, **machine()}
    print(
        f"{result['what']}, {result['threads']} thread(s), medians of {result['images']} "
        f"photographs with {result['detections_per_image']:.0f} detections each"
    )
    for name, text in SIDES.items():
        seconds, ratio = result["seconds_per_image"][name], result["times_torchvision"][name]
        share = result["identical_masks"][name]
        print(f"  {text:28s} {seconds:6.2f} s {ratio:5.2f} times   {share:5.1%} of masks identical")
    print("  (float32: boxes within 1e-3 px and scores within 1e-6 as well, or this stops)")
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
