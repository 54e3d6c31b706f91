"""What the sections are made of: headings, facts, tables, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from raymrcnn.report.markup import Attribute, Markup, el, join


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, or why it is left out."""

    key: str  # the id of the element
    title: str
    body: Markup | None = None
    why_absent: str = ""

    def html(self) -> Markup:
        """The section; nothing where it is left out."""
        if self.body is None:
            return Markup()
        heading = el("h2", self.title, id=f"{self.key}-title")
        return el("section", heading, self.body, id=self.key, aria_labelledby=f"{self.key}-title")


def facts(pairs: Sequence[tuple[str, str | None]]) -> Markup:
    """Names and values; those without a value are left out."""
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in pairs if value),
        class_="facts-list",
    )


def table(head: Sequence[Markup], rows: Sequence[Markup], **attributes: Attribute) -> Markup:
    """A table of finished cells: one header row, and body rows."""
    return el(
        "table",
        el("thead", el("tr", join(head))),
        el("tbody", *(el("tr", row) for row in rows)),
        **attributes,
    )


def score(value: Any) -> str:
    """An average precision or recall; a dash where there is nothing that it could be about."""
    number = as_float(value)
    return f"{number:.3f}" if number >= 0 else "–"


def as_float(value: Any) -> float:
    """A number of a JSON file, NaN where it is none."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def count(value: int, one: str, many: str = "") -> str:
    """A number of things, with thousands set apart: "1 image", "5 000 images"."""
    return f"{grouped(value)} {one if value == 1 else many or one + 's'}"


def grouped(value: int) -> str:
    """A whole number with its thousands set apart by narrow spaces."""
    return f"{value:,}".replace(",", "\u202f")


def date(text: Any) -> str | None:
    """An ISO 8601 time in UTC, to the minute; what is none is left as it is."""
    if not isinstance(text, str) or not text:
        return None
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text[:40]
    if when.tzinfo is None:
        return f"{when:%Y-%m-%d %H:%M}"
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str | None:
    """A time span in the two largest units that it has."""
    if not math.isfinite(seconds) or seconds < 0:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(days)} d {int(hours % 24)} h"
