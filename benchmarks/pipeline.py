"""What Ray costs: images a second through the whole pipeline against the same labeler in-process.

One actor, the same blocks, the same number of threads, the first block of each left out as warm-up,
the two in turn, each in a process of its own: fetch, decode, network, paste and commit on both
sides. The model is the small one, so that the pipeline has the least to hide behind.

Stated besides: the processor time that each process of the pipeline took an image, which says where
the difference goes, and on a busy machine is the better number: seconds by the clock are shared
with whatever else runs there, processor time is not.

About four minutes on two hyperthreads. Run as
`python benchmarks/pipeline.py [--quick] [--threads N] [--pairs N]`, on a quiet machine.
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
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-mini"
TICKS = os.sysconf("SC_CLK_TCK")


def write_weights(folder: Path) -> Path:
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.recipes import tiny
    from raymrcnn.structures import Category, ModelInfo
    from raymrcnn.train.checkpoint import save_checkpoint

    torch.manual_seed(0)
    model = build_mask_rcnn(tiny().model, 80, 320, 480)
    info = ModelInfo(
        model=tiny().to_json()["model"],
        categories=tuple(Category(id=k, name=f"class {k}") for k in range(1, 81)),
        short_side=320,
        long_side=480,
    )
    save_checkpoint(folder, 0, model.state_dict(), {}, info, 1)
    return folder


def photographs(number: int, home: Path) -> list[str]:
    """Real photographs where they lie beside the repository, else made-up ones."""
    from raymrcnn.data.synthetic import write_synthetic

    found = [*PHOTOGRAPHS.glob("val2017/*.jpg"), *PHOTOGRAPHS.glob("train2017/*.jpg")]
    if len(found) < number:
        write_synthetic(home / "data", number * 5 // 4 + 1)
        found = list((home / "data").rglob("*.jpg"))
    return sorted(map(str, found))[:number]


class MakeLabeler:
    """Makes the labeler of an actor with a given number of threads: choosing by time is noise."""

    def __init__(self, weights: str, folder: str, threads: int) -> None:
        self.weights, self.folder, self.threads = weights, folder, threads

    def __call__(self, workers_here: int) -> Any:  # noqa: D102
        from raymrcnn.device.accelerator import CPU
        from raymrcnn.device.on_ray import worker_device
        from raymrcnn.infer.job import load_predictor
        from raymrcnn.infer.labeler import Labeler

        device = worker_device(CPU, workers_here)
        torch.set_num_threads(self.threads)
        predictor = load_predictor(self.weights, CPU, device, score_threshold=0.0)
        return Labeler(predictor, Path(self.folder), batch_size=4, decode_threads=1)


def cpu_seconds() -> dict[int, tuple[str, float]]:
    """What each of this process and all below it is, and its processor seconds so far."""
    parents, taken = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(") ")
            title = (stat.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it ended
            continue
        pid, fields = int(stat.parent.name), rest.split()
        parents[pid] = int(fields[1])
        taken[pid] = (title or name, (int(fields[11]) + int(fields[12])) / TICKS)
    below = {}
    for pid, (title, spent) in taken.items():
        above = pid
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        if above:
            below[pid] = ("driver" if pid == os.getpid() else kind_of(title), spent)
    return below


def spent_between(before: dict[int, tuple[str, float]]) -> dict[str, float]:
    """Processor seconds since then, by what a process is now: Ray's workers change their titles."""
    seconds: dict[str, float] = defaultdict(float)
    for pid, (kind, spent) in cpu_seconds().items():
        seconds[kind] += spent - before.get(pid, ("", 0.0))[1]
    return dict(seconds)


def kind_of(title: str) -> str:
    if "_Actor" in title or "MapWorker" in title:
        return "actor"
    for name in ("gcs_server", "raylet/raylet", "log_monitor", "runtime_env", "dashboard/agent"):
        if name in title:
            return name.rpartition("/")[2]
    return title.split()[0] if title.startswith("ray::") else "other"


