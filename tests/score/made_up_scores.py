"""Made-up ground truth and detections with every oddity of COCO's, and pycocotools' own scores."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raymrcnn.masks import rle_to_bitmap
from raymrcnn.rows import results_table
from raymrcnn.score.files import part_files
from raymrcnn.structures import Category, Detections

Entries = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth from dictionaries; what scoring asks for and nothing else."""

    images: Entries
    annotations: Entries
    names: Sequence[tuple[int, str]]
    path: str = "made-up.json"
    frequencies: Mapping[int, str] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(Category(id=k, name=n) for k, n in self.names)

    @property
    def image_ids(self) -> np.ndarray:
        return np.array([image["id"] for image in self.images], np.int64)

    def images_with_ids(self, image_ids: Any) -> np.ndarray:
        row = {image["id"]: i for i, image in enumerate(self.images)}
        return np.array([row[i] for i in np.asarray(image_ids).tolist()], np.int64)

    def to_coco_dicts(self, image_rows: Any) -> tuple[Entries, Entries]:
        images = [self.images[i] for i in image_rows]
        chosen = {image["id"] for image in images}
        return images, [a for a in self.annotations if a["image_id"] in chosen]


def make(
    seed: int, num_images: int = 8, *, num_categories: int = 3, most_detections: int = 12
) -> tuple[Truth, Entries]:
    """Ground truth and detections: crowds, ties, gaps in ids, empty images, all forms of masks."""
    draw = np.random.default_rng(seed)
    ids = np.sort(draw.choice(1000, num_images, replace=False)).tolist()
    category_ids = np.sort(draw.choice(90, num_categories, replace=False) + 1).tolist()
    images = [
        {"id": i, "height": int(draw.integers(20, 60)), "width": int(draw.integers(20, 90))}
        for i in ids
    ]
    annotations: Entries = []
    detections: Entries = []
    for image in images:
        size = (image["height"], image["width"])
        outlines = [_outline(draw, *size) for _ in range(draw.integers(0, 5))]
        of_image = [int(draw.choice(category_ids)) for _ in outlines]
        for outline, category in zip(outlines, of_image, strict=True):
            annotation = _annotation(draw, outline, *size)
            annotation |= {"image_id": image["id"], "category_id": category}
            annotations.append({"id": 10 + 7 * len(annotations), **annotation})
        for _ in range(draw.integers(0, most_detections)):
            if outlines and draw.random() < 0.7:
                k = draw.integers(len(outlines))
                outline, category = outlines[k] + draw.normal(0, 1.5, 2), of_image[k]
            else:
                outline, category = _outline(draw, *size), int(draw.choice(category_ids))
            detection = _detection(draw, outline, *size)
            detections.append({"image_id": image["id"], "category_id": category, **detection})
    order = draw.permutation(len(detections))
    truth = Truth(images, annotations, [(k, f"kind {k}") for k in category_ids])
    return truth, [detections[i] for i in order]


def result_rows(truth: Truth, detections: Entries) -> list[Detections]:
    """The detections as the model hands them on: float32, best first, boxes as corners."""
    rows = []
    for image in truth.images:
        mine = [d for d in detections if d["image_id"] == image["id"]]
        mine.sort(key=lambda d: -d["score"])
        boxes = np.array([d["bbox"] for d in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        rows.append(
            Detections(
                image_id=image["id"],
                file_name=f"{image['id']}.jpg",
                width=image["width"],
                height=image["height"],
                boxes=boxes,
                scores=np.array([d["score"] for d in mine], np.float32),
                category_ids=np.array([d["category_id"] for d in mine], np.int64),
                rles=[d["segmentation"]["counts"] for d in mine],
            )
        )
    return rows


def write_parts(folder: Path, rows: list[Detections], per_part: int = 3) -> list[Path]:
    """The files of a predictions folder."""
    folder.mkdir(exist_ok=True)
    for k in range(0, len(rows), per_part):
        pq.write_table(results_table(rows[k : k + per_part]), folder / f"part-{k:06d}.parquet")
    return part_files(folder)


def pycocotools_eval(truth: Truth, detections: Entries, kind: str) -> COCOeval:
    """pycocotools' evaluation, for masks from results without boxes as its users do."""
    coco = COCO()
    coco.dataset = {
        "images": copy.deepcopy(truth.images),
        "annotations": copy.deepcopy(truth.annotations),
        "categories": [{"id": k, "name": n} for k, n in truth.names],
    }
    dropped = "segmentation" if kind == "bbox" else "bbox"
    results = [{k: v for k, v in d.items() if k != dropped} for d in copy.deepcopy(detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        if results:
            found = coco.loadRes(results)
        else:  # loadRes looks at the first result before anything else
            found = COCO()
            found.dataset = {**coco.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _outline(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    centre = draw.random(2) * [width, height]
    radius = draw.uniform(2, 0.5 * height)
    angles = np.sort(draw.random(draw.integers(3, 12))) * 2 * np.pi
    corners = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radius
    return centre + corners


def _rle(outline: np.ndarray, height: int, width: int) -> dict[str, Any]:
    rle = coco_mask.frPyObjects([outline.reshape(-1).tolist()], height, width)[0]
    return {"size": [height, width], "counts": rle["counts"].decode()}


def _box(outline: np.ndarray) -> list[float]:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _annotation(
    draw: np.random.Generator, outline: np.ndarray, height: int, width: int
) -> dict[str, Any]:
    rle = _rle(outline, height, width)
    crowd = int(draw.random() < 0.2)
    form: Any = [outline.round(2).reshape(-1).tolist()]
    if draw.random() < 0.2:
        form.append(_outline(draw, height, width).reshape(-1).tolist())
    if crowd or draw.random() < 0.2:
        form = rle
        if draw.random() < 0.5:
            flat = rle_to_bitmap(rle["counts"], height, width).T.reshape(-1)
            ends = np.flatnonzero(np.diff(flat.astype(int), prepend=0)).tolist()
            form = {"size": rle["size"], "counts": np.diff([0, *ends, flat.size]).tolist()}
    # Around the limits between small, medium and large, which the images are too small for.
    area = float(draw.choice([32**2, 96**2, 31.9**2, 1e5, draw.uniform(10, 12000)]))
    return {"iscrowd": crowd, "area": area, "bbox": _box(outline), "segmentation": form}


def _detection(
    draw: np.random.Generator, outline: np.ndarray, height: int, width: int
) -> dict[str, Any]:
    score = float(draw.choice([0.5, 0.25, round(draw.random(), 1), draw.random()]))
    return {"score": score, "bbox": _box(outline), "segmentation": _rle(outline, height, width)}
