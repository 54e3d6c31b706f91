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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from raymrcnn.score import check, lvis
from raymrcnn.score.breakdown import breakdown
from raymrcnn.score.matching import ImageInput, Records, match_image
from raymrcnn.score.scores import LVIS_METRICS, METRICS, Scores, numbers
from raymrcnn.score.scores import curves as curves_of
from raymrcnn.structures import Category

__all__ = ["IOU_TYPES", "LVIS_METRICS", "METRICS", "Matcher", "Scores", "match_shard", "merge"]

IOU_TYPES = ("bbox", "segm")
_COUNTS = "counts"
_RECORDS = "records-"  # and the type: a key of a state
Array = npt.NDArray[np.float64]
Entries = list[dict[str, Any]]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]


class Matcher:
    """Matches images as they come; what it found is a small state to be merged.

    Args:
        categories: all of them, the same for all states that will be merged.
        iou_types: "bbox", "segm" or both.
        detail: keep records of single detections too, for `Scores.detail` and `records_of`.
        skip_bad: leave annotations whose mask is missing or malformed out of what is matched by
            mask (their boxes count), and list them in `Scores.skipped`, instead of refusing.
        frequencies: "r", "c" or "f" of each category: score as LVIS does, not as COCO.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        iou_types: Sequence[str] = IOU_TYPES,
        *,
        detail: bool = False,
        skip_bad: bool = False,
        frequencies: Mapping[int, str] | None = None,
    ) -> None:
        assert set(iou_types) <= set(IOU_TYPES)
        self._categories = {c.id: c.name for c in categories}
        self._frequencies = dict(frequencies or {})
        listed: Entries = [{"id": c.id, "name": c.name} for c in categories]
        if self._frequencies:
            listed = [{**c, "frequency": self._frequencies[c["id"]]} for c in listed]
        self._matchers = {
            kind: hotcoco.StreamingEval(listed, kind, lvis_style=bool(self._frequencies))
            for kind in iou_types
        }
        self._records: dict[str, list[Records]] = {k: [] for k in iou_types if detail}
        self._place = {k: i for i, k in enumerate(sorted(self._categories))}
        self._skipped: list[int] | None = [] if skip_bad else None
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
            kept = self._judged(images, annotations, found, boxes[:, 2] * boxes[:, 3])
            chosen, boxes = _chosen(found, kept), boxes[kept]
            self._matchers["bbox"].update(
                images, [_without_mask(a) for a in annotations], _as_table(chosen, boxes)
            )
            self._record("bbox", images, annotations, chosen, boxes)
        if "segm" in self._matchers:
            masked = check.truth_with_masks(annotations, sizes, truth, self._skipped)
            check.check_masks(detections, sizes, where)
            masks = [d["segmentation"] for d in detections]
            kept = self._judged(images, annotations, found, _mask_areas(masks))
            boxless = [_without_box(detections[i]) for i in kept]
            self._matchers["segm"].update(images, masked, boxless)
            shapes = [masks[i] for i in kept]
            self._record("segm", images, masked, _chosen(found, kept), shapes)
        self._num_images += len(images)
        self._num_detections += len(detections)
        self._objects.update(a["category_id"] for a in annotations if not a.get("iscrowd"))

    def state(self) -> dict[str, bytes]:
        """What was found so far, to be given to `merge`.

        About 400 bytes an image and type, and with detail 45 a detection and type.
        """
        counts = {
            "categories": list(self._categories.items()),
            "num_images": self._num_images,
            "num_detections": self._num_detections,
            "objects": list(self._objects.items()),
            "skipped": self._skipped or [],
            "frequencies": list(self._frequencies.items()),
        }
        states = {kind: matcher.to_bytes() for kind, matcher in self._matchers.items()}
        for kind, records in self._records.items():
            empty = [] if records else [_no_records()]
            states[_RECORDS + kind] = Records.join(records + empty).to_bytes()
        return {**states, _COUNTS: json.dumps(counts).encode()}

    def _judged(
        self, images: Entries, annotations: Entries, found: Found, areas: Array
    ) -> npt.NDArray[np.int64]:
        """The places of the detections to match: all of them, but for LVIS."""
        if not self._frequencies:
            return np.arange(len(areas))
        # lvis-api never sees a detection without area.
        return np.flatnonzero(lvis.judged(images, annotations, *found) & (areas > 0))

    def _record(
        self, kind: str, images: Entries, annotations: Entries, found: Found, shapes: Any
    ) -> None:
        """Match each image once more, keeping what became of each detection."""
        if kind not in self._records:
            return
        image_ids, category_ids, scores = found
        of_image: dict[int, list[int]] = defaultdict(list)
        for i, image_id in enumerate(image_ids.tolist()):
            of_image[image_id].append(i)
        truth_of: dict[int, Entries] = defaultdict(list)
        for annotation in annotations:
            truth_of[annotation["image_id"]].append(annotation)
        places = np.array([self._place[k] for k in category_ids.tolist()], np.int32)
        partly = lvis.not_exhaustive(images) if self._frequencies else {}
        for image in images:
            mine, truth = of_image.get(image["id"], []), truth_of.get(image["id"], [])
            overlaps, areas = _overlaps(kind, [shapes[i] for i in mine], truth, image)
            given = ImageInput(
                image_id=image["id"],
                overlaps=overlaps,
                categories=places[mine],
                scores=scores[mine],
                areas=areas,
                true_categories=np.array([self._place[a["category_id"]] for a in truth], np.int32),
                true_areas=np.array([a["area"] for a in truth], np.float64),
                crowds=np.array([bool(a.get("iscrowd")) for a in truth], np.bool_),
                num_categories=len(self._place),
                lenient=np.isin(category_ids[mine], list(partly.get(image["id"], ()))),
                most=lvis.MAX_DETECTIONS if self._frequencies else 100,
            )
            self._records[kind].append(match_image(given))


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
    category_ids = _category_ids(shards[0])
    detail = {
        kind: breakdown(records_of(shards, kind), category_ids)
        for kind in IOU_TYPES
        if _RECORDS + kind in shards[0]
    }
    counts = [json.loads(shard[_COUNTS]) for shard in shards]
    objects: Counter[int] = Counter()
    for count in counts:
        objects.update(dict(count["objects"]))
    categories = [(k, name) for k, name in sorted(counts[0]["categories"])]
    frequencies = dict(counts[0]["frequencies"])
    groups = [frequencies.get(k, "") for k, _ in categories]
    metrics, per_category, curves = {}, {}, {}
    for kind in (k for k in IOU_TYPES if k in shards[0]):
        merged = hotcoco.StreamingEval.merge(
            hotcoco.StreamingEval.from_bytes(shard[kind]) for shard in shards
        ).finalize()
        merged.accumulate()
        arrays: Any = merged.eval
        precision = np.asarray(arrays["precision"])  # [10, 101, categories, 4, 3]
        recall = np.asarray(arrays["recall"])  # [10, categories, 4, 3]
        metrics[kind] = numbers(precision, recall, groups)
        per_category[kind] = [
            {
                "category_id": k,
                "name": name,
                "num_objects": objects[k],
                **({"frequency": groups[i]} if groups[i] else {}),
                **numbers(precision[:, :, [i]], recall[:, [i]], groups[i : i + 1]),
            }
            for i, (k, name) in enumerate(categories)
        ]
        curves[kind] = curves_of(precision[..., 0, -1], [k for k, _ in categories])
    return Scores(
        metrics=metrics,
        per_category=per_category,
        precision_recall=curves,
        num_images=sum(count["num_images"] for count in counts),
        num_detections=sum(count["num_detections"] for count in counts),
        num_objects=objects.total(),
        detail=detail,
        skipped=skipped_of(shards),
    )


def records_of(states: Sequence[dict[str, bytes]], kind: str) -> Records:
    """The records of all images of states that were made with detail, for one type."""
    return Records.join([Records.from_bytes(state[_RECORDS + kind]) for state in states])


def skipped_of(states: Iterable[dict[str, bytes]]) -> list[int]:
    """The annotations that were left out for want of a usable mask, by id, sorted, each once."""
    return sorted({i for state in states for i in json.loads(state[_COUNTS])["skipped"]})


def types_of(state: dict[str, bytes]) -> set[str]:
    """The types, "bbox" and "segm", that a state is about."""
    return {kind for kind in IOU_TYPES if kind in state}


def _category_ids(state: dict[str, bytes]) -> list[int]:
    return sorted(k for k, _ in json.loads(state[_COUNTS])["categories"])


def _overlaps(
    kind: str, shapes: list[Any], truth: Entries, image: dict[str, Any]
) -> tuple[Array, Array]:
    """IoU of detections with annotations (with a crowd: the share inside it), and areas."""
    crowds = [bool(a.get("iscrowd")) for a in truth]
    if kind == "bbox":
        boxes = np.array(shapes, np.float64).reshape(-1, 4)
        true_boxes = np.array([a["bbox"] for a in truth], np.float64).reshape(-1, 4)
        return hotcoco.primitives.bbox_iou(boxes, true_boxes, crowds), boxes[:, 2] * boxes[:, 3]
    areas = _mask_areas(shapes)
    if not shapes or not truth:
        return np.zeros((len(shapes), len(truth))), areas
    masks = [_run_lengths(a["segmentation"], image) for a in truth]
    return hotcoco.primitives.mask_iou(shapes, masks, crowds), areas


def _mask_areas(masks: list[Any]) -> Array:
    return np.array(hotcoco.mask.area(masks) if masks else [], np.float64)


def _chosen(found: Found, kept: npt.NDArray[np.int64]) -> Found:
    image_ids, category_ids, scores = found
    return image_ids[kept], category_ids[kept], scores[kept]


def _run_lengths(mask: Any, image: dict[str, Any]) -> Any:
    if isinstance(mask, dict):
        return mask
    return hotcoco.mask.merge(hotcoco.mask.fr_py_objects(mask, image["height"], image["width"]))


def _no_records() -> Records:
    """Those of no image."""
    none, places = np.zeros(0), np.zeros(0, np.int32)
    return match_image(
        ImageInput(
            image_id=0,
            overlaps=np.zeros((0, 0)),
            categories=places,
            scores=none,
            areas=none,
            true_categories=places,
            true_areas=none,
            crowds=none.astype(np.bool_),
            num_categories=0,
            lenient=none.astype(np.bool_),
            most=1,
        )
    )


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
