"""The training part of the page: losses, learning rate, speed, waits, scores on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from raymrcnn.report.charts import Floats, Line, line_chart, number, smooth
from raymrcnn.report.collect import Metrics, Run, mapping
from raymrcnn.report.markup import Markup, el, join, markup
from raymrcnn.report.parts import Section, as_float, count, score, table

# The five losses of Mask R-CNN, in the order of the network.
LOSSES = {
    "loss_objectness": "RPN objectness",
    "loss_rpn_box_reg": "RPN boxes",
    "loss_classifier": "Classes",
    "loss_box_reg": "Boxes",
    "loss_mask": "Masks",
}
_SPEEDS = (
    ("images_per_s", "Throughput, images/s", "s3"),
    ("data_wait_s", "Waiting for data, s a step", "s2"),
    ("checkpoint_wait_s", "Waiting for checkpoints, s between two logged steps", "s4"),
    ("workers", "Workers", "s1"),
)
_SCORED = ("AP", "AP50", "AP75")
_MOST_MARKS, _MOST_SCORED = 100, 200


def smoothing_window(num_lines: int) -> int:
    """Logged steps that a smoothed line takes the mean of: a thirtieth of all, odd."""
    return max(3, num_lines // 30) | 1


def training_section(run: Run | None) -> Section:
    """Curves over the steps of a run."""
    absent = Section(key="training", title="Training")
    if run is None:
        return _because(absent, "no run folder was given")
    metrics = run.metrics
    if metrics is None:
        return _because(absent, "the run has no metrics.jsonl with a readable line")
    window = smoothing_window(len(metrics))
    shown = metrics.resumed_at[-_MOST_MARKS:]
    marks = [(float(step), f"resumed at step {step}") for step in shown]
    large = [
        _loss_chart(metrics, "loss", "Total loss", window, marks, (760, 300)),
        _rate_chart(metrics, marks),
    ]
    small = [
        _loss_chart(metrics, name, title, window, (), (300, 200)) for name, title in LOSSES.items()
    ]
    speed = _speed_charts(metrics, window, marks)
    groups = [("main", large), ("five", small), ("pair", speed)]
    grids = [
        el("div", join(chart for chart in charts if chart), class_=f"grid {shape}")
        for shape, charts in groups
        if any(charts)
    ]
    return Section(
        key="training",
        title="Training",
        body=markup(el("p", _lead(metrics, window), class_="lead"), *grids, _scored(run, marks)),
    )


def last_loss(metrics: Metrics) -> float:
    """The total loss at the end, smoothed as in the chart; NaN if it was not logged."""
    loss = metrics.column("loss")
    return float("nan") if loss is None else float(_smoothed(loss, metrics)[-1])


def recipe_details(run: Run) -> Markup:
    """All fields of the recipe, folded away."""
    rows = _fields(mapping(run.document.get("recipe")), "")
    if not rows:
        return Markup()
    pairs = [
        el("div", el("dt", el("code", path)), el("dd", el("code", text))) for path, text in rows
    ]
    summary = el("summary", f"The whole recipe ({len(rows)} fields)")
    return el("details", summary, el("dl", *pairs, class_="recipe"), class_="card")


def _because(section: Section, why: str) -> Section:
    return Section(key=section.key, title=section.title, why_absent=why)


def _lead(metrics: Metrics, window: int) -> str:
    text = (
        f"{count(len(metrics), 'logged step')}. Faint: each of them; strong: the mean of "
        f"{window} around each."
    )
    if metrics.resumed_at:
        steps = ", ".join(str(step) for step in metrics.resumed_at[:8])
        more = " and later" if len(metrics.resumed_at) > 8 else ""
        text += f" Vertical lines: the run was resumed at step {steps}{more}."
    if metrics.without_cards:
        text += f" Left out, as they did no work: {'; '.join(metrics.without_cards)}."
    if metrics.num_left_out:
        text += f" {count(metrics.num_left_out, 'step')} left out: the loss was not finite."
    if metrics.num_unreadable:
        text += f" {count(metrics.num_unreadable, 'line')} of metrics.jsonl could not be read."
    return text


def _loss_chart(
    metrics: Metrics,
    name: str,
    title: str,
    window: int,
    marks: Any,
    size: tuple[float, float],
) -> Markup:
    loss = metrics.column(name)
    if loss is None:
        return Markup()
    step = metrics.columns["step"]
    mean = _smoothed(loss, metrics)
    return line_chart(
        [
            Line(name="logged", x=step, y=loss, style="raw", legend=False),
            Line(name="smoothed", x=step, y=mean, style="s1", legend=False),
        ],
        title=title,
        note=f"ends at {number(float(mean[-1]))}",
        x_label="step",
        size=size,
        marks=marks,
        tip=lambda i: (
            f"step {step[i]:.0f}: {number(float(loss[i]))}, smoothed {number(float(mean[i]))}"
        ),
    )


def _rate_chart(metrics: Metrics, marks: Any) -> Markup:
    rate = metrics.column("lr")
    if rate is None:
        return Markup()
    return line_chart(
        [Line(name="lr", x=metrics.columns["step"], y=rate, style="s3")],
        title="Learning rate",
        note=f"highest {number(float(np.nanmax(rate)))}",
        x_label="step",
        size=(460, 300),
        y_range=(0.0, float(np.nanmax(rate)) * 1.08 or 1.0),
        marks=marks,
    )


def _speed_charts(metrics: Metrics, window: int, marks: Any) -> list[Markup]:
    charts = []
    for name, title, style in _SPEEDS:
        values = metrics.column(name)
        if values is None or (name == "workers" and np.nanmin(values) == np.nanmax(values)):
            continue
        step = metrics.columns["step"]
        # A wait for a checkpoint is rare and short: its mean would tell nothing.
        plain = name in ("workers", "checkpoint_wait_s")
        whole = values if plain else smooth(values, window)
        raw = [] if plain else [Line(name="logged", x=step, y=values, style="raw", legend=False)]
        charts.append(
            line_chart(
                [*raw, Line(name=title, x=step, y=whole, style=style, legend=False)],
                title=title,
                note=f"median {number(float(np.nanmedian(values)))}",
                x_label="step",
                size=(600, 220),
                marks=marks,
            )
        )
    return charts


def _scored(run: Run, marks: Any) -> Markup:
    """Scores of the checkpoints that were scored while training went on: a chart and a table."""
    rows = {k: r for k, r in run.validation.items() if mapping(r.get("segm"))}
    if not rows:
        return Markup()
    step = np.asarray(sorted(rows), np.float64)
    lines = [
        Line(name=f"{word} {name}", x=step, y=_column(rows, kind, name), style=style)
        for kind, name, word, style in (
            ("segm", "AP50", "masks", "s3"),
            ("bbox", "AP", "boxes", "s2"),
            ("segm", "AP", "masks", "s1"),
        )
    ]
    masks = lines[-1].y
    best = int(np.nanargmax(masks)) if np.isfinite(masks).any() else 0
    chart = line_chart(
        [line for line in lines if np.isfinite(line.y).any()],
        title="Scores while training went on",
        note=f"best at step {step[best]:.0f}: mask AP {score(masks[best])}",
        x_label="step",
        size=(1140, 300),
        marks=marks,
        tip=lambda i: (
            f"step {step[i]:.0f}: "
            + ", ".join(f"{line.name} {score(line.y[i])}" for line in reversed(lines))
        ),
    )
    return markup(el("div", chart, class_="grid scored"), _score_table(rows, int(step[best])))


def _score_table(rows: dict[int, dict[str, Any]], best: int) -> Markup:
    kinds = (("segm", "Mask"), ("bbox", "Box"))
    head = [el("th", "Step", scope="col", class_="num")]
    head += [
        el("th", f"{word} {name}", scope="col", class_="num")
        for _, word in kinds
        for name in _SCORED
    ]
    head += [el("th", "Images", scope="col", class_="num"), el("th", "", scope="col")]
    lines = []
    for step in sorted(rows, reverse=True)[:_MOST_SCORED]:
        record = rows[step]
        cells = [el("th", str(step), scope="row", class_="num")]
        cells += [
            el("td", score(mapping(record.get(kind)).get(name)), class_="num")
            for kind, _ in kinds
            for name in _SCORED
        ]
        cells.append(el("td", str(record.get("num_images", "–")), class_="num"))
        lines.append(markup(*cells, el("td", "best" if step == best else "")))
    more = f", the last {_MOST_SCORED}" if len(rows) > _MOST_SCORED else ""
    body = el("div", table(head, lines), class_="scroll", tabindex=0, role="region",
              aria_label="Scores of checkpoints")  # fmt: skip
    return el("details", el("summary", f"Scores of {count(len(rows), 'checkpoint')}{more}"), body,
              class_="card")  # fmt: skip


def _column(rows: dict[int, dict[str, Any]], kind: str, name: str) -> Floats:
    values = [as_float(mapping(rows[step].get(kind)).get(name)) for step in sorted(rows)]
    found = np.asarray(values)
    return np.where(found < 0, np.nan, found)


def _smoothed(values: Floats, metrics: Metrics) -> Floats:
    return smooth(values, smoothing_window(len(metrics)))


def _fields(document: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows = []
    for name, value in document.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            rows += _fields(value, f"{path}.")
        else:
            rows.append((path, str(value)[:200]))
    return rows
