"""Scores side by side: COCO's numbers, categories, curves, kinds of errors.

Differences are to the first one. Where the images were drawn anew, a difference has an interval
that holds 95% of what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymrcnn.report.accuracy import KINDS, METRICS
from raymrcnn.report.charts import Line, line_chart
from raymrcnn.report.collect import mapping, per_category
from raymrcnn.report.comparison.intervals import Found
from raymrcnn.report.comparison.subjects import Subject, key, marker
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.mistakes import ERRORS
from raymrcnn.report.parts import Section, as_float, grouped, score, table
from raymrcnn.report.sortable import sort_head

_MOST_ROWS = 1000


def scores_section(
    subjects: Sequence[Subject], found: Sequence[Found | None], notes: Sequence[str], resamples: int
) -> Section:
    """COCO's numbers and precision over recall."""
    title = "Scores"
    kinds = [kind for kind in KINDS if any(one.scores(kind) for one in subjects)]
    if not kinds:
        why = "no predictions folder with scores.json was given"
        return Section(key="scores", title=title, why_absent=why)
    lead = f"Differences are to {subjects[0].name}."
    if any(found):
        lead += (
            f" In brackets, what 95% of {resamples} drawings of the images gave; bold where that "
            "leaves out zero. It tells of other images, not of another training."
        )
    tables = [_score_table(subjects, found, kind) for kind in kinds]
    curves = [_curves(subjects, kind) for kind in kinds]
    return Section(
        key="scores",
        title=title,
        body=markup(
            el("p", lead, class_="lead"),
            *(el("p", f"{note[:1].upper()}{note[1:]}.", class_="absent") for note in notes),
            el("div", *tables, class_="grid pair" if len(subjects) < 3 else "stack"),
            key(subjects),
            el("div", *curves, class_="grid pair"),
        ),
    )


def category_section(
    subjects: Sequence[Subject], found: Sequence[Found | None], names: Mapping[int, str]
) -> Section:
    """AP of each category, those first that differ most."""
    kind = next((k for k in KINDS if any(_rows(one, k) for one in subjects)), "segm")
    rows = [_rows(one, kind) for one in subjects]
    ids = sorted(set().union(*rows))
    if not ids:
        why = "no scores for each category are there"
        return Section(key="categories", title="Categories", why_absent=why)
    apart = {k: _spread([as_float(row.get(k, {}).get("AP")) for row in rows]) for k in ids}
    head = [sort_head("Category", up=True), sort_head("Objects", numeric=True)]
    for place, subject in enumerate(subjects):
        head.append(sort_head(subject.name, numeric=True))
        head += [sort_head("Difference", numeric=True)] if place else []
    lines = []
    for k in sorted(ids, key=lambda k: (-apart[k], k))[:_MOST_ROWS]:
        counts = [row[k].get("num_objects") for row in rows if k in row]
        num = next((n for n in counts if isinstance(n, int)), 0)
        cells = [el("th", el("bdi", names.get(k, f"category {k}")), scope="row")]
        cells.append(el("td", grouped(num), class_="num", data_v=num))
        values = [as_float(row.get(k, {}).get("AP")) for row in rows]
        for place, value in enumerate(values):
            cells.append(el("td", score(value), class_="num", data_v=_raw(value)))
            if place:
                entry = _category_entry(found[place], kind, k)
                cells.append(_difference(values[0], value, entry))
        lines.append(markup(*cells))
    lead = f"AP of {KINDS[kind].lower()}; those first that differ most."
    body = el("div", table(head, lines, class_="sortable"), class_="scroll tall", tabindex=0,
              role="region", aria_label="AP of each category")  # fmt: skip
    return Section(
        key="categories",
        title="Categories",
        body=markup(el("p", lead, class_="lead"), el("div", body, class_="card")),
    )


def mistakes_section(subjects: Sequence[Subject]) -> Section:
    """What AP50 would gain without each kind of error."""
    kinds = [kind for kind in KINDS if any(_errors(one, kind) for one in subjects)]
    if not kinds:
        why = "no scores.json has detail (`raymrcnn score --detail` writes it)"
        return Section(key="mistakes", title="Mistakes", why_absent=why)
    tables = []
    for kind in kinds:
        head = [el("th", f"Error, {KINDS[kind].lower()}", scope="col")]
        head += [el("th", marker(one), el("bdi", one.name), scope="col", class_="num")
                 for one in subjects]  # fmt: skip
        rows = []
        for name, meaning in ERRORS.items():
            cells = [el("th", el("div", el("b", name), el("small", meaning)), scope="row")]
            for one in subjects:
                entry = mapping(_errors(one, kind).get(name))
                delta, times = as_float(entry.get("delta")), entry.get("count")
                text = f"+{delta:.3f}" if delta >= 0 else "–"
                rest = f" ({grouped(times)})" if isinstance(times, int) else ""
                cells.append(el("td", text, el("small", rest), class_="num"))
            rows.append(markup(*cells))
        tables.append(el("div", table(head, rows, class_="coco"), class_="card scroll",
                         tabindex=0, role="region", aria_label=f"Errors, {kind}"))  # fmt: skip
    lead = "What AP50 would gain if all errors of one kind were corrected (TIDE), and their count."
    body = markup(el("p", lead, class_="lead"), el("div", *tables, class_="stack"))
    return Section(key="mistakes", title="Mistakes", body=body)


