"""One training step in one process: ours against torchvision's, R-50-FPN, the same batch.

Losses, backward pass and SGD step; loading is not part of it. Both start from the same seeded
weights with stem and first stage frozen, and sample with the same seed, so that all losses of all
steps must be equal. In turn; medians. About 40 s a pair at 800 / 1333 pixels and batch 2 with one
thread. Run as `python benchmarks/train.py [--quick]` (--quick: one pair at 320 pixels).
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

import torch
from _seeded import (
    NUM_CLASSES,
    PHOTOGRAPHS,
    Side,
    answer_questions,
    machine,
    photographs,
    torchvision_model,
    write_weights,
)
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

RESULTS = Path(__file__).parent / "results" / "train.json"
SIDES = {"torchvision": "torchvision's step", "raymrcnn": "raymrcnn's step"}
Annotation = dict[str, Tensor]
Step = Callable[[], dict[str, Tensor]]


def annotation(path: Path, height: int, width: int) -> Annotation:
    """Boxes, labels and masks of a photograph; of a made-up one, made up."""
    instances = PHOTOGRAPHS / "annotations" / "instances_train2017.json"
    if PHOTOGRAPHS in path.parents:
        from raymrcnn.masks import polygons_to_bitmap

        document = json.loads(instances.read_text())
        order = {c["id"]: i for i, c in enumerate(document["categories"], 1)}
        image_id = next(i["id"] for i in document["images"] if i["file_name"] == path.name)
        objects = [
            (polygons_to_bitmap(a["segmentation"], height, width), order[a["category_id"]])
            for a in document["annotations"]
            if a["image_id"] == image_id and not a["iscrowd"]
        ]
        masks = torch.stack([torch.from_numpy(bitmap.copy()) for bitmap, _ in objects])
        labels = torch.tensor([label for _, label in objects])
    else:
        masks = torch.zeros(5, height, width, dtype=torch.uint8)
        for index, mask in enumerate(masks):
            mask[40 * index : 40 * index + 150, 60 * index : 60 * index + 200] = 1
        labels = torch.arange(1, 6)
    rows, columns = masks.any(2), masks.any(1)
    boxes = torch.stack(
        (
            columns.int().argmax(1),
            rows.int().argmax(1),
            width - columns.flip(1).int().argmax(1),
            height - rows.flip(1).int().argmax(1),
        ),
        dim=1,
    ).float()
    kept = masks.flatten(1).any(1).bool()
    return {"boxes": boxes[kept], "labels": labels[kept], "masks": masks[kept]}


def theirs(images: list[Tensor], batch: list[Annotation], weights: str, side_px: int) -> Step:
    model = torchvision_model(min_size=side_px, max_size=side_px * 5 // 3)
    model.load_state_dict(torch.load(weights, weights_only=True))
    floats = [image.float() / 255 for image in images]
    return stepper(model, lambda: model(floats, batch))


def ours(images: list[Tensor], batch: list[Annotation], weights: str, side_px: int) -> Step:
    from raymrcnn.config import ModelConfig
    from raymrcnn.device.host_memory import reuse_freed_memory
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.structures import Target
    from raymrcnn.weights import load_into, load_source

    reuse_freed_memory()
    model = build_mask_rcnn(ModelConfig(), NUM_CLASSES, side_px, side_px * 5 // 3)
    load_into(model, load_source(weights).state, allow_new_heads=False)
    targets = [Target(image_id=i, **one) for i, one in enumerate(batch)]
    return stepper(model, lambda: model(images, targets))


def stepper(model: torch.nn.Module, losses: Step) -> Step:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0025, momentum=0.9, weight_decay=1e-4)

    def step() -> dict[str, Tensor]:
        torch.manual_seed(0)
        found = losses()
        optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return found

    return step


def run_side(name: str, paths: list[str], weights: str, side_px: int) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    images = [pil_to_tensor(Image.open(path).convert("RGB")) for path in paths]
    batch = [
        annotation(Path(path), *image.shape[-2:]) for path, image in zip(paths, images, strict=True)
    ]
    build = theirs if name == "torchvision" else ours
    step = build(images, batch, weights, side_px)

    def timed(_: Any) -> dict[str, Any]:
        start = time.perf_counter()
        losses = {name: loss.item() for name, loss in sorted(step().items())}
        return {"losses": losses, "seconds": time.perf_counter() - start}

    answer_questions(timed)


def measure(
    images: list[Path], weights: Path, side_px: int, steps: int, threads: int
) -> dict[str, Any]:
    given = ["--weights", str(weights), "--side-px", str(side_px), *map(str, images)]
    sides = {name: Side(name, threads, *given) for name in SIDES}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    losses = []
    for index in range(steps + 1):
        answers = {name: side.ask(index) for name, side in sides.items()}
        expected, found = answers["torchvision"]["losses"], answers["raymrcnn"]["losses"]
        for name, loss in expected.items():
            assert abs(found[name] - loss) <= 1e-5 * max(abs(loss), 1), (index, found, expected)
        losses.append(sum(expected.values()))
        if index:  # the first step warms up
            for name, answer in answers.items():
                seconds[name].append(answer["seconds"])
    for side in sides.values():
        side.close()
    base = seconds["torchvision"]
    return {
        "images_per_step": len(images),
        "short_side_px": side_px,
        "steps": steps,
        "threads": threads,
        "seconds_per_step": {n: round(statistics.median(s), 2) for n, s in seconds.items()},
        "times_torchvision": {
            n: round(statistics.median(t / o for o, t in zip(s, base, strict=True)), 2)
            for n, s in seconds.items()
        },
        "losses": losses,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one pair of steps at 320 pixels")
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--side-px", type=int, help=argparse.SUPPRESS)
    parser.add_argument("images", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.images, options.weights, options.side_px)
        return
    side_px, steps = (320, 1) if options.quick else (800, 4)
    with tempfile.TemporaryDirectory() as folder:
        images = photographs("train2017", 2, Path(folder))
        weights = Path(folder) / "weights.pth"
        write_weights(weights, Image.open(images[0]))
        result = measure(images, weights, side_px, steps, options.threads)
    result = {"benchmark": "train", "what": "one step of R-50-FPN", **result, **machine()}
    print(
        f"{result['what']}, batch {result['images_per_step']}, short side {side_px} px, "
        f"{result['threads']} thread(s), medians of {steps} step(s)"
    )
    for name, text in SIDES.items():
        seconds, ratio = result["seconds_per_step"][name], result["times_torchvision"][name]
        print(f"  {text:22s} {seconds:7.2f} s   {ratio:5.2f} times torchvision")
    print(
        f"  losses of all steps equal; the sum went {result['losses'][0]:.4f} to "
        f"{result['losses'][-1]:.4f}"
    )
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
