"""The accuracy part of the page: COCO's numbers, precision over recall, categories, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymrcnn.report.cells import bar, sparkline
from raymrcnn.report.charts import Line, histogram, line_chart, ranked_bars
from raymrcnn.report.collect import NUM_SCORE_BINS, Predictions, mapping, per_category
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section, as_float, count, grouped, score, table
from raymrcnn.report.quality import CONFIDENT, Ranking
from raymrcnn.report.sortable import filtered_table, sort_head

KINDS = {"segm": "Masks", "bbox": "Boxes"}
_SINGULAR = {"segm": "Mask", "bbox": "Box"}
METRICS = {
    "AP": "IoU .50 to .95",
    "AP50": "IoU .50",
    "AP75": "IoU .75",
    "APs": "small, under 32² px",
    "APm": "medium, under 96² px",
    "APl": "large",
    "APr": "rare categories",
    "APc": "common categories",
    "APf": "frequent categories",
    "AR1": "1 detection an image",
    "AR10": "10 detections an image",
    "AR100": "100 detections an image",
    "AR300": "300 detections an image",
    "ARs": "small",
    "ARm": "medium",
    "ARl": "large",
}
_MAX_COUNT_BARS = 50


def accuracy_section(predictions: Predictions | None) -> Section:
    """The twelve numbers for masks and boxes, and precision over recall."""
    key, title = "accuracy", "Accuracy"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    kinds = [kind for kind in KINDS if mapping(predictions.scores.get(kind))]
    if not kinds:
        why = "the predictions have no scores.json (`raymrcnn score` writes it)"
        return Section(key=key, title=title, why_absent=why)
    curves = mapping(predictions.scores.get("precision_recall"))
    charts = [_precision_recall(mapping(curves.get(kind)), kind) for kind in kinds]
    body = el(
        "div",
        _coco_table({kind: mapping(predictions.scores[kind]) for kind in kinds}),
        el("div", *charts, class_="stack"),
        class_="grid accuracy",
    )
    lead = "COCO's twelve numbers: AP is average precision, AR average recall, over all categories."
    return Section(key=key, title=title, body=markup(el("p", lead, class_="lead"), body))


def category_section(
    predictions: Predictions | None,
    names: Mapping[int, str],
    objects: Mapping[int, int],
    most_rows: int,
) -> Section:
    """AP of each category, as a chart and a table to sort.

    Args:
        predictions: with scores, or the section is left out.
        names: category ids to names.
        objects: annotated objects by category id, empty if that is not known.
        most_rows: of the table; those with the most objects stay.
    """
    key, title = "categories", "Categories"
    rows: dict[int, dict[str, Any]] = {}
    scores = {} if predictions is None else mapping(predictions.scores.get("per_category"))
    for kind in KINDS:
        for row in per_category(scores, kind):
            if isinstance(row.get("category_id"), int):
                rows.setdefault(row["category_id"], {})[kind] = row
    if predictions is None or not rows:
        why = "no scores for each category are there"
        return Section(key=key, title=title, why_absent=why)
    named = {k: names.get(k, f"category {k}") for k in rows}
    first = next(kind for kind in KINDS if any(kind in row for row in rows.values()))
    ranked = [
        (named[k], value)
        for k, row in rows.items()
        if (value := as_float(mapping(row.get(first)).get("AP"))) >= 0
    ]
    chart = Markup()
    if len(ranked) > 1:
        chart = ranked_bars(
            ranked,
            title=f"AP of each category, {KINDS[first].lower()}",
            note=f"{len(ranked)} categories, best first",
            x_label="category",
        )
    known = {k: n for k, row in rows.items() if (n := _num_objects(row)) is not None}
    counts = {**objects, **known}
    rows = {k: rows[k] for k in sorted(rows, key=lambda k: -counts.get(k, 0))[:most_rows]}
    curves = mapping(mapping(predictions.scores.get("precision_recall")).get(first))
    table_ = _category_table(
        rows,
        named,
        counts,
        predictions.per_category,
        mapping(mapping(curves.get("per_category")).get("0.50")),
    )
    body = markup(chart, table_)
    return Section(key=key, title=title, body=body)


def detections_section(predictions: Predictions | None, ranking: Ranking | None) -> Section:
    """Histograms: scores, detections an image, quality of images."""
    key, title = "detections", "Detections"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    if not predictions.num_detections:
        return Section(key=key, title=title, why_absent="nothing was detected in any image")
    charts = [_score_histogram(predictions), _count_histogram(predictions)]
    if ranking is not None and len(ranking.qualities):
        charts.append(_quality_histogram(ranking))
    lead = (
        f"{count(predictions.num_detections, 'detection')} in "
        f"{count(len(predictions.image_ids), 'image')}."
    )
    grid = el("div", *charts, class_="grid three")
    return Section(key=key, title=title, body=markup(el("p", lead, class_="lead"), grid))


def _coco_table(kinds: Mapping[str, Mapping[str, Any]]) -> Markup:
    head = [el("th", "Measure", scope="col")]
    head += [el("th", KINDS[kind], scope="col", class_="num") for kind in kinds]
    rows = []
    for name, meaning in METRICS.items():
        if not any(name in numbers for numbers in kinds.values()):
            continue  # COCO's or LVIS's
        label = el("div", el("b", name), el("small", meaning))
        cells = [el("th", label, scope="row")]
        for style, numbers in zip(("s1", "s2"), kinds.values(), strict=False):
            cells.append(_score_cell(numbers.get(name), style))
        rows.append(markup(*cells))
    return el("div", table(head, rows, class_="coco"), class_="card scroll", tabindex=0)


def _precision_recall(curve: Mapping[str, Any], kind: str) -> Markup:
    precision, recall = mapping(curve.get("precision")), _numbers(curve.get("recall"))
    lines = []
    for style, (threshold, dash) in zip(
        ("s1", "s2"), (("0.50", "IoU .50"), ("0.75", "IoU .75")), strict=True
    ):
        values = _numbers(precision.get(threshold))
        if len(values) and len(values) == len(recall):
            values = np.where(values < 0, np.nan, values)
            lines.append(Line(name=dash, x=recall, y=values, style=style))
    if not lines:
        return Markup()
    return line_chart(
        lines,
        title=f"Precision over recall, {KINDS[kind].lower()}",
        note="mean over categories",
        x_label="recall",
        size=(560, 270),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _category_table(
    rows: Mapping[int, Mapping[str, Any]],
    names: Mapping[int, str],
    objects: Mapping[int, int],
    detections: Mapping[int, int],
    curves: Mapping[str, Any],
) -> Markup:
    kinds = [kind for kind in KINDS if any(kind in row for row in rows.values())]
    head = [sort_head("Category", up=True), sort_head("Id", up=True, numeric=True)]
    for kind in kinds:
        head += [sort_head(f"{_SINGULAR[kind]} AP", numeric=True)]
        head += [sort_head("AP50", numeric=True)]
    head += (
        [el("th", "PR", scope="col", title="precision over recall, IoU .50", class_="curve")]
        if curves
        else []
    )
    head += [sort_head("Objects", numeric=True)] if objects else []
    head += [sort_head("Detections", numeric=True)]
    lines = []
    for k in sorted(rows, key=lambda k: names[k].lower()):
        cells = [el("th", el("bdi", names[k]), scope="row")]
        cells += [el("td", str(k), class_="num", data_v=k)]
        for style, kind in zip(("s1", "s2"), kinds, strict=False):
            numbers = mapping(rows[k].get(kind))
            cells.append(_score_cell(numbers.get("AP"), style))
            cells.append(_score_cell(numbers.get("AP50"), None))
        cells += [_curve_cell(curves.get(str(k)))] if curves else []
        cells += [_count_cell(objects.get(k, 0))] if objects else []
        cells += [_count_cell(detections.get(k, 0))]
        lines.append(markup(*cells))
    return filtered_table(head, lines)


def _score_cell(value: Any, style: str | None) -> Markup:
    number = as_float(value)
    decoration = bar(number, style) if style is not None and number >= 0 else Markup()
    raw = f"{number:.6f}" if math.isfinite(number) else "-1"
    return el("td", decoration, el("span", score(value)), class_="num", data_v=raw)


def _curve_cell(precision: Any) -> Markup:
    values = _numbers(precision)
    drawn = len(values) and bool(np.isfinite(values).all())
    return el("td", sparkline(values) if drawn else "–", class_="curve")


def _num_objects(row: Mapping[str, Any]) -> int | None:
    counts = [mapping(numbers).get("num_objects") for numbers in row.values()]
    return next((n for n in counts if isinstance(n, int)), None)


def _count_cell(value: int) -> Markup:
    return el("td", grouped(value), class_="num", data_v=value)


def _score_histogram(predictions: Predictions) -> Markup:
    edges = np.linspace(0.0, 1.0, NUM_SCORE_BINS + 1)
    counts = predictions.score_counts
    sure = int(counts[int(CONFIDENT * NUM_SCORE_BINS) :].sum())
    tips = [
        f"score {a:.3g} to {b:.3g}: {count(int(n), 'detection')}"
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    share = 100 * sure / max(predictions.num_detections, 1)
    return histogram(
        counts,
        edges,
        title="Scores",
        note=f"{share:.0f}% at {CONFIDENT} or above",
        x_label="score",
        tips=tips,
    )


def _count_histogram(predictions: Predictions) -> Markup:
    counts = predictions.per_image
    width = max(1, math.ceil(len(counts) / _MAX_COUNT_BARS))
    padded = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width).sum(axis=1)
    edges = np.arange(len(padded) + 1, dtype=np.float64) * width
    tips = [f"{_range(i * width, width)}: {count(int(n), 'image')}" for i, n in enumerate(padded)]
    mean = predictions.num_detections / max(len(predictions.image_ids), 1)
    return histogram(
        padded,
        edges - 0.5 if width == 1 else edges,
        title="Detections an image",
        note=f"mean {mean:.1f}",
        x_label="detections",
        tips=tips,
        style="s3",
    )


def _quality_histogram(ranking: Ranking) -> Markup:
    counts, edges = np.histogram(ranking.qualities, 20, (0.0, 1.0))
    tips = [
        f"PQ {a:.2f} to {b:.2f}: {count(int(n), 'image')}"
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return histogram(
        counts,
        edges,
        title="Quality of images",
        note=f"median PQ {float(np.median(ranking.qualities)):.2f}",
        x_label="panoptic quality of one image",
        tips=tips,
        style="s4",
    )


def _range(first: int, width: int) -> str:
    return count(first, "detection") if width == 1 else f"{first} to {first + width - 1} detections"


def _numbers(values: Any) -> Any:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return np.zeros(0)
    return np.asarray([as_float(v) for v in values])
