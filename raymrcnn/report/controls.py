"""What a reader of pictures can choose: the least score, and which of masks, boxes and labels."""

from __future__ import annotations

from raymrcnn.report.markup import Markup, el

SWITCHES = {"masks": "Masks", "boxes": "Boxes", "labels": "Labels"}


def controls(min_score: float, *, off: tuple[str, ...] = ()) -> list[Markup]:
    """A slider, switches, and a line that says how much is shown.

    Args:
        min_score: where the slider starts.
        off: which of `SWITCHES` start switched off.
    """
    slider = el("input", id="least", type="range", min="0", max="1", step="0.01",
                value=f"{min_score:.2f}", aria_describedby="counted")  # fmt: skip
    switches = [
        el(
            "label",
            el("input", type="checkbox", checked=what not in off, data_shows=what),
            f" {says}",
        )
        for what, says in SWITCHES.items()
    ]
    return [
        el("label", "Least score ", slider, " ", el("output", f"{min_score:.2f}", for_="least")),
        *switches,
        el("span", id="counted", role="status"),
    ]


def floating_controls(min_score: float) -> Markup:
    """The same as a bar that stays in sight; boxes start switched off."""
    return el(
        "div",
        *controls(min_score, off=("boxes",)),
        class_="controls floating",
        role="group",
        aria_label="What is shown in the images",
    )
