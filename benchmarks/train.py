"""One training step in one process: ours against torchvision's, R-50-FPN, the same batch.

Losses, backward pass and SGD step; loading is not part of it. Both start from the same seeded
weights with stem and first stage frozen. In the first step, which warms up, torchvision is told
the anchors and proposals that ours sampled, and all float32 losses must be equal. In turn; medians;
on the CPU of processor time, which other work on the machine disturbs less than time on the wall.

    python benchmarks/train.py            float32 and bfloat16 on the CPU, 2 images at 800 px
    python benchmarks/train.py --quick    one pair of steps at 320 px, no file
    python benchmarks/train.py --device cuda --batch 16   float32 and float16, with memory
    python benchmarks/train.py --compile --side-px 320   what optim.compile gains
    python benchmarks/train.py --profile  where our step's time goes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
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
RATE = 0.0025
# Each side: who, and in which precision.
SIDES = {
    "torchvision": ("torchvision", "float32"),
    "raymrcnn": ("raymrcnn", "float32"),
    "torchvision_low": ("torchvision", "low"),
    "raymrcnn_low": ("raymrcnn", "low"),
}
COMPILED = "raymrcnn_compiled"  # as optim.compile does
LOW = {"cpu": "bfloat16", "cuda": "float16"}
Annotation = dict[str, Any]  # tensors
Step = Callable[[], dict[str, Tensor]]
Chosen = list[tuple[Tensor, Tensor]]  # places of positives and negatives, an image each


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


class GivenSampler:
    """In torchvision's sampler's place: gives what ours chose."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positives and of the negatives."""
        masks: tuple[list[Tensor], list[Tensor]] = ([], [])
        for of, places in zip(labels, self.chosen, strict=True):
            for kind in (0, 1):
                mask = torch.zeros_like(of, dtype=torch.uint8)
                mask[places[kind].to(of.device)] = 1
                masks[kind].append(mask)
        return masks


