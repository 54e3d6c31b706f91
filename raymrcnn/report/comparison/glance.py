"""The top of the page: each subject in one row of the numbers that matter most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raymrcnn.report.charts import number
from raymrcnn.report.collect import mapping
from raymrcnn.report.comparison.subjects import Subject, marker
from raymrcnn.report.comparison.training import best_on_the_way, median
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section, as_float, duration, grouped, score, table
from raymrcnn.report.training import last_loss

_HEADS = (
    "Mask AP", "Box AP", "Best while training", "Loss at the end", "Steps", "Training",
    "Time", "Workers", "Inference",
)  # fmt: skip


def header(subjects: Sequence[Subject]) -> Markup:
    """Kind and title."""
    names = [one.name for one in subjects]
    return el(
        "header",
        el("p", "Comparison", class_="kind"),
        el("h1", f"{', '.join(names[:-1])} and {names[-1]}"),
        class_="top",
    )


def glance_section(subjects: Sequence[Subject]) -> Section:
    """The table; the best of a column of scores is bold."""
    columns = [_numbers(one) for one in subjects]
    best = []
    for k in range(3):
        aps = [as_float(values[k][0]) for values in columns]
        known = [ap for ap in aps if ap >= 0]
        best.append(max(known) if len(known) > 1 else math.inf)
    head = [el("th", "Run", scope="col")]
    head += [el("th", name, scope="col", class_="num") for name in _HEADS]
    rows = []
    for one, values in zip(subjects, columns, strict=True):
        cells = [el("th", marker(one), el("bdi", one.name), scope="row")]
        for k, (value, text, small) in enumerate(values):
            top = k < 3 and value >= best[k]
            cells.append(el("td", el("b", text) if top else text,
                            el("small", f" {small}") if small else "", class_="num"))  # fmt: skip
        rows.append(markup(*cells))
    body = el("div", table(head, rows, class_="glance"), class_="card scroll", tabindex=0,
              role="region", aria_label="The runs at a glance")  # fmt: skip
    return Section(key="glance", title="At a glance", body=body)


def _numbers(one: Subject) -> list[tuple[float, str, str]]:
    """Value, text and a note for each of `_HEADS`."""
    masks, boxes = (as_float(one.scores(kind).get("AP")) for kind in ("segm", "bbox"))
    on_the_way = best_on_the_way(one.run)
    rows = [(masks, score(masks), ""), (boxes, score(boxes), "")]
    if on_the_way is None:
        rows.append((math.nan, "–", ""))
    else:
        rows.append((on_the_way[1], score(on_the_way[1]), f"step {on_the_way[0]}"))
    metrics = None if one.run is None else one.run.metrics
    loss = math.nan if metrics is None else last_loss(metrics)
    rows.append((loss, number(loss), ""))
    steps = math.nan if metrics is None else float(metrics.columns["step"][-1])
    restarts = 0 if metrics is None else len(metrics.resumed_at)
    rows.append((steps, grouped(int(steps)) if steps == steps else "–",
                 f"{restarts} restarts" if restarts else ""))  # fmt: skip
    rate = median(one.run, "images_per_s")
    rows.append((rate, f"{number(rate)}/s" if rate == rate else "–", ""))
    seconds = None if metrics is None else metrics.column("seconds")
    rows.append((math.nan, "–" if seconds is None else duration(float(np.nanmax(seconds))) or "–",
                 ""))  # fmt: skip
    device = {} if one.run is None else mapping(one.run.document.get("device"))
    rows.append((math.nan, str(device.get("workers", "–")), str(device.get("name", ""))))
    inference = math.nan
    if one.predictions is not None:
        inference = as_float(one.predictions.manifest.get("images_per_s"))
    rows.append((inference, f"{number(inference)}/s" if inference > 0 else "–", ""))
    return rows
