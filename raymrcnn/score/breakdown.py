"""What the errors of a model are, which categories it confuses, and whether its scores tell truth.

Everything is at an IoU of 0.5 and over objects of all sizes. This module refuses to match; see
`matching` for what a record says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raymrcnn.score.matching import (
    BKG,
    BOTH,
    CLS,
    CONFIDENT,
    DUPE,
    LOC,
    MATCH_IOU,
    Bools,
    Floats,
    Ints,
    Records,
)

ERRORS = {"Cls": CLS, "Loc": LOC, "Both": BOTH, "Dupe": DUPE, "Bkg": BKG}
NUM_BINS = 10
_RECALLS = np.linspace(0.0, 1.0, 101)


def breakdown(records: Records, category_ids: Sequence[int]) -> dict[str, Any]:
    """The three documents below, of joined records; `category_ids` are sorted."""
    return {
        "errors": error_breakdown(records, len(category_ids)),
        "calibration": calibration(records, category_ids),
        "confusion": confusion(records, category_ids),
    }


def error_breakdown(records: Records, num_categories: int) -> dict[str, Any]:
    """How much AP at an IoU of 0.5 would rise if errors of one kind were corrected.

    Cls: the right place, the wrong category. Loc: the right category, an IoU between 0.1 and 0.5.
    Both: neither. Dupe: a second detection of an object. Bkg: on no object. Miss: an object that
    no detection would find, corrected. FP: all wrong detections behind all right ones. FN: all
    objects that were not found taken away.

    Returns:
        "AP50", and for each kind "delta" (of AP50) and "count" (none for FP and FN).

    Source: Bolya et al., TIDE, ECCV 2020; the numbers are those of its package tidecv, with COCO's
    limit of 100 detections a category in place of 100 an image.
    """
    missed = ~records.object_found
    objects = _of_category(records, np.ones(len(missed), np.bool_), num_categories)
    right = (records.hit & 1) == 1
    counts = (records.ignored & 1) == 0
    mended = records.mended >= 0

    def ap50(category: Any, score: Floats, is_right: Bools, kept: Bools, wanted: Floats) -> float:
        return _ap(category[kept], score[kept], is_right[kept], wanted, objects > 0)

    base = ap50(records.category, records.score, right, counts, objects)
    found: dict[str, Any] = {"AP50": base}
    for name, kind in ERRORS.items():
        of_kind = records.error == kind
        corrected = of_kind & mended
        category = np.where(corrected, records.mended, records.category)
        kept = (counts & ~of_kind) | corrected
        ap = ap50(category, records.score, right | corrected, kept, objects)
        found[name] = {"delta": max(ap - base, 0.0), "count": int(of_kind.sum())}
    gone = _of_category(records, missed & ~records.object_near, num_categories)
    ap = ap50(records.category, records.score, right, counts, objects - gone)
    found["Miss"] = {"delta": max(ap - base, 0.0), "count": int(gone.sum())}
    ap = ap50(records.category, right.astype(np.float64), right, counts, objects)
    found["FP"] = {"delta": ap - base}
    gone = _of_category(records, missed, num_categories)
    ap = ap50(records.category, records.score, right, counts, objects - gone)
    found["FN"] = {"delta": ap - base}
    return found


def calibration(records: Records, category_ids: Sequence[int]) -> dict[str, Any]:
    """How far scores are from the share of detections that are right.

    Returns:
        "ece": the mean over detections of the gap between the mean score and the share that is
        right in their bin; "mce": the largest gap; "num_detections"; "bins": "low", "high",
        "count", "score" (mean), "right" (share) each; "per_category": by id, the ece.
    """
    counts = (records.ignored & 1) == 0
    score, right = records.score[counts], (records.hit[counts] & 1) == 1
    place = np.clip((score * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    ece, mce, bins = _reliability(place, score, right)
    per_category = {}
    category = records.category[counts]
    for k in np.unique(category).tolist():
        own = category == k
        per_category[str(category_ids[k])] = _reliability(place[own], score[own], right[own])[0]
    return {
        "ece": ece,
        "mce": mce,
        "num_detections": len(score),
        "bins": bins,
        "per_category": per_category,
    }


def confusion(records: Records, category_ids: Sequence[int]) -> dict[str, Any]:
    """Which categories are taken for which, over detections with a score of at least 0.5.

    Returns:
        "min_score", "iou", and "pairs", most frequent first: "truth" and "predicted" are category
        ids, or None for background (an object not found, a detection of nothing); "count".
    """
    ids: list[int | None] = [*category_ids, None]
    order = np.lexsort((*records.confusion[:, 1::-1].T, -records.confusion[:, 2]))
    pairs = [
        {"truth": ids[g], "predicted": ids[d], "count": n}
        for g, d, n in records.confusion[order].tolist()
    ]
    return {"min_score": CONFIDENT, "iou": MATCH_IOU, "pairs": pairs}


def _of_category(records: Records, chosen: Bools, num_categories: int) -> Floats:
    """How many of the chosen objects each category has."""
    counts = np.bincount(records.object_category[chosen], minlength=num_categories)
    return counts.astype(np.float64)


def _reliability(
    place: Ints, score: Floats, right: Bools
) -> tuple[float, float, list[dict[str, Any]]]:
    count = np.bincount(place, minlength=NUM_BINS)
    some = np.maximum(count, 1)
    mean = np.bincount(place, score, NUM_BINS) / some
    share = np.bincount(place, right, NUM_BINS) / some
    gap = np.abs(mean - share)
    bins = [
        {"low": k / NUM_BINS, "high": (k + 1) / NUM_BINS, "count": n, "score": m, "right": s}
        for k, (n, m, s) in enumerate(
            zip(count.tolist(), mean.tolist(), share.tolist(), strict=True)
        )
    ]
    return float((gap * count).sum() / max(len(score), 1)), float(gap.max()), bins


def _ap(category: Any, score: Floats, right: Bools, wanted: Floats, known: Bools) -> float:
    """Mean AP over the known categories, given how many objects each has."""
    order = np.lexsort((-score, category))
    category, right = category[order], right[order]
    starts = np.searchsorted(category, np.arange(len(wanted) + 1))
    total = 0.0
    for k in np.flatnonzero(known):
        true = np.cumsum(right[starts[k] : starts[k + 1]])
        if not len(true) or wanted[k] <= 0:
            continue
        precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
        place = np.searchsorted(true / wanted[k], _RECALLS)
        total += precision[place[place < len(true)]].sum() / len(_RECALLS)
    return float(total / max(int(known.sum()), 1))
