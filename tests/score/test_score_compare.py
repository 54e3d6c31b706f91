"""Two runs compared: whose intervals hold the truth, and what refuses to be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up_scores import make

from raymrcnn.score.coco import Matcher, merge, records_of
from raymrcnn.score.compare import METRICS, compare
from raymrcnn.score.table import comparison_tables


def _run(seed: int, num_images: int, jitter: float) -> tuple[Any, Any, Any]:
    """Truth, records and scores of detections whose scores were disturbed."""
    truth, detections = make(seed, num_images)
    draw = np.random.default_rng(1)
    noisy = [{**d, "score": d["score"] + jitter * float(draw.random())} for d in detections]
    matcher = Matcher(truth.categories, ["segm"], detail=True)
    matcher.update(truth.images, truth.annotations, noisy)
    return truth, records_of([matcher.state()], "segm"), merge([matcher.state()])


def test_differences_are_those_of_the_scores_and_intervals_hold_them() -> None:
    truth, a, of_a = _run(3, 40, 5.0)
    _, b, of_b = _run(3, 40, 0.0)
    found = compare(a, b, truth.image_ids, truth.categories, resamples=200, seed=4)
    assert list(found["metrics"]) == list(METRICS)
    for name, entry in found["metrics"].items():
        x, y = of_a.metrics["segm"][name], of_b.metrics["segm"][name]
        assert entry["a"] == pytest.approx(x)
        assert entry["b"] == pytest.approx(y)
        assert entry["difference"] == pytest.approx(y - x)
        assert entry["low"] <= entry["high"]
    ap = found["metrics"]["AP"]
    assert ap["low"] < ap["difference"] < ap["high"]
    rows = found["per_category"]
    assert [r["category_id"] for r in sorted(rows, key=lambda r: -abs(r["difference"]))] == [
        r["category_id"] for r in rows
    ]
    again = compare(a, b, truth.image_ids, truth.categories, resamples=200, seed=4)
    assert again == found
    other = compare(a, b, truth.image_ids, truth.categories, resamples=200, seed=5)
    assert other["metrics"]["AP"]["low"] != ap["low"]


def test_a_resample_is_an_evaluation_of_the_images_that_were_drawn() -> None:
    truth, a, _ = _run(5, 9, 0.0)
    found = compare(a, a, truth.image_ids, truth.categories, resamples=20)
    for entry in [*found["metrics"].values(), *found["per_category"]]:
        assert entry["difference"] in (0.0, None)
        assert entry["low"] in (0.0, None)
        assert entry["b_better"] in (0.0, None)


def test_the_interval_of_ap_has_the_spread_of_new_images() -> None:
    """Resampling one set of images spreads as drawing many such sets does."""
    differences = []
    for seed in range(60):
        truth, a, of_a = _run(seed + 500, 30, 5.0)
        _, b, of_b = _run(seed + 500, 30, 0.0)
        if seed == 0:
            entry = compare(a, b, truth.image_ids, truth.categories, resamples=300)["metrics"]["AP"]
        differences.append(of_b.metrics["segm"]["AP"] - of_a.metrics["segm"]["AP"])
    spread = np.quantile(differences, 0.975) - np.quantile(differences, 0.025)
    assert 0.4 < (entry["high"] - entry["low"]) / spread < 2.5


def test_without_resamples_there_are_differences_alone() -> None:
    truth, a, _ = _run(6, 6, 0.0)
    found = compare(a, a, truth.image_ids, truth.categories, resamples=0)
    assert set(found["metrics"]["AP"]) == {"a", "b", "difference"}
    document = {"confidence": 0.95, "segm": found}
    (title, rows), *_ = comparison_tables(document)
    assert title == "Mask scores"
    assert rows[1][0] == "AP"
