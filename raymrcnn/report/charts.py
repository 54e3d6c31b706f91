"""Charts as inline SVG: lines, histograms, ranked bars. Colours come from the page's style sheet.

Each chart is a `<figure>` with a caption, a description for those who do not see it, and a tooltip
(`<title>`) over each part. This module refuses to compute what it shows, beyond smoothing and
thinning, and refuses to draw what is not finite: a line has a gap there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymrcnn.report.markup import Markup, el, join

Floats = npt.NDArray[np.float64]

_MAX_POINTS = 600  # of a line, after thinning
_MAX_TIPS = 90  # tooltips along a line chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 10.0, 38.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    name: str
    x: Floats
    y: Floats
    style: str = "s1"  # a class of the style sheet; "raw" is thin and faint
    legend: bool = True


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The size of a drawing and the ranges of its axes."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, x: float) -> float:
        """The horizontal place of a value, in units of the drawing."""
        low, high = self.x
        return _LEFT + (x - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def py(self, y: float) -> float:
        """The vertical place of a value, in units of the drawing."""
        low, high = self.y
        return self.height - _BOTTOM - (y - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def number(value: float) -> str:
    """A number for people, in at most about 7 characters: 12.5k, 0.02, 3e-05."""
    if not math.isfinite(value):
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    if value == int(value):
        return str(int(value))
    return f"{value:.3g}"


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(step * f for f in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * f) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def smooth(y: Floats, window: int) -> Floats:
    """The mean of up to `window` values around each one; what is not finite is passed over."""
    finite = np.isfinite(y)
    kernel = np.ones(max(window, 1))
    total = np.convolve(np.where(finite, y, 0.0), kernel)
    weight = np.convolve(finite.astype(np.float64), kernel)
    start = (len(kernel) - 1) // 2
    cut = slice(start, start + len(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight[cut] > 0, total[cut] / weight[cut], np.nan)


def thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most about `_MAX_POINTS` points that keep the lowest and highest of each stretch."""
    if len(x) <= _MAX_POINTS:
        return x, y
    keep: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), _MAX_POINTS // 2):
        values = np.where(np.isfinite(y[part]), y[part], np.nan)
        if np.isnan(values).all():
            keep.add(int(part[0]))
        else:
            keep |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    rows = np.asarray(sorted(keep))
    return x[rows], y[rows]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    note: str = "",
    size: tuple[float, float] = (560, 260),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    tip: Callable[[int], str] | None = None,
    says: str = "",
) -> Markup:
    """Lines over a common x axis.

    Args:
        lines: from back to front.
        title: what is shown, with its unit.
        x_label: what the x axis is.
        note: behind the title, smaller.
        size: width and height of the drawing.
        x_range: of the axis; from the lines if None.
        y_range: likewise; from zero, or below, to where nearly all of the lines end.
        marks: x values that get a vertical line, and what it says.
        tip: the tooltip of a row of the last line; its own values if None.
        says: the chart in words; where it starts and ends if empty.
    """
    front = lines[-1]
    frame = Frame(
        width=size[0],
        height=size[1],
        x=x_range or _span(np.concatenate([line.x for line in lines])),
        y=y_range or _robust_span(lines, 5 if size[1] > 200 else 3),
    )
    parts: list[str] = [_axes(frame, x_label)]
    parts += [_mark(frame, at, says) for at, says in marks]
    for line in lines:
        path = _path(frame, line.x, line.y)
        parts.append(el("path", d=path, class_=f"line {line.style}"))
        if line.style != "raw" and len(line.x) == 1:
            parts.append(_dot(frame, line))
    parts.append(_tips(frame, front, tip or (lambda i: _values_at(lines, i, x_label))))
    named = [line for line in lines if line.legend]
    legend = _legend([(line.name, line.style) for line in named]) if len(named) > 1 else Markup()
    return _figure(title, note, legend, frame, parts, says or _describe(title, front))


