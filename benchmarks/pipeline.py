"""What Ray costs: images a second through the whole pipeline against the same labeler in-process.

One actor, the same blocks, the first block of each left out as warm-up, the two in turn. The model
is the small one, so that the pipeline has the least to hide behind. Both choose their threads by
trying: on a busy machine the two may choose differently, so run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from raymrcnn.config import ModelConfig
from raymrcnn.data.synthetic import write_synthetic
from raymrcnn.device.accelerator import CPU
from raymrcnn.device.on_ray import ray_session, worker_device
from raymrcnn.infer.job import InferJob, load_predictor, prepare
from raymrcnn.infer.labeler import BlockSummary, Labeler
from raymrcnn.infer.on_ray import run_inference
from raymrcnn.infer.threads import choose_num_threads
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.recipes import tiny
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.train.checkpoint import save_checkpoint

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-mini"


def write_weights(folder: Path) -> Path:
    config: ModelConfig = tiny().model
    torch.manual_seed(0)
    model = build_mask_rcnn(config, 80, 320, 480)
    info = ModelInfo(
        model=tiny().to_json()["model"],
        categories=tuple(Category(id=k, name=f"class {k}") for k in range(1, 81)),
        short_side=320,
        long_side=480,
    )
    return save_checkpoint(folder, 0, model.state_dict(), {}, info, 1)


def job(weights: Path, data: Path, split: str, out: Path, limit: int) -> InferJob:
    return InferJob(weights=str(weights), out=out, data_root=data, split=split, score=False,
                    batch_size=8, limit=limit, score_threshold=0.0)  # fmt: skip


def rate(marks: list[tuple[float, BlockSummary]]) -> float:
    """Images a second between the end of the first block and the end of the last."""
    seconds = marks[-1][0] - marks[0][0]
    return sum(summary.num_images for _, summary in marks[1:]) / seconds


def in_process(one: InferJob) -> float:
    prepared = prepare(one)
    predictor = load_predictor(one.weights, CPU, worker_device(CPU, 1), score_threshold=0.0)
    choose_num_threads(predictor.rehearse, torch.get_num_threads())  # as the actor does
    labeler = Labeler(predictor, one.out, one.batch_size, 1)
    marks = []
    for block in prepared.predictions.pending():
        summary = labeler.label_block(block, prepared.predictions.rows_of(block))
        marks.append((time.perf_counter(), summary))
    return rate(marks)


def through_ray(one: InferJob) -> float:
    marks: list[tuple[float, BlockSummary]] = []
    run_inference(
        prepare(one),
        cluster=None,
        on_block=lambda summary: marks.append((time.perf_counter(), summary)),
    )
    return rate(marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, one pair, no file")
    quick = parser.parse_args().quick
    repeats, limit = (1, 64) if quick else (3, 200)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        weights = write_weights(home / "weights")
        data, split = COCO, "val2017"
        if not COCO.is_dir():
            data, split = home / "data", "train2017"
            write_synthetic(data, limit * 5 // 4 + 1)
        pairs = []
        with ray_session(None, CPU, 1):
            for k in range(repeats):
                alone = in_process(job(weights, data, split, home / f"alone{k}", limit))
                piped = through_ray(job(weights, data, split, home / f"piped{k}", limit))
                pairs.append((piped, alone))
    result = {
        "benchmark": "pipeline",
        "what": "images/s of one actor through Ray Data, and of the same labeler in-process",
        "images": limit,
        "raymrcnn_pipeline": round(statistics.median(p for p, _ in pairs), 2),
        "in_process": round(statistics.median(a for _, a in pairs), 2),
        "ratio": round(statistics.median(p / a for p, a in pairs), 3),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))
    if not quick:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
