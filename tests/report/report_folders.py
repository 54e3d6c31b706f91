"""A small run folder, predictions folder and COCO data set, as the other parts write them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raymrcnn import rundir
from raymrcnn.masks import bitmap_to_rle
from raymrcnn.recipes import recipe_named
from raymrcnn.rows import failures_table, results_table
from raymrcnn.structures import Detections, Failure

HOSTILE = "<script>alert('x')</script>"
CATEGORIES = {1: "cat", 3: HOSTILE, 7: 'a "quoted" & <b>bold</b> name'}
WIDTH, HEIGHT = 96, 64
NUM_IMAGES = 16
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


@dataclass(frozen=True)
class Folders:
    root: Path  # of the data
    run: Path
    predictions: Path


def box_mask(x1: int, y1: int, x2: int, y2: int) -> Any:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def detections_of(
    image_id: int, found: list[tuple[float, int, tuple[int, int, int, int]]], name: str = ""
) -> Detections:
    """Detections of score, category and box, whose masks fill their boxes."""
    return Detections(
        image_id=image_id,
        file_name=name or f"{image_id:03d}.png",
        width=WIDTH,
        height=HEIGHT,
        boxes=np.asarray([box for _, _, box in found], np.float32).reshape(-1, 4),
        scores=np.asarray([score for score, _, _ in found], np.float32),
        category_ids=np.asarray([category for _, category, _ in found], np.int64),
        rles=[bitmap_to_rle(box_mask(*box)) for _, _, box in found],
    )


def write_data(root: Path) -> None:
    """Image i has one object of category 1, every second one of category 3, the last a crowd."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, NUM_IMAGES + 1):
        name = f"{i:03d}.png"
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(
            root / "val" / name
        )
        images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
        objects = [(1, (8, 8, 40, 40), 0)]
        objects += [(3, (50, 10, 90, 50), 0)] if i % 2 == 0 else []
        objects += [(7, (0, 44, 48, 64), 1)] if i == NUM_IMAGES else []
        for category, (x1, y1, x2, y2), crowd in objects:
            polygon = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            runs = {"size": [HEIGHT, WIDTH], "counts": bitmap_to_rle(box_mask(x1, y1, x2, y2))}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": crowd,
                    "segmentation": runs if crowd else polygon,
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in CATEGORIES.items()],
    }
    (root / "annotations" / "instances_val.json").write_text(json.dumps(document))


def write_run(folder: Path, root: Path, num_lines: int = 40) -> None:
    folder.mkdir()
    document = {
        "recipe": recipe_named("tiny").to_json(),
        "versions": {"python": "3.11.2", "torch": "2.11.0"},
        "device": {"name": "cpu", "workers": 2},
        "data": {
            "root": str(root),
            "train_split": "train",
            "fingerprint": "f" * 64,
            "num_images": NUM_IMAGES,
            "categories": [[k, name] for k, name in CATEGORIES.items()],
        },
        "weights": None,
        "started": "2026-11-23T10:00:00+00:00",
        "status": "complete",
    }
    (folder / rundir.RUN_JSON).write_text(json.dumps(document))
    lines = []
    for step in range(10, 10 * num_lines + 1, 10):
        losses = {
            name: 0.2 + math.exp(-step / 100)
            for name in (
                "loss_objectness",
                "loss_rpn_box_reg",
                "loss_classifier",
                "loss_box_reg",
                "loss_mask",
            )
        }
        line = {"step": step, "lr": 1e-3, "loss": sum(losses.values()), **losses}
        line |= {"images_per_s": 12.5, "data_wait_s": 0.01, "seconds": step * 0.6}
        lines.append(json.dumps(line))
    (folder / rundir.METRICS).write_text("\n".join(lines) + "\n")


def write_predictions(folder: Path, root: Path, worse: int = 0) -> None:
    """Early images are predicted well, late ones badly; the last of all not at all.

    The boxes of all are moved by as many pixels as they are `worse`.
    """
    folder.mkdir()
    found = []
    for i in range(1, NUM_IMAGES + 1):
        shift = min(i + worse, 12)
        rows = [(0.9, 1, (8 + shift, 8, 40 + shift, 40)), (0.2, 7, (0, 0, 10, 10))]
        rows += [(0.7, 3, (50, 10, 90, 50))] if i % 4 == 0 else []
        found.append(detections_of(i, rows if i < NUM_IMAGES else []))
    pq.write_table(results_table(found[:9]), folder / rundir.part_name(0))
    pq.write_table(results_table(found[9:]), folder / rundir.part_name(1))
    failed = [
        Failure(
            image_id=100 + k,
            file_name=f"{HOSTILE}{k}.jpg",
            error=f"/data/{HOSTILE}{k}.jpg: the image is cut short ({k} bytes)",
        )
        for k in range(25)
    ]
    failed.append(Failure(image_id=200, file_name="e.jpg", error="e.jpg: the file is empty"))
    pq.write_table(failures_table(failed), folder / rundir.FAILURES)
    uris = [str(root / "val" / d.file_name) for d in found]
    table = {"image_id": [d.image_id for d in found], "file_name": [d.file_name for d in found]}
    pq.write_table(pa.table({**table, "uri": uris}), folder / rundir.IMAGES)
    manifest = {
        "status": "complete",
        "options": {"weights": "/runs/tiny/best", "dtype": "float32", "score_threshold": 0.05},
        "data": {"root": str(root), "split": "val"},
        "images_per_s": 3.5,
        "seconds": 61,
    }
    (folder / rundir.MANIFEST).write_text(json.dumps(manifest))
    (folder / rundir.SCORES).write_text(json.dumps(scores()))


def scores() -> dict[str, Any]:
    """As `raymrcnn.score.coco.Scores.to_json` writes it."""
    twelve = {name: 0.1 + 0.05 * i for i, name in enumerate(METRICS)}
    recall = np.linspace(0, 1, 101).round(2).tolist()
    curve = {
        "recall": recall,
        "precision": {"0.50": [1 - r for r in recall], "0.75": [-1.0] * 101},
        "per_category": {"0.50": {"1": [1 - r for r in recall]}},
    }
    per_category = [
        {"category_id": 1, "name": "cat", "num_objects": 16, **twelve},
        {"category_id": 3, "name": HOSTILE, "num_objects": 8, **twelve, "AP": 0.654},
        {"category_id": 7, "name": CATEGORIES[7], "num_objects": 0, **dict.fromkeys(METRICS, -1)},
    ]
    kinds = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    errors = {name: {"delta": 0.123, "count": 1234} for name in kinds}
    bins = [
        {"low": k / 10, "high": k / 10 + 0.1, "count": 5 * (k > 3), "score": k / 10, "right": 0.4}
        for k in range(10)
    ]
    detail = {
        "errors": {"AP50": 0.5, **errors, "FP": {"delta": 0.2}, "FN": {"delta": 0.3}},
        "calibration": {"ece": 0.077, "mce": 0.2, "num_detections": 30, "bins": bins},
        "confusion": {
            "min_score": 0.5,
            "iou": 0.5,
            "pairs": [
                {"truth": 1, "predicted": 3, "count": 4},
                {"truth": None, "predicted": 3, "count": 2},
                {"truth": 1, "predicted": None, "count": 1},
            ],
        },
    }
    return {
        "detail": {"bbox": detail, "segm": detail},
        "bbox": twelve,
        "segm": {**twelve, "AP": 0.4321, "APs": -1.0},
        "per_category": {"bbox": per_category, "segm": per_category},
        "precision_recall": {"bbox": curve, "segm": curve},
    }