def theirs(setup: argparse.Namespace, images: list[Tensor], batch: list[Annotation]) -> Step:
    """As torchvision's references/detection/engine.py takes a step."""
    device, dtype = torch.device(setup.device), getattr(torch, setup.precision)
    model = torchvision_model(min_size=setup.side_px, max_size=setup.side_px * 5 // 3)
    model.load_state_dict(torch.load(setup.weights, weights_only=True))
    model.train().to(device)
    floats = [image.float() / 255 for image in images]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    own = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    if setup.precision == "float32":
        model.rpn.fg_bg_sampler = model.roi_heads.fg_bg_sampler = None

    def step() -> dict[str, Tensor]:
        if model.rpn.fg_bg_sampler is None:
            chosen = torch.load(setup.chosen, weights_only=True)
            model.rpn.fg_bg_sampler = GivenSampler(chosen[: len(images)])
            model.roi_heads.fg_bg_sampler = GivenSampler(chosen[len(images) :])
        else:
            model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler = own
        there = [image.to(device) for image in floats]
        targets = [{name: value.to(device) for name, value in one.items()} for one in batch]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            found = model(there, targets)
        optimizer.zero_grad()
        scaler.scale(torch.stack(list(found.values())).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return dict(found)

    return step


def ours(setup: argparse.Namespace, images: list[Tensor], batch: list[Annotation]) -> Step:
    """The loop of a run, given one batch again and again."""
    from raymrcnn.config import ModelConfig, OptimConfig
    from raymrcnn.data.loader import TrainBatch
    from raymrcnn.device.host_memory import reuse_freed_memory
    from raymrcnn.model import heads, proposals
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.model.sampling import Sample, sample_balanced
    from raymrcnn.structures import BatchPlan, Target
    from raymrcnn.train.loop import StepOptions, training_steps
    from raymrcnn.train.state import TrainState
    from raymrcnn.weights import load_into, load_source

    device = torch.device(setup.device)
    reuse_freed_memory()
    model = build_mask_rcnn(ModelConfig(), NUM_CLASSES, setup.side_px, setup.side_px * 5 // 3)
    load_into(model, load_source(setup.weights).state, allow_new_heads=False)
    model.train().to(device)
    if setup.side == COMPILED:
        model.backbone.compile(dynamic=True)
    taken: list[Sample] = []

    def recorded(*given: Any) -> Sample:
        taken.append(sample_balanced(*given))
        return taken[-1]

    if setup.precision == "float32":
        vars(heads)["sample_balanced"] = vars(proposals)["sample_balanced"] = recorded
    config = OptimConfig(
        precision=setup.precision, bias_lr_factor=1.0, bias_weight_decay=1e-4, momentum=0.9
    )
    ids = tuple(range(len(images)))
    targets = [Target(image_id=i, **one) for i, one in zip(ids, batch, strict=True)]

    def batches() -> Iterator[TrainBatch]:
        for step in range(10**9):
            yield TrainBatch(
                step=step, epoch=0, image_ids=ids, batch_ids=ids, images=images, targets=targets,
                plan=BatchPlan(seeds=ids),
            )  # fmt: skip

    steps = training_steps(
        model, batches(), TrainState(model, config, device), lambda step: RATE,
        start=0, stop=10**9, device=device,
        options=StepOptions(dtype=getattr(torch, setup.precision), check_every=20),
    )  # fmt: skip

    def step() -> dict[str, Tensor]:
        taken.clear()
        return next(steps).losses

    def save_chosen() -> None:
        places = [
            (positive[is_positive].cpu(), negative[is_negative].cpu())
            for one in taken
            for positive, is_positive, negative, is_negative in zip(
                one.positives, one.is_positive, one.negatives, one.is_negative, strict=True
            )
        ]
        torch.save(places, setup.chosen)

    step.after = save_chosen  # type: ignore[attr-defined]
    return step


def built(setup: argparse.Namespace) -> Step:
    images = [pil_to_tensor(Image.open(path).convert("RGB")) for path in setup.images]
    batch = [
        annotation(Path(path), *image.shape[-2:])
        for path, image in zip(setup.images, images, strict=True)
    ]
    who, precision = SIDES[setup.side.removesuffix("_compiled")]
    setup.precision = LOW[setup.device] if precision == "low" else precision
    return (theirs if who == "torchvision" else ours)(setup, images, batch)


def run_side(setup: argparse.Namespace) -> None:
    """Answer each question with the losses and the time of a step."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    step = built(setup)
    on_gpu = setup.device == "cuda"

    def timed(_: Any) -> dict[str, Any]:
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        losses = {name: loss.item() for name, loss in sorted(step().items())}
        seconds = clock() - start
        if setup.side == "raymrcnn":
            step.after()  # type: ignore[attr-defined]
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        return {"losses": losses, "seconds": seconds, "peak_bytes": peak}

    answer_questions(timed)


def profile(setup: argparse.Namespace) -> None:
    """Print the operators that take most of one of our steps."""
    for side in SIDES if setup.peers else ("raymrcnn", "raymrcnn_low"):
        step = built(argparse.Namespace(**{**vars(setup), "side": side}))
        step()
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if setup.device == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        start = time.process_time()
        step()
        print(side, f"{time.process_time() - start:.2f} s of processor time")
        with torch.profiler.profile(activities=kinds) as profiler:
            step()
        column = "self_cuda_time_total" if setup.device == "cuda" else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=column, row_limit=18, max_name_column_width=48))


def measure(setup: argparse.Namespace, images: list[Path], steps: int) -> dict[str, Any]:
    """Steps of all sides in turn."""
    given = ["--weights", setup.weights, "--side-px", str(setup.side_px), "--chosen", setup.chosen,
             "--device", setup.device, *map(str, images)]  # fmt: skip
    # Ours goes first: torchvision is told what it sampled.
    order = sorted(SIDES, key=lambda name: SIDES[name][0])
    sides = {name: Side(name, setup.threads, *given) for name in order}
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    peaks: dict[str, int] = {}
    losses: dict[str, float] = {}
    for index in range(steps + 1):
        answers = {name: side.ask(index) for name, side in sides.items()}
        expected, found = answers["torchvision"]["losses"], answers["raymrcnn"]["losses"]
        within = 1e-5 if setup.device == "cpu" else 1e-3
        for name, loss in expected.items() if index == 0 else ():
            assert abs(found[name] - loss) <= within * max(abs(loss), 1), (index, found, expected)
        losses = losses or {name: round(loss, 4) for name, loss in expected.items()}
        for name, answer in answers.items():
            peaks[name] = answer["peak_bytes"]
            if index:  # the first step warms up
                seconds[name].append(answer["seconds"])
    for side in sides.values():
        side.close()
    base = seconds["torchvision"]
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    return {
        "device": setup.device,
        "low_precision": LOW[setup.device],
        "images_per_step": len(images),
        "short_side_px": setup.side_px,
        "steps": steps,
        "threads": setup.threads,
        "seconds_per_step": {name: round(value, 3) for name, value in medians.items()},
        "images_per_s": {name: round(len(images) / value, 3) for name, value in medians.items()},
        "peak_gib": {name: round(value / 2**30, 2) for name, value in peaks.items() if value},
        "times_torchvision": {
            name: round(statistics.median(t / o for o, t in zip(of, base, strict=True)), 2)
            for name, of in seconds.items()
        },
        "equal_losses": losses,
    }


def measure_compiled(setup: argparse.Namespace, images: list[Path], steps: int) -> dict[str, Any]:
    """Our steps with and without torch.compile, in turn; the first compiles."""
    given = ["--weights", setup.weights, "--side-px", str(setup.side_px), "--chosen", setup.chosen,
             "--device", setup.device, *map(str, images)]  # fmt: skip
    sides = {name: Side(name, setup.threads, *given) for name in ("raymrcnn", COMPILED)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    first: dict[str, float] = {}
    for index in range(steps + 1):
        answers = {name: side.ask(index) for name, side in sides.items()}
        for name, answer in answers.items():
            if index:
                seconds[name].append(answer["seconds"])
            else:
                first[name] = answer["seconds"]
    for side in sides.values():
        side.close()
    gains = [a / b for a, b in zip(seconds["raymrcnn"], seconds[COMPILED], strict=True)]
    return {
        "benchmark": "train_compile",
        "what": "one step of R-50-FPN, float32, backbone through torch.compile",
        "device": setup.device,
        "images_per_step": len(images),
        "short_side_px": setup.side_px,
        "steps": steps,
        "seconds_per_step": {name: round(statistics.median(of), 3) for name, of in seconds.items()},
        "first_step_s": {name: round(value, 1) for name, value in first.items()},
        "times_uncompiled": round(statistics.median(gains), 3),
        **machine(),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pair of steps at 320 pixels")
    parser.add_argument("--profile", action="store_true", help="where our step's time goes")
    parser.add_argument("--compile", action="store_true", help="what torch.compile gains us")
    parser.add_argument("--peers", action="store_true", help="profile torchvision's step too")
    parser.add_argument("--device", choices=LOW, default="cpu")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--out", type=Path, help="JSON; by default beside this file, if not quick")
    parser.add_argument("--side-px", type=int, default=800, help="short side")
    for hidden in ("--side", "--weights", "--chosen"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("images", nargs="*", help=argparse.SUPPRESS)
    setup = parser.parse_args()
    if setup.side:
        run_side(setup)
        return
    steps = 1 if setup.quick else setup.steps
    if setup.quick:
        setup.side_px = 320
    with tempfile.TemporaryDirectory() as folder:
        images = photographs("train2017", setup.batch, Path(folder))
        setup.weights, setup.chosen = f"{folder}/weights.pth", f"{folder}/chosen.pt"
        write_weights(Path(setup.weights), Image.open(images[0]))
        if setup.profile:
            torch.set_num_threads(setup.threads)
            setup.images = images
            profile(setup)
            return
        if setup.compile:
            result = measure_compiled(setup, images, steps)
            print(json.dumps(result, indent=2))
            out = setup.out or RESULTS.with_name(f"train_compile_{setup.device}.json")
            out.write_text(json.dumps(result, indent=2) + "\n")
            return
        result = measure(setup, images, steps)
    result = {"benchmark": "train", "what": "one step of R-50-FPN", **result, **machine()}
    print(
        f"{result['what']}, batch {result['images_per_step']}, short side {setup.side_px} px, "
        f"{setup.device}, medians of {steps} step(s)"
    )
    for name, (who, precision) in SIDES.items():
        seconds, ratio = result["seconds_per_step"][name], result["times_torchvision"][name]
        kind = LOW[setup.device] if precision == "low" else precision
        memory = f"   {result['peak_gib'][name]:6.2f} GiB" if result["peak_gib"] else ""
        print(f"  {who:12s} {kind:9s} {seconds:8.3f} s  {ratio:5.2f} times torchvision{memory}")
    print(f"  equal losses of the first float32 step: {result['equal_losses']}")
    name = "train" if setup.device == "cpu" else f"train_{setup.device}"
    out = setup.out or (None if setup.quick else RESULTS.with_name(f"{name}.json"))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
