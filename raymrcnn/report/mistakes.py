"""The part of the page about what goes wrong: kinds of errors, confusions, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymrcnn.report.cells import bar
from raymrcnn.report.charts import Line, line_chart
from raymrcnn.report.collect import Predictions, mapping
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section, as_float, grouped, table

_KINDS = {"segm": "Masks", "bbox": "Boxes"}
ERRORS = {
    "Cls": "right place, wrong category",
    "Loc": "right category, IoU 0.1 to 0.5",
    "Both": "wrong category and place",
    "Dupe": "an object found again",
    "Bkg": "on no object",
    "Miss": "object not found",
    "FP": "all false detections",
    "FN": "all objects not found",
}
_MOST_PAIRS = 20


def mistakes_section(predictions: Predictions | None, names: Mapping[int, str]) -> Section:
    """What AP would gain without each kind of error, and what scores are worth."""
    key, title = "mistakes", "Mistakes"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    detail = mapping(predictions.scores.get("detail"))
    found = {kind: mapping(detail[kind]) for kind in _KINDS if mapping(detail.get(kind))}
    if not found:
        why = "scores.json has no detail (`raymrcnn score --detail` writes it)"
        return Section(key=key, title=title, why_absent=why)
    lead = (
        "How much AP at an IoU of 0.5 would gain if all errors of one kind were corrected (TIDE), "
        "whether a score is the share of detections that are right, and which categories are "
        "taken for one another."
    )
    curves = [_reliability(mapping(one.get("calibration")), kind) for kind, one in found.items()]
    pairs = [_confusions(mapping(one.get("confusion")), names, kind) for kind, one in found.items()]
    body = markup(
        el("p", lead, class_="lead"),
        _error_table(found),
        *(
            el("div", *cards, class_="grid pair mistakes")
            for cards in (curves, pairs)
            if any(cards)
        ),
    )
    return Section(key=key, title=title, body=body)


def _error_table(found: Mapping[str, Mapping[str, Any]]) -> Markup:
    head = [el("th", "Error", scope="col")]
    for kind in found:
        head.append(el("th", f"{_KINDS[kind]}: AP50", scope="col", class_="num"))
        head.append(el("th", "Count", scope="col", class_="num"))
    rows = []
    for name, meaning in ERRORS.items():
        label = el("div", el("b", name), el("small", meaning))
        cells = [el("th", label, scope="row")]
        for style, one in zip(("s1", "s2"), found.values(), strict=False):
            entry = mapping(mapping(one.get("errors")).get(name))
            delta, times = as_float(entry.get("delta")), entry.get("count")
            drawn = bar(delta, style) if delta >= 0 else Markup()
            text = f"+{delta:.3f}" if delta >= 0 else "–"
            cells.append(el("td", drawn, el("span", text), class_="num"))
            cells.append(el("td", grouped(times) if isinstance(times, int) else "–", class_="num"))
        rows.append(markup(*cells))
    return el("div", table(head, rows, class_="coco"), class_="card scroll", tabindex=0)


def _confusions(confusion: Mapping[str, Any], names: Mapping[int, str], kind: str) -> Markup:
    pairs = confusion.get("pairs")
    rows = []
    for pair in pairs if isinstance(pairs, Sequence) else ():
        truth, predicted = mapping(pair).get("truth"), mapping(pair).get("predicted")
        if isinstance(truth, int) and isinstance(predicted, int) and truth != predicted:
            cells = [el("td", el("bdi", names.get(k, f"category {k}"))) for k in (truth, predicted)]
            times = pair.get("count")
            number = grouped(times) if isinstance(times, int) else "–"
            rows.append(markup(*cells, el("td", number, class_="num")))
    if not rows:
        return Markup()
    head = [el("th", name, scope="col") for name in ("Object", "Taken for")]
    head.append(el("th", "Times", scope="col", class_="num"))
    least = as_float(confusion.get("min_score"))
    heading = el("h3", f"Confusions, {_KINDS[kind].lower()}, score at least {least:g}")
    body = el("div", table(head, rows[:_MOST_PAIRS]), class_="scroll tall", tabindex=0)
    return el("div", heading, body, class_="card")


def _reliability(calibration: Mapping[str, Any], kind: str) -> Markup:
    """The share of detections that are right over their mean score, where there are any."""
    bins = calibration.get("bins")
    there = [mapping(b) for b in (bins if isinstance(bins, Sequence) else ())]
    there = [b for b in there if isinstance(b.get("count"), int) and b["count"] > 0]
    if not there:
        return Markup()
    x = np.array([as_float(b.get("score")) for b in there])
    y = np.array([as_float(b.get("right")) for b in there])
    counts = [int(b["count"]) for b in there]
    ends = np.array([0.0, 1.0])
    return line_chart(
        [
            Line(name="if scores told the truth", x=ends, y=ends, style="raw"),
            Line(name="share that is right", x=x, y=y),
        ],
        title=f"Calibration, {_KINDS[kind].lower()}",
        note=f"expected error {as_float(calibration.get('ece')):.3f}",
        x_label="mean score",
        size=(560, 270),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        tip=lambda i: f"score {x[i]:.2f}: {y[i]:.0%} of {grouped(counts[i])} are right",
    )
