from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from raymrcnn.report.charts import (
    Line,
    histogram,
    line_chart,
    number,
    ranked_bars,
    smooth,
    thin,
    ticks,
)

HOSTILE = "</svg><script>x</script>"


def line(y: list[float], **options: str) -> Line:
    return Line(name="loss", x=np.arange(1.0, len(y) + 1), y=np.asarray(y), **options)


def titles(figure: str) -> list[str]:
    return [e.text or "" for e in ET.fromstring(figure).iter("title")]


def test_chart_is_well_formed_and_escapes_its_words() -> None:
    chart = line_chart([line([3, 2, 1])], title=HOSTILE, x_label=HOSTILE, note=HOSTILE)
    bars = ranked_bars([(HOSTILE, 0.5), ("b", 0.9)], title=HOSTILE, x_label="x")
    counted = histogram(
        np.asarray([1, 2]), np.asarray([0.0, 0.5, 1.0]), title="t", x_label="x", tips=[HOSTILE] * 2
    )
    for figure in (chart, bars, counted):
        assert "<script" not in figure
        assert ET.fromstring(figure).tag == "figure"


def test_tooltips_tell_the_values() -> None:
    assert titles(line_chart([line([3.25, 2])], title="t", x_label="step")) == [
        "step 1: loss 3.25",
        "step 2: loss 2",
    ]
    assert titles(ranked_bars([("cat", 0.25), ("dog", 0.5)], title="t", x_label="x")) == [
        "dog: 0.500",
        "cat: 0.250",
    ]


def test_line_has_a_gap_where_a_value_is_not_finite() -> None:
    chart = line_chart([line([3, math.nan, 2, math.inf, 1])], title="t", x_label="step")
    path = re.search(r'class="line s1"', chart)
    assert path is not None
    data = next(e.get("d") for e in ET.fromstring(chart).iter("path"))
    assert data is not None and data.count("M") == 3 and "nan" not in data and "inf" not in data


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [math.nan], [-2.0, -1.0], [1e30, 1.0]])
def test_odd_values_are_drawn_inside_the_chart(values: list[float]) -> None:
    chart = line_chart([line(values)], title="t", x_label="step", size=(300, 200))
    assert "nan" not in chart
    for data in (e.get("d") for e in ET.fromstring(chart).iter("path")):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", data or "")]
        assert all(0 <= n <= 300 for n in numbers)


def test_spike_of_a_raw_line_does_not_flatten_the_rest() -> None:
    values = [1.0] * 500
    values[3] = 1e6
    chart = line_chart([line(values, style="raw"), line([1.0] * 500)], title="t", x_label="step")
    labels = [e.text for e in ET.fromstring(chart).iter("text")]
    assert "1" in labels and not any("M" in (label or "") for label in labels)


def test_long_line_is_thinned_and_keeps_its_extremes() -> None:
    y = np.random.default_rng(0).normal(size=100_000)
    y[77_777], y[1_234] = 50.0, -50.0
    x, thinned = thin(np.arange(100_000.0), y)
    assert len(x) <= 602
    assert thinned.max() == 50.0 and thinned.min() == -50.0
    assert (np.diff(x) > 0).all()
    assert len(line_chart([line(y.tolist())], title="t", x_label="s")) < 60_000


def test_smoothing_is_the_mean_of_what_is_finite() -> None:
    smoothed = smooth(np.asarray([1.0, 2.0, math.nan, 4.0]), 3)
    assert smoothed.tolist() == [1.5, 1.5, 3.0, 4.0]
    assert smooth(np.asarray([5.0]), 9).tolist() == [5.0]


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 90_000, 6, [0, 20_000, 40_000, 60_000, 80_000]),
        (0.1, 0.35, 5, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (400, "400"),
        (9999, "9999"),
        (12_500, "12.5k"),
        (2_000_000, "2M"),
        (0.0125, "0.0125"),
        (0.00003, "3e-05"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
