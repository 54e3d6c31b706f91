"""The frame of every page: one file with its style and script, which may load nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata

from raymrcnn.report.markup import Markup, el, escape
from raymrcnn.report.parts import Section
from raymrcnn.report.style import packaged, script, style_sheet


def document(title: str, body: Sequence[Markup], *, besides: str = "") -> str:
    """An HTML document whose policy forbids to load anything or to run another script than its own.

    Args:
        title: of the window.
        body: from top to bottom.
        besides: name of a script and a style sheet of its own, without their endings.
    """
    code = script() + (packaged(f"{besides}.js") if besides else "")
    style = style_sheet() + (packaged(f"{besides}.css") if besides else "")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(style)),
    )
    inside = el("body", *body, el("script", Markup(code)))
    return f"<!DOCTYPE html>\n{el('html', head, inside, lang='en')}\n"


def theme_button() -> Markup:
    """Switches between light and dark."""
    return el("button", "Dark", id="theme", type="button")


def navigation(links: Sequence[tuple[str, str]]) -> Markup:
    """The bar with the sections of the page; a link before it leads past it.

    Args:
        links: ids of sections, and their titles.
    """
    items = [el("li", el("a", title, href=f"#{key}")) for key, title in links]
    bar = el("div", el("ul", *items), theme_button(), class_="inner")
    return Markup(
        el("a", "Skip to the content", href="#main", class_="skip")
        + el("nav", bar, aria_label="Sections")
    )


def left_out(sections: Sequence[Section], said: str) -> Markup:
    """What is not on the page, and why; nothing where all is."""
    items = [el("li", el("b", s.title), f": {s.why_absent}.") for s in sections if s.body is None]
    items += [el("li", said)] if said else []
    if not items:
        return Markup()
    return el("aside", el("h2", "Not in this report"), el("ul", *items), class_="left-out")


def footer() -> Markup:
    """Who wrote the page, and when."""
    try:
        version = f" {metadata.version('raymrcnn')}"
    except metadata.PackageNotFoundError:
        version = ""
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return el("footer", escape(f"Written by raymrcnn{version} on {now}."))
