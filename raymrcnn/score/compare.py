"""Two runs on the same images: how much better one is, and how sure that is.

Images are drawn anew with replacement, the same for both runs, and the scores of both computed
from what was drawn: the spread of their difference is that of an evaluation on other images of the
same kind. This module refuses runs that were scored on different images, and says nothing of
another training run with another seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from raymrcnn.score.matching import AREAS, Floats, Ints, Records
from raymrcnn.score.precision import PrecisionTable, summary
from raymrcnn.structures import Category

_MOST_THREADS = 8  # numpy works outside of Python's lock
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def compare(
    a: Records,
    b: Records,
    image_ids: Ints,
    categories: Sequence[Category],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of two runs, their differences, and intervals of those.

    Args:
        a: records of the one, joined.
        b: of the other.
        image_ids: of all images that count, detections or not.
        categories: all of them.
        resamples: how often images are drawn; 0: no intervals.
        seed: of the drawing.
        confidence: of the intervals, which are those of percentiles.
        progress: called with the number of resamples done and of all.

    Returns:
        "metrics": METRICS to entries; "per_category": entries with category_id, name and
        num_images (that have such objects), the largest difference first. An entry has "a", "b",
        "difference" (b - a) and, with resamples, "low", "high" and "b_better", the share of
        resamples in which b scores higher. None stands for what no object is there to tell.
    """
    images = np.unique(image_ids)
    order = sorted(categories, key=lambda category: category.id)
    tables = [
        [PrecisionTable(records, len(order), area, images) for area in AREAS] for records in (a, b)
    ]
    ones = np.ones(len(images))
    names = [*METRICS, *(f"category {category.id}" for category in order)]
    points = np.array([_numbers(of_run, ones) for of_run in tables])
    drawn = np.full((resamples, len(names)), np.nan)

    def resample(k: int) -> Floats:
        chosen = np.random.default_rng((seed, k)).integers(0, len(images), len(images))
        weights = np.bincount(chosen, minlength=len(images)).astype(np.float64)
        return _numbers(tables[1], weights) - _numbers(tables[0], weights)

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        for k, difference in enumerate(threads.map(resample, range(resamples))):
            drawn[k] = difference
            if progress:
                progress(k + 1, resamples)
    entries = {
        name: _entry(points[0, i], points[1, i], drawn[:, i], confidence)
        for i, name in enumerate(names)
    }
    seen = _images_of_categories(a, len(order))
    rows = [
        {
            "category_id": c.id,
            "name": c.name,
            "num_images": seen[k],
            **entries[f"category {c.id}"],
        }
        for k, c in enumerate(order)
        if entries[f"category {c.id}"]["difference"] is not None
    ]
    rows.sort(key=lambda row: -abs(row["difference"]))
    return {"metrics": {name: entries[name] for name in METRICS}, "per_category": rows}


def _images_of_categories(records: Records, num_categories: int) -> list[int]:
    """In how many images each category has objects."""
    pairs = np.unique(np.column_stack((records.object_category, records.object_image)), axis=0)
    counts: list[int] = np.bincount(pairs[:, 0], minlength=num_categories).tolist()
    return counts


def _numbers(tables: Sequence[PrecisionTable], weights: Floats) -> Floats:
    """METRICS and the AP of each category."""
    found = [table.average_precision(weights) for table in tables]
    sizes = [summary(table)["AP"] for table in found[1:]]
    categories = found[0].mean(axis=0)
    return np.array([*summary(found[0]).values(), *sizes, *categories])


def _entry(a: float, b: float, drawn: Floats, confidence: float) -> dict[str, Any]:
    entry = {"a": _known(a), "b": _known(b), "difference": _known(b - a)}
    known = drawn[~np.isnan(drawn)]
    if len(drawn):
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        better = float((known > 0).mean()) if len(known) else np.nan
        entry |= {"low": _known(low), "high": _known(high), "b_better": _known(better)}
    return entry


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
