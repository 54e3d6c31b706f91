"""What other programs computed on the images of ../shared/oracle, and how near one comes to it.

The programs differ from themselves between two convolution libraries by up to 0.1 px, 9e-4 in
score, a detection in 400 near a threshold, and a pixel or two on tiny masks; so may we.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from raymrcnn.structures import Detections

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Program:
    """Where its outputs are, and how its numbers read."""

    name: str  # of its weights in make_weights.py
    folder: str
    conventions: Literal["detectron", "detectron2"]
    extra_width: float  # what is missing from x2 and y2 to where a box ends
    first_label: int


PROGRAMS = (
    Program("maskrcnn_benchmark", "maskrcnn_benchmark_r50", "detectron", 1.0, 1),
    Program("detectron2", "detectron2_r50", "detectron2", 0.0, 0),
)


@dataclass(frozen=True)
class Expected:
    """What a program found in one image."""

    file: str
    boxes: Array  # [n, 4] XYXY, where they end; pixels of the original image
    scores: Array
    labels: Array  # 1 to 80
    masks: list[dict[str, Any]] | None  # compressed RLE


@dataclass(frozen=True)
class Nearness:
    """How near the detections of some images are."""

    missing: int
    extra: int
    box_px: Array  # the largest difference of a coordinate, a pair each
    score: Array
    mask_iou: Array


def make_weights(folder: Path, program: Program, out: Path) -> Path:
    """The seeded weights of a program, in its own format."""
    spec = importlib.util.spec_from_file_location("make_weights", folder / "make_weights.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = out / f"{program.name}.pth"
    module.main(program.name, str(path))
    return path


def images_of(folder: Path, program: Program) -> list[str]:
    """Names without ending of all images."""
    index = json.loads((folder / program.folder / "index.json").read_text())
    return sorted(name for name in index if not name.startswith("batch"))


def expected_of(folder: Path, program: Program, name: str) -> Expected:
    """Of one image alone."""
    found = json.loads((folder / program.folder / f"{name}.json").read_text())
    return _read(program, found["file"], found)


def expected_of_batch(folder: Path, program: Program) -> list[Expected]:
    """Of two images in one padded batch."""
    batch = json.loads((folder / program.folder / "batch_00_01.json").read_text())
    return [_read(program, file, found) for file, found in batch.items()]


def _read(program: Program, file: str, found: dict[str, Any]) -> Expected:
    boxes = np.array(found["boxes_xyxy"]).reshape(-1, 4)
    boxes[:, 2:] += program.extra_width
    if "bbox_xywh_coco" in found:  # what the program writes for COCO's scoring
        sides = np.array(found["bbox_xywh_coco"])
        np.testing.assert_allclose(sides[:, :2] + sides[:, 2:], boxes[:, 2:], atol=1e-3)
    labels = np.array(found["labels"]) + 1 - program.first_label
    return Expected(file, boxes, np.array(found["scores"]), labels, found.get("masks_rle"))


def nearness(pairs: Iterable[tuple[Detections, Expected]], categories: Sequence[int]) -> Nearness:
    """Match by label and overlap, and measure.

    Args:
        pairs: ours and theirs, an image each.
        categories: the category id of label 1, 2, ...
    """
    missing = extra = 0
    box_px, score, mask_iou = [], [], []
    for ours, theirs in pairs:
        labels = np.searchsorted(categories, ours.category_ids) + 1
        overlap = coco_mask.iou(_xywh(ours.boxes), _xywh(theirs.boxes), [0] * len(theirs.boxes))
        overlap = np.asarray(overlap) * (labels[:, None] == theirs.labels[None])
        matched = []
        for j in np.argsort(-theirs.scores):
            i = int(overlap[:, j].argmax())
            if overlap[i, j] >= 0.5:
                matched.append((i, j))
                overlap[i] = 0
        missing += len(theirs.scores) - len(matched)
        extra += len(ours.scores) - len(matched)
        for i, j in matched:
            box_px.append(np.abs(ours.boxes[i] - theirs.boxes[j]).max())
            score.append(abs(ours.scores[i] - theirs.scores[j]))
            if theirs.masks is not None:
                mask_iou.append(_mask_iou(ours, i, theirs.masks[j]))
    return Nearness(missing, extra, np.array(box_px), np.array(score), np.array(mask_iou))


def _mask_iou(ours: Detections, i: int, theirs: dict[str, Any]) -> float:
    if ours.rles[i] == theirs["counts"]:
        return 1.0  # also where both are empty
    size = [ours.height, ours.width]
    assert size == theirs["size"]
    mine = {"size": size, "counts": ours.rles[i].encode()}
    other = {"size": size, "counts": theirs["counts"].encode()}
    return float(coco_mask.iou([mine], [other], [0])[0, 0])


def _xywh(boxes: Array) -> Array:
    boxes = boxes.astype(np.float64)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1e-3), axis=1)


def assert_near(found: Nearness, tiny_masks: float = 0.01) -> None:
    """As near as a program is to itself; a share of masks, of few pixels, may differ by some."""
    number = len(found.score)
    assert found.missing <= 0.01 * number and found.extra <= 0.01 * number
    assert found.box_px.max() <= 0.1
    assert np.quantile(found.box_px, 0.99) <= 0.06
    assert found.score.max() <= 1e-3
    assert (found.mask_iou >= 0.965).mean() >= 1 - tiny_masks
    assert found.mask_iou.mean() >= 0.992