def histogram(
    counts: npt.NDArray[np.int64],
    edges: Floats,
    *,
    title: str,
    x_label: str,
    tips: Sequence[str],
    note: str = "",
    size: tuple[float, float] = (560, 240),
    style: str = "s1",
    labels: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Bars over a continuous axis.

    Args:
        counts: [num_bars].
        edges: [num_bars + 1], increasing.
        title: what is counted.
        x_label: what the x axis is.
        tips: the tooltip of each bar.
        note: behind the title, smaller.
        size: width and height of the drawing.
        style: a class of the style sheet.
        labels: places on the axis and what is written there, instead of round numbers.
    """
    top = float(max(counts.max(initial=0), 1))
    frame = Frame(
        width=size[0],
        height=size[1],
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, top * 1.06),
    )
    parts: list[str] = [_axes(frame, x_label, labels=labels)]
    for count, left, right, tip in zip(counts, edges[:-1], edges[1:], tips, strict=True):
        x1, x2, y = frame.px(float(left)), frame.px(float(right)), frame.py(float(count))
        parts.append(_bar(frame, x1, x2, y, tip, style))
    peak = tips[int(counts.argmax())] if counts.any() else "nothing"
    return _figure(title, note, Markup(), frame, parts, f"{title}; most: {peak}")


def ranked_bars(
    values: Sequence[tuple[str, float]],
    *,
    title: str,
    x_label: str,
    note: str = "",
    size: tuple[float, float] = (1140, 230),
) -> Markup:
    """Named values between 0 and 1, highest first, as narrow bars."""
    ranked = sorted(values, key=lambda item: -item[1])
    frame = Frame(width=size[0], height=size[1], x=(0.0, float(len(ranked))), y=(0.0, 1.0))
    parts: list[str] = [_axes(frame, x_label, x_ticks=False)]
    for i, (name, value) in enumerate(ranked):
        x1, x2 = frame.px(i), frame.px(i + 1)
        parts.append(_bar(frame, x1, x2, frame.py(max(value, 0.0)), f"{name}: {value:.3f}", "s1"))
    best, worst = ranked[0], ranked[-1]
    says = f"{title}; from {best[0]} {best[1]:.3f} down to {worst[0]} {worst[1]:.3f}"
    return _figure(title, note, Markup(), frame, parts, says)


def _figure(
    title: str,
    note: str,
    legend: Markup,
    frame: Frame,
    parts: Sequence[str],
    says: str,
) -> Markup:
    wide = frame.width > 700
    caption = [el("span", title, class_="title")]
    if note:
        caption.append(el("small", note))
    return el(
        "figure",
        el("figcaption", *caption, legend),
        el(
            "svg",
            *parts,
            viewBox=f"0 0 {frame.width:g} {frame.height:g}",
            role="img",
            aria_label=says,
        ),
        class_="chart card wide" if wide else "chart card",
        tabindex=0 if wide else None,  # a small window moves it sideways
    )


def _axes(
    frame: Frame, x_label: str, x_ticks: bool = True, labels: Sequence[tuple[float, str]] = ()
) -> Markup:
    """Grid lines, tick labels, and the name of the x axis."""
    bottom, right = frame.height - _BOTTOM, frame.width - _RIGHT
    parts = []
    for value in ticks(*frame.y, 5 if frame.height > 200 else 3):
        y = frame.py(value)
        parts.append(el("line", class_="grid", x1=_LEFT, x2=right, y1=y, y2=y))
        parts.append(el("text", number(value), class_="tick end", x=_LEFT - 7, y=y + 4))
    parts.append(el("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    values = ticks(*frame.x, 6 if frame.width > 400 else 4) if x_ticks else []
    named = labels or [(value, number(value)) for value in values]
    for value, text in named:
        x = frame.px(value)
        parts.append(el("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
        parts.append(el("text", text, class_="tick mid", x=x, y=bottom + 17))
    middle = (_LEFT + right) / 2
    parts.append(el("text", x_label, class_="label mid", x=middle, y=frame.height - 4))
    return el("g", *parts, aria_hidden="true")


def _mark(frame: Frame, at: float, says: str) -> Markup:
    """A vertical line across the chart."""
    x, bottom = frame.px(at), frame.height - _BOTTOM
    return el("line", el("title", says), class_="mark", x1=x, x2=x, y1=_TOP, y2=bottom)


def _bar(frame: Frame, x1: float, x2: float, y: float, tip: str, style: str) -> Markup:
    """A bar, and over its whole column the tooltip."""
    gap = min(1.0, (x2 - x1) * 0.12) if x2 - x1 > 3 else 0.0
    bottom = frame.height - _BOTTOM
    return el(
        "g",
        el("title", tip),
        el("rect", class_="hit", x=x1, y=_TOP, width=x2 - x1, height=bottom - _TOP),
        el(
            "rect",
            class_=f"bar {style}",
            x=x1 + gap,
            y=y,
            width=max(x2 - x1 - 2 * gap, 0.3),
            height=bottom - y,
        ),
        class_="column",
    )


def _path(frame: Frame, x: Floats, y: Floats) -> str:
    words, pen_down = [], False
    low, high = frame.y
    for xi, yi in zip(*(column.tolist() for column in thin(x, y)), strict=True):
        if not math.isfinite(yi):
            pen_down = False
            continue
        inside = min(max(yi, low), high)
        words.append(f"{'L' if pen_down else 'M'}{frame.px(xi):.1f} {frame.py(inside):.1f}")
        pen_down = True
    return "".join(words)


def _dot(frame: Frame, line: Line) -> Markup:
    value = float(line.y[0])
    if not math.isfinite(value):
        return Markup()
    return el(
        "circle", class_=f"dot {line.style}", cx=frame.px(line.x[0]), cy=frame.py(value), r=3.5
    )


def _tips(frame: Frame, line: Line, tip: Callable[[int], str]) -> Markup:
    """Invisible strips across the chart, each with the tooltip of its middle point."""
    groups = np.array_split(np.arange(len(line.x)), min(_MAX_TIPS, len(line.x)))
    rows = [int(group[len(group) // 2]) for group in groups]
    places = [frame.px(float(line.x[i])) for i in rows]
    borders = [(a + b) / 2 for a, b in zip(places, places[1:], strict=False)]
    strips = []
    starts, ends = [_LEFT, *borders], [*borders, frame.width - _RIGHT]
    for row, start, end in zip(rows, starts, ends, strict=True):
        height = frame.height - _TOP - _BOTTOM
        strips.append(
            el(
                "rect",
                el("title", tip(row)),
                class_="hit",
                x=start,
                y=_TOP,
                width=max(end - start, 0.0),
                height=height,
            )
        )
    return el("g", *strips)


def _values_at(lines: Sequence[Line], i: int, x_label: str) -> str:
    """All lines that have a row i, at the x of the last line."""
    at = [f"{line.name} {number(float(line.y[i]))}" for line in lines if i < len(line.y)]
    return f"{x_label} {number(float(lines[-1].x[i]))}: " + ", ".join(at)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    items = [
        el(
            "li",
            el(
                "svg",
                el("path", d="M1 5L23 5", class_=f"line {style}"),
                viewBox="0 0 24 10",
                aria_hidden="true",
            ),
            name,
        )
        for name, style in entries
    ]
    return el("ul", join(items), class_="legend")


def _describe(title: str, line: Line) -> str:
    finite = line.y[np.isfinite(line.y)]
    if not len(finite):
        return f"{title}: no finite value"
    return (
        f"{title}: from {number(float(finite[0]))} to {number(float(finite[-1]))}, lowest "
        f"{number(float(finite.min()))}, highest {number(float(finite.max()))}"
    )


def _span(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if 0 < low < 0.1 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _robust_span(lines: Sequence[Line], num_ticks: int) -> tuple[float, float]:
    """From zero (or the lowest) to a round value above the lines.

    Of raw lines only 99% of the values count, so that one spike flattens nothing.
    """
    lows, highs = [0.0], []
    for line in lines:
        finite = line.y[np.isfinite(line.y)]
        if len(finite):
            lows.append(float(finite.min()))
            top = np.quantile(finite, 0.99) if line.style == "raw" else finite.max()
            highs.append(float(top))
    low, high = min(lows), max(highs, default=0.0)
    if high <= low:
        return low, low + 1.0
    values = ticks(low, high, num_ticks)
    step = values[1] - values[0] if len(values) > 1 else high - low
    return low, math.ceil(high / step) * step
