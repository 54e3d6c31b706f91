"""COCO's scores: images are matched in shards, anywhere and in any order, and merged once.

The numbers are pycocotools' to the last bit. Two things are decided here that pycocotools leaves
to its caller or gets wrong:

- Masks are scored by the area of the mask. Results that carry a box as well would be sorted into
  small, medium and large by the box (pycocotools' `loadRes`), so they are matched without it, as
  torchvision's, detectron2's and maskrcnn-benchmark's own evaluations do.
- An annotation of id 0 is matched like any other. pycocotools takes 0 for "not matched"; its
  numbers are ours where the ids are moved up by one.

This module refuses to read files (`files`) and to know Ray (`on_ray`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from raymrcnn.score import check
from raymrcnn.structures import Category

IOU_TYPES = ("bbox", "segm")
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
_COUNTS = "counts"
_IOU_50, _IOU_75 = 0, 5  # places among .50, .55, ..., .95
_MAX_DETECTIONS = {"1": 0, "10": 1, "100": 2}
_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation found; -1 where there is no ground truth to say."""

    metrics: dict[str, dict[str, float]]  # "bbox", "segm": METRICS in order
    per_category: dict[str, list[dict[str, Any]]]  # category_id, name, num_objects, METRICS
    # "recall": [101]; "precision": {"0.50", "0.75"}: [101] each, mean over categories;
    # "per_category": {"0.50": {category id: [101]}}, to four digits.
    precision_recall: dict[str, dict[str, Any]]
    num_images: int
    num_detections: int
    num_objects: int  # crowds not counted

    def to_json(self) -> dict[str, Any]:
        """The document of `scores.json`."""
        return {
            **self.metrics,
            "per_category": self.per_category,
            "precision_recall": self.precision_recall,
            "num_images": self.num_images,
            "num_detections": self.num_detections,
            "num_objects": self.num_objects,
        }


class Matcher:
    """Matches images as they come; what it found is a small state to be merged.

    Args:
        categories: all of them, the same for all states that will be merged.
        iou_types: "bbox", "segm" or both.
    """

    def __init__(
        self, categories: Sequence[Category], iou_types: Sequence[str] = IOU_TYPES
    ) -> None:
        assert set(iou_types) <= set(IOU_TYPES)
        self._categories = {c.id: c.name for c in categories}
        listed = [{"id": c.id, "name": c.name} for c in categories]
        self._matchers = {kind: hotcoco.StreamingEval(listed, kind) for kind in iou_types}
        self._num_images = self._num_detections = 0
        self._objects: Counter[int] = Counter()

    def update(
        self,
        images: list[dict[str, Any]],
        annotations: list[dict[str, Any]],
        detections: list[dict[str, Any]],
        where: str = "detections",
        truth: str = "ground truth",
    ) -> None:
        """Match whole images: everything that is known of them comes in one call.

        Args:
            images: id, height, width each.
            annotations: of these images, as in COCO's files.
            detections: of these images, as in COCO's results: image_id, category_id, score,
                bbox [x, y, width, height] in pixels, segmentation as compressed RLE.
            where: what an error about a detection names as its place.
            truth: what an error about an annotation names as its place.

        Raises:
            DataError: anything is missing, malformed, or belongs to no image or category.
        """
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        check.check_truth(annotations, sizes, truth)
        found = check.check_detections(detections, sizes, set(self._categories), where)
        if "bbox" in self._matchers:
            boxes = check.boxes_of(detections, where)
            self._matchers["bbox"].update(
                images, [_without_mask(a) for a in annotations], _as_table(found, boxes)
            )
        if "segm" in self._matchers:
            masked = check.truth_with_masks(annotations, sizes, truth)
            check.check_masks(detections, sizes, where)
            self._matchers["segm"].update(images, masked, [_without_box(d) for d in detections])
        self._num_images += len(images)
        self._num_detections += len(detections)
        self._objects.update(a["category_id"] for a in annotations if not a.get("iscrowd"))

    def state(self) -> dict[str, bytes]:
        """What was found so far, to be given to `merge`; about 400 bytes an image and type."""
        counts = {
            "categories": list(self._categories.items()),
            "num_images": self._num_images,
            "num_detections": self._num_detections,
            "objects": list(self._objects.items()),
        }
        states = {kind: matcher.to_bytes() for kind, matcher in self._matchers.items()}
        return {**states, _COUNTS: json.dumps(counts).encode()}


