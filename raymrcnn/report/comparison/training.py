"""Training side by side: losses, learning rate, speed and scores on the way, line over line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from raymrcnn.report.charts import Floats, Line, line_chart, number, smooth
from raymrcnn.report.collect import Metrics, Run, mapping
from raymrcnn.report.comparison.subjects import Subject, key
from raymrcnn.report.markup import Markup, el, join, markup
from raymrcnn.report.parts import Section, as_float
from raymrcnn.report.training import LOSSES, smoothing_window

_SPEEDS = {
    "images_per_s": "Throughput, images/s",
    "data_wait_s": "Waiting for data, s a step",
}


def training_section(subjects: Sequence[Subject]) -> Section:
    """Curves over the steps, smoothed."""
    title = "Training"
    with_metrics = [one for one in subjects if one.run is not None and one.run.metrics is not None]
    if not with_metrics:
        why = "no run folder with a readable metrics.jsonl was given"
        return Section(key="training", title=title, why_absent=why)
    large = [
        _overlaid(with_metrics, "loss", "Total loss", (760, 300)),
        _overlaid(with_metrics, "lr", "Learning rate", (460, 300), plain=True),
    ]
    small = [_overlaid(with_metrics, k, name, (300, 200)) for k, name in LOSSES.items()]
    scored = [_scored(subjects, "segm", "masks"), _scored(subjects, "bbox", "boxes")]
    speed = [_overlaid(with_metrics, k, name, (600, 220)) for k, name in _SPEEDS.items()]
    groups = (("main", large), ("five", small), ("pair", scored), ("pair", speed))
    grids = [
        el("div", join(charts), class_=f"grid {shape}") for shape, charts in groups if any(charts)
    ]
    lead = el("p", "Each line is the mean of a thirtieth of the logged steps.", class_="lead")
    return Section(key="training", title=title, body=markup(lead, key(with_metrics), *grids))


def median(run: Run | None, name: str) -> float:
    """Of a column of the metrics; NaN where there is none."""
    column = None if run is None or run.metrics is None else run.metrics.column(name)
    return math.nan if column is None else float(np.nanmedian(column))


def best_on_the_way(run: Run | None) -> tuple[int, float] | None:
    """Step and mask AP of the best checkpoint that was scored while training went on."""
    aps = {} if run is None else {k: _ap(r, "segm") for k, r in run.validation.items()}
    known = {k: ap for k, ap in aps.items() if ap >= 0}
    if not known:
        return None
    best = max(known, key=lambda k: (known[k], -k))
    return best, known[best]


def _ap(record: Mapping[str, object], kind: str) -> float:
    return as_float(mapping(record.get(kind)).get("AP"))


def _overlaid(
    subjects: Sequence[Subject],
    name: str,
    title: str,
    size: tuple[float, float],
    *,
    plain: bool = False,
) -> Markup:
    lines = []
    for one in subjects:
        metrics = None if one.run is None else one.run.metrics
        values = None if metrics is None else metrics.column(name)
        if metrics is not None and values is not None:
            y = values if plain else smooth(values, smoothing_window(len(metrics)))
            lines.append(_line(one, _steps(metrics), y))
    return _chart(lines, title, size)


def _scored(subjects: Sequence[Subject], kind: str, word: str) -> Markup:
    lines = []
    for one in subjects:
        scored = {} if one.run is None else one.run.validation
        y = np.asarray([_ap(scored[k], kind) for k in sorted(scored)])
        if (y >= 0).any():
            x = np.asarray(sorted(scored), np.float64)
            lines.append(_line(one, x, np.where(y < 0, np.nan, y)))
    return _chart(lines, f"AP of {word} while training went on", (600, 260))


def _line(subject: Subject, x: Floats, y: Floats) -> Line:
    return Line(name=subject.name, x=x, y=y, style=subject.style, legend=False)


def _steps(metrics: Metrics) -> Floats:
    return metrics.columns["step"]


def _chart(lines: list[Line], title: str, size: tuple[float, float]) -> Markup:
    if not lines:
        return Markup()
    ordered = sorted(lines, key=lambda line: len(line.x))  # the last one has the tooltips
    front = ordered[-1]
    named = sorted(lines, key=lambda line: line.style)

    def tip(i: int) -> str:
        at = float(front.x[i])
        values = [f"{line.name} {number(_value(line, at))}" for line in named]
        return f"step {at:.0f}: " + ", ".join(values)

    ends = [f"{line.name} ends at {number(_last(line))}" for line in named]
    return line_chart(ordered, title=title, x_label="step", size=size, tip=tip,
                      says=f"{title}: {'; '.join(ends)}")  # fmt: skip


def _value(line: Line, at: float) -> float:
    known = np.isfinite(line.y)
    if not known.any() or not line.x[known][0] <= at <= line.x[known][-1]:
        return math.nan
    return float(np.interp(at, line.x[known], line.y[known]))


def _last(line: Line) -> float:
    known = line.y[np.isfinite(line.y)]
    return float(known[-1]) if len(known) else math.nan
