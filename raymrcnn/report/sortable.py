"""Tables that the page's script sorts and filters; whole without it."""

from __future__ import annotations

from collections.abc import Sequence

from raymrcnn.report.markup import Markup, el
from raymrcnn.report.parts import table


def sort_head(title: str, *, up: bool = False, numeric: bool = False) -> Markup:
    """A header that sorts its column; `up`: ascending first."""
    return el(
        "th",
        el("button", title, type="button"),
        scope="col",
        aria_sort="none",
        data_up=up,
        class_="num" if numeric else None,
    )


def filtered_table(head: Sequence[Markup], lines: Sequence[Markup]) -> Markup:
    """A card with a table, a row a category: to sort by its headers, to filter by name."""
    search = el(
        "label",
        "Filter ",
        el(
            "input",
            type="search",
            data_filters="category-table",
            aria_describedby="category-count",
            placeholder="part of a name",
        ),
        class_="filter",
    )
    shown = el("span", f"{len(lines)} of {len(lines)}", id="category-count", aria_live="polite")
    body = table(head, lines, class_="sortable", id="category-table")
    tools = el("p", search, shown, class_="tools")
    return el("div", tools, el("div", body, class_="scroll tall", tabindex=0), class_="card")
