"""Masks of an image's detections to run-length strings: `paste_to_rles` against torchvision's way.

100 detections (28 x 28 probabilities and boxes, sizes spread as COCO's objects are) of a 640 x 480
image. The peer is torchvision's `paste_masks_in_image`, `> 0.5` and pycocotools' `encode`. Both
run in turn in this process on one thread; the medians over several images are compared, and the
strings must be equal. Run as `python benchmarks/masks.py [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from raymrcnn.masks import paste_to_rles

RESULTS = Path(__file__).parent / "results" / "masks.json"
HEIGHT, WIDTH, NUM_MASKS = 480, 640, 100


def made_up(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [100, 28, 28] like a mask head's, and boxes [100, 4] inside the image."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM_MASKS, 1, 5, 5, generator=draw) * 4
    probs = torch.nn.functional.interpolate(logits, size=(28, 28), mode="bicubic").sigmoid()[:, 0]
    # Root of a box's area as measured on val2017's objects: quartiles 25, 53 and 124 px.
    side = torch.exp(4.0 + 1.18 * torch.randn(NUM_MASKS, 1, generator=draw)).clamp(4, 480)
    aspect = torch.exp(0.35 * torch.randn(NUM_MASKS, 1, generator=draw))
    half = torch.cat((side * aspect, side / aspect), dim=1) / 2
    centre = torch.rand(NUM_MASKS, 2, generator=draw) * torch.tensor([WIDTH, HEIGHT])
    corners = torch.cat((centre - half, centre + half), dim=1).clamp(min=0)
    return probs, corners.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def torchvision_way(probs: torch.Tensor, boxes: torch.Tensor) -> list[str]:
    pasted = paste_masks_in_image(probs[:, None], boxes, (HEIGHT, WIDTH), padding=1)[:, 0]
    bitmaps = (pasted > 0.5).numpy().astype(np.uint8)
    return [coco_mask.encode(np.asfortranarray(b))["counts"].decode() for b in bitmaps]


def our_way(probs: torch.Tensor, boxes: torch.Tensor) -> list[str]:
    return paste_to_rles(probs, boxes, HEIGHT, WIDTH)


def timed(way: Callable[..., list[str]], *given: torch.Tensor) -> tuple[float, list[str]]:
    start = time.perf_counter()
    found = way(*given)
    return (time.perf_counter() - start) * 1000, found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 images instead of 15")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    options = parser.parse_args()
    quick = options.quick
    out = options.out or (None if quick else RESULTS)
    torch.set_num_threads(1)
    ours_ms, theirs_ms, areas = [], [], []
    for seed in range(4 if quick else 16):
        probs, boxes = made_up(seed)
        mine, ours = timed(our_way, probs, boxes)
        theirs, expected = timed(torchvision_way, probs, boxes)
        assert ours == expected, f"the strings of image {seed} differ"
        if seed:  # the first image warms both up
            ours_ms.append(mine)
            theirs_ms.append(theirs)
            sides = boxes[:, 2:] - boxes[:, :2]
            areas.append(float(sides.prod(dim=1).mean()))
    result = {
        "benchmark": "masks",
        "what": f"{NUM_MASKS} detections of a {WIDTH}x{HEIGHT} image to RLE, one thread",
        "images": len(ours_ms),
        "mean_box_px": round(statistics.mean(areas)),
        "raymrcnn_ms": round(statistics.median(ours_ms), 2),
        "torchvision_pycocotools_ms": round(statistics.median(theirs_ms), 2),
        "ratio": round(
            statistics.median(t / o for o, t in zip(ours_ms, theirs_ms, strict=True)), 1
        ),
        "identical": True,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}",
    }
    print(f"{result['what']}, medians of {result['images']} images")
    print(
        f"  torchvision paste + pycocotools encode  {result['torchvision_pycocotools_ms']:8.2f} ms"
    )
    print(f"  raymrcnn paste_to_rles                  {result['raymrcnn_ms']:8.2f} ms")
    print(f"  ratio                                   {result['ratio']:8.1f}   (strings identical)")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
