"""Small drawings for the cells of a table; decoration beside a number that is written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymrcnn.report.markup import Markup, el


def bar(value: float, style: str = "s1") -> Markup:
    """A bar as long as a value between 0 and 1."""
    width = 100 * min(max(value, 0.0), 1.0)
    return el(
        "svg",
        el("rect", class_="track", width=100, height=6, rx=3),
        el("rect", class_=f"fill {style}", width=width, height=6, rx=3),
        class_="cellbar",
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def sparkline(values: npt.NDArray[np.float64], style: str = "s1") -> Markup:
    """A small curve of values between 0 and 1."""
    shown = values[:: max(1, len(values) // 25)]
    step = 60 / max(len(shown) - 1, 1)
    words = [f"{i * step:.1f} {17 - 16 * min(max(v, 0.0), 1.0):.1f}" for i, v in enumerate(shown)]
    return el(
        "svg",
        el("path", d="M" + "L".join(words), class_=f"line {style}"),
        class_="spark",
        viewBox="0 0 60 18",
        aria_hidden="true",
    )