def run_side(side: str, weights: str, out: str, images: list[str], threads: int) -> dict[str, Any]:
    from raymrcnn.infer.job import InferJob, prepare

    job = InferJob(
        weights=weights, out=Path(out), images=tuple(images), score=False, batch_size=4,
        score_threshold=0.0,
    )  # fmt: skip
    prepared, make = prepare(job), MakeLabeler(weights, out, threads)
    marks: list[float] = []
    summaries: list[Any] = []
    before: dict[int, tuple[str, float]] = {}
    spent: dict[str, float] = {}

    def on_block(summary: Any) -> None:
        marks.append(time.perf_counter())
        summaries.append(summary)
        if len(marks) == 1:
            before.update(cpu_seconds())
        if len(marks) == prepared.predictions.num_blocks:
            spent.update(spent_between(before))

    if side == "alone":
        labeler = make(1)
        for block in prepared.predictions.pending():
            on_block(labeler.label_block(block, prepared.predictions.rows_of(block)))
    else:
        from raymrcnn.infer.on_ray import run_inference

        run_inference(prepared, cluster=None, on_block=on_block, make_labeler=make)
    num = sum(one.num_images for one in summaries[1:])
    stages = ("decode_s", "device_s", "idle_s", "paste_s", "commit_s", "seconds")
    return {
        "images": num,
        "images_per_s": num / (marks[-1] - marks[0]),
        "in_blocks_ms": {s: sum(getattr(b, s) for b in summaries[1:]) / num * 1e3 for s in stages},
        "cpu_ms": {kind: seconds / num * 1e3 for kind, seconds in spent.items()},
    }


def ask(side: str, home: Path, weights: Path, images: list[str], threads: int) -> dict[str, Any]:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory(dir=home) as out:
        question = [side, str(weights), f"{out}/predictions", images, threads]
        command = [sys.executable, __file__, "--side", json.dumps(question)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def middle(answers: list[dict[str, Any]], *path: str) -> float:
    """The median over the pairs of a number; 0 where a process took no time."""
    found = []
    for answer in answers:
        value: Any = answer
        for name in path:
            value = value.get(name, 0.0)
        found.append(value)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, one pair, no file")
    parser.add_argument("--threads", type=int, default=1, help="of the network, on each side")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--images", type=int, default=216, help="with those of the warm-up")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(*json.loads(options.side))))
        return
    pairs, number = (1, 64) if options.quick else (options.pairs, options.images)
    answers: dict[str, list[dict[str, Any]]] = {"alone": [], "piped": []}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        weights, images = write_weights(home / "weights"), photographs(number, home)
        for k in range(pairs):
            for side in ("alone", "piped") if k % 2 == 0 else ("piped", "alone"):
                answers[side].append(ask(side, home, weights, images, options.threads))
                one = answers[side][-1]
                print(side, f"{one['images_per_s']:.2f} images/s", file=sys.stderr, flush=True)
        load.append(os.getloadavg()[0])
    alone, piped = answers["alone"], answers["piped"]
    kinds = sorted({kind for one in piped for kind in one["cpu_ms"]})
    cpu = {kind: round(middle(piped, "cpu_ms", kind), 1) for kind in kinds}
    result = {
        "benchmark": "pipeline",
        "what": "images/s of one actor through Ray Data, and of the same labeler in-process",
        "images": alone[0]["images"],
        "pairs": pairs,
        "threads": options.threads,
        "raymrcnn_pipeline": round(middle(piped, "images_per_s"), 2),
        "in_process": round(middle(alone, "images_per_s"), 2),
        "ratio": round(
            statistics.median(
                p["images_per_s"] / a["images_per_s"] for p, a in zip(piped, alone, strict=True)
            ),
            3,
        ),
        "cpu_ms_per_image": {
            "in_process": round(sum(middle(alone, "cpu_ms", k) for k in alone[0]["cpu_ms"]), 1),
            "pipeline": round(sum(cpu.values()), 1),
            "of_the_pipeline": {kind: ms for kind, ms in cpu.items() if ms >= 0.05},
        },
        "cpu_ratio": round(
            statistics.median(
                sum(a["cpu_ms"].values()) / sum(p["cpu_ms"].values())
                for p, a in zip(piped, alone, strict=True)
            ),
            3,
        ),
        "in_blocks_ms_per_image": {
            side: {
                stage.removesuffix("_s"): round(middle(of, "in_blocks_ms", stage), 1)
                for stage in of[0]["in_blocks_ms"]
            }
            for side, of in answers.items()
        },
        # The time by the clock that the actor spent outside its blocks: waiting for the next.
        "between_blocks_share": round(
            max(
                0.0,
                1 - middle(piped, "in_blocks_ms", "seconds") * middle(piped, "images_per_s") / 1e3,
            ),
            3,
        ),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, load {load[0]:.1f} before and {load[1]:.1f} after",
    }
    print(json.dumps(result, indent=2))
    if not options.quick and number >= 216:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
