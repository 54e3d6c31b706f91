"""What an evaluation found, and how its numbers come from arrays of precision and recall.

This module refuses to match and to read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn.score import lvis

METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
# LVIS's numbers in its own order: APr, APc and APf are of rare, common and frequent categories.
LVIS_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR300", "ARs", "ARm", "ARl"),
)
_IOU_50, _IOU_75 = 0, 5  # places among .50, .55, ..., .95
_MAX_DETECTIONS = {"1": 0, "10": 1}  # the last one otherwise
_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation found; -1 where there is no ground truth to say."""

    metrics: dict[str, dict[str, float]]  # "bbox", "segm": METRICS in order, or LVIS_METRICS
    per_category: dict[str, list[dict[str, Any]]]  # category_id, name, num_objects, METRICS
    # "recall": [101]; "precision": {"0.50", "0.75"}: [101] each, mean over categories;
    # "per_category": {"0.50": {category id: [101]}}, to four digits.
    precision_recall: dict[str, dict[str, Any]]
    num_images: int
    num_detections: int
    num_objects: int  # crowds not counted
    # Of each type, where asked for: "errors", "calibration", "confusion"; see `breakdown`.
    detail: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  # annotations without a usable mask, by id
    annotations: str = ""  # SHA-256 of the annotation file, where it is known
    notes: list[str] = field(default_factory=list)  # what else is to be known of the scores

    def to_json(self) -> dict[str, Any]:
        """The document of `scores.json`."""
        return {
            **self.metrics,
            "per_category": self.per_category,
            "precision_recall": self.precision_recall,
            "num_images": self.num_images,
            "num_detections": self.num_detections,
            "num_objects": self.num_objects,
            **({"detail": self.detail} if self.detail else {}),
            **({"skipped_annotations": self.skipped} if self.skipped else {}),
            **({"annotations": self.annotations} if self.annotations else {}),
            **({"notes": self.notes} if self.notes else {}),
        }


def numbers(precision: Array, recall: Array, groups: list[str]) -> dict[str, float]:
    """METRICS, or LVIS_METRICS; means are taken over the same values in the same order as there.

    Args:
        precision: [10, 101, categories, 4, limits of detections].
        recall: [10, categories, 4, limits of detections].
        groups: of each category its frequency, or "".
    """
    found = {}
    for name in LVIS_METRICS if any(groups) else METRICS:
        kind, rest = name[:2], name[2:]
        area = _AREAS.get(rest, 0)
        if rest in lvis.FREQUENCIES:
            values = precision[:, :, [g == rest for g in groups], 0, -1]
        elif kind == "AP":
            values = precision[..., area, -1]
            values = values[{"50": [_IOU_50], "75": [_IOU_75]}.get(rest, slice(None))]
        else:
            values = recall[..., area, _MAX_DETECTIONS.get(rest, -1)]
        known = values[values > -1]
        found[name] = float(np.mean(known)) if len(known) else -1.0
    return found


def curves(precision: Array, category_ids: list[int]) -> dict[str, Any]:
    """Precision over recall, of [10, 101, categories], mean and of each category."""
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