def match_shard(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    categories: Sequence[Category],
    iou_types: Sequence[str] = IOU_TYPES,
) -> dict[str, bytes]:
    """The state of one `Matcher.update`; raises as it does."""
    matcher = Matcher(categories, iou_types)
    matcher.update(images, annotations, detections)
    return matcher.state()


def merge(states: Iterable[dict[str, bytes]]) -> Scores:
    """The scores of all images of all states, of which no two may have an image in common."""
    shards = list(states)
    assert shards
    counts = [json.loads(shard[_COUNTS]) for shard in shards]
    objects: Counter[int] = Counter()
    for count in counts:
        objects.update(dict(count["objects"]))
    categories = [(k, name) for k, name in sorted(counts[0]["categories"])]
    metrics, per_category, curves = {}, {}, {}
    for kind in (k for k in IOU_TYPES if k in shards[0]):
        merged = hotcoco.StreamingEval.merge(
            hotcoco.StreamingEval.from_bytes(shard[kind]) for shard in shards
        ).finalize()
        merged.accumulate()
        arrays: Any = merged.eval
        precision = np.asarray(arrays["precision"])  # [10, 101, categories, 4, 3]
        recall = np.asarray(arrays["recall"])  # [10, categories, 4, 3]
        metrics[kind] = _twelve(precision, recall)
        per_category[kind] = [
            {
                "category_id": k,
                "name": name,
                "num_objects": objects[k],
                **_twelve(precision[:, :, [i]], recall[:, [i]]),
            }
            for i, (k, name) in enumerate(categories)
        ]
        curves[kind] = _curves(precision[..., 0, 2], [k for k, _ in categories])
    return Scores(
        metrics=metrics,
        per_category=per_category,
        precision_recall=curves,
        num_images=sum(count["num_images"] for count in counts),
        num_detections=sum(count["num_detections"] for count in counts),
        num_objects=objects.total(),
    )


def _twelve(precision: Array, recall: Array) -> dict[str, float]:
    """COCO's twelve numbers; means are taken over the same values in the same order."""
    found = {}
    for name in METRICS:
        kind, rest = name[:2], name[2:]
        area = _AREAS.get(rest, 0)
        if kind == "AP":
            values = precision[..., area, 2]
            values = values[{"50": [_IOU_50], "75": [_IOU_75]}.get(rest, slice(None))]
        else:
            values = recall[..., area, _MAX_DETECTIONS.get(rest, 2)]
        known = values[values > -1]
        found[name] = float(np.mean(known)) if len(known) else -1.0
    return found


def _curves(precision: Array, category_ids: list[int]) -> dict[str, Any]:
    """Precision over recall, of [10, 101, categories]."""
    known = precision[_IOU_50, 0] > -1
    mean = {
        name: precision[i][:, known].mean(axis=1).tolist() if known.any() else [-1.0] * 101
        for name, i in (("0.50", _IOU_50), ("0.75", _IOU_75))
    }
    single = {
        str(k): precision[_IOU_50, :, i].round(4).tolist()
        for i, k in enumerate(category_ids)
        if known[i]
    }
    recall = np.linspace(0, 1, 101).round(2).tolist()
    return {"recall": recall, "precision": mean, "per_category": {"0.50": single}}


def _as_table(found: tuple[Any, Any, Any], boxes: Array) -> Any:
    """Detections as rows of numbers, three times as fast to read as dictionaries."""
    image_ids, category_ids, scores = found
    if len(scores) == 0 or max(image_ids.max(), category_ids.max()) < 2**53:
        return np.column_stack((image_ids, boxes.reshape(-1, 4), scores, category_ids))
    columns = (image_ids.tolist(), category_ids.tolist(), boxes.tolist(), scores.tolist())
    return [
        {"image_id": i, "category_id": c, "bbox": b, "score": s}
        for i, c, b, s in zip(*columns, strict=True)
    ]


def _without_mask(annotation: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in annotation.items() if k != "segmentation"}


def _without_box(detection: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in detection.items() if k != "bbox"}