def _score_table(subjects: Sequence[Subject], found: Sequence[Found | None], kind: str) -> Markup:
    head = [el("th", KINDS[kind], scope="col")]
    head += [el("th", marker(one), el("bdi", one.name), scope="col", class_="num")
             for one in subjects]  # fmt: skip
    rows = []
    for name, meaning in METRICS.items():
        values = [as_float(one.scores(kind).get(name)) for one in subjects]
        if not any(math.isfinite(value) for value in values):
            continue
        cells = [el("th", el("div", el("b", name), el("small", meaning)), scope="row")]
        cells.append(el("td", score(values[0]), class_="num"))
        for place, value in enumerate(values[1:], start=1):
            entry = mapping(mapping(mapping(found[place]).get(kind)).get("metrics")).get(name)
            cells.append(_difference(values[0], value, mapping(entry), score(value)))
        rows.append(markup(*cells))
    return el("div", table(head, rows, class_="coco compared"), class_="card scroll", tabindex=0,
              role="region", aria_label=f"Scores, {KINDS[kind].lower()}")  # fmt: skip


def _difference(before: float, now: float, entry: Mapping[str, Any], text: str = "") -> Markup:
    """A cell with a score, its difference, and the interval of that."""
    if not (before >= 0 and now >= 0):
        return el("td", text or "–", class_="num", data_v=_raw(math.nan))
    change = now - before
    low, high = as_float(entry.get("low")), as_float(entry.get("high"))
    sure = math.isfinite(low) and (low > 0 or high < 0)
    style = "diff" if abs(change) < 5e-4 else "diff up" if change > 0 else "diff down"
    said = signed(change)
    parts = [text, " "] if text else []
    parts.append(el("b" if sure else "span", said, class_=style))
    if math.isfinite(low):
        parts.append(el("small", f" [{signed(low)}, {signed(high)}]"))
    return el("td", *parts, class_="num", data_v=_raw(change))


def signed(value: float) -> str:
    """A difference of scores, with its sign."""
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 5e-4 else "0.000"


def _curves(subjects: Sequence[Subject], kind: str) -> Markup:
    lines = []
    for one in subjects:
        scores = {} if one.predictions is None else one.predictions.scores
        curve = mapping(mapping(scores.get("precision_recall")).get(kind))
        recall, precision = curve.get("recall"), mapping(curve.get("precision")).get("0.50")
        if isinstance(recall, list) and isinstance(precision, list) and len(recall) == len(
            precision
        ):  # fmt: skip
            x, y = (np.asarray([as_float(v) for v in values]) for values in (recall, precision))
            lines.append(Line(name=one.name, x=x, y=np.where(y < 0, np.nan, y), style=one.style,
                              legend=False))  # fmt: skip
    if not lines:
        return Markup()
    return line_chart(
        lines,
        title=f"Precision over recall, {KINDS[kind].lower()}",
        note="IoU .50, mean over categories",
        x_label="recall",
        size=(560, 270),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _rows(subject: Subject, kind: str) -> dict[int, dict[str, Any]]:
    scores = {} if subject.predictions is None else subject.predictions.scores
    rows = per_category(mapping(scores.get("per_category")), kind)
    return {row["category_id"]: row for row in rows if isinstance(row.get("category_id"), int)}


def _errors(subject: Subject, kind: str) -> dict[str, Any]:
    scores = {} if subject.predictions is None else subject.predictions.scores
    return mapping(mapping(mapping(scores.get("detail")).get(kind)).get("errors"))


def _category_entry(found: Found | None, kind: str, category_id: int) -> dict[str, Any]:
    rows = mapping(mapping(found).get(kind)).get("per_category")
    for row in rows if isinstance(rows, list) else ():
        if row.get("category_id") == category_id:
            return mapping(row)
    return {}


def _spread(values: Sequence[float]) -> float:
    known = [value for value in values if value >= 0]
    return max(known) - min(known) if len(known) > 1 else -1.0


def _raw(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else "-9"
