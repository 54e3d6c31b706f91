"""HTML and SVG as strings that escape by default.

A plain string that becomes a child or an attribute is escaped; only what `el` and `markup` return
passes as it is. This module refuses to parse, and knows nothing of the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"br", "img", "input", "link", "meta", "wbr"})
# What a browser drops, shows as nothing, or lets reorder the text around it: control characters,
# lone surrogates (of file names that are not UTF-8), and directional overrides.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

Attribute = str | int | float | bool | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def markup(*parts: str) -> Markup:
    """Parts one after the other: `Markup` as it is, plain strings escaped."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts))


def join(parts: Iterable[str]) -> Markup:
    """`markup` of all the parts."""
    return markup(*parts)


def escape(text: object) -> Markup:
    """Text as it is to be seen, in a node or a quoted attribute."""
    return Markup(html.escape(_UNPRINTABLE.sub("�", str(text)), quote=True))


def el(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: `Markup` or plain text.
        attributes: `class_` stands for `class` and `aria_label` for `aria-label`; None and False
            are left out, True is an attribute without a value.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{escape(_attribute_text(value))}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{markup(*children)}</{name}>")


def _attribute_text(value: str | int | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
