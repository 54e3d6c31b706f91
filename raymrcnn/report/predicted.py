"""The page of predicted images: thumbnails with outlines, a slider for the least score.

This module refuses to read anything: it is given pictures and detections.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from raymrcnn.report.gallery import Photo
from raymrcnn.report.markup import Attribute, Markup, el
from raymrcnn.report.outline import rle_path
from raymrcnn.report.parts import count
from raymrcnn.report.style import packaged, script, style_sheet
from raymrcnn.structures import Detections

_MOST_SHAPES = 60  # in one picture, best score first
_NUM_HUES = 8


def gallery_page(
    shown: Sequence[tuple[Photo, Detections]],
    names: Mapping[int, str],
    title: str,
    about: str,
    notes: Sequence[str],
    min_score: float,
) -> str:
    """The HTML document.

    Args:
        shown: pictures with their detections.
        names: category ids to names.
        title: of the page.
        about: which images these are.
        notes: what could not be shown, a line each.
        min_score: where the slider starts.
    """
    code = script() + packaged("gallery.js")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    style = Markup(style_sheet() + packaged("gallery.css"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} · predicted images"),
        el("style", style),
    )
    cards = [_card(photo, found, names, min_score) for photo, found in shown]
    lines = [el("p", note, class_="absent") for note in notes]
    top = el("header", el("p", "Predicted images", class_="kind"), el("h1", title),
             el("p", f"{about[:1].upper()}{about[1:]}", class_="lead"), class_="top")  # fmt: skip
    main = el("main", el("div", *cards, class_="gallery predicted"), *lines)
    body = el("body", _controls(min_score), top, main, el("script", Markup(code)))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _controls(min_score: float) -> Markup:
    """The slider and the switches, kept in sight."""
    slider = el("input", id="least", type="range", min="0", max="1", step="0.01",
                value=f"{min_score:.2f}", aria_describedby="counted")  # fmt: skip
    switches = [
        el("label", el("input", type="checkbox", checked=True, data_shows=what), f" {says}")
        for what, says in (("masks", "Masks"), ("boxes", "Boxes"), ("labels", "Labels"))
    ]
    inner = el(
        "div",
        el("label", "Least score ", slider, " ", el("output", f"{min_score:.2f}", for_="least")),
        *switches,
        el("span", id="counted", aria_live="polite"),
        el("button", "Dark", id="theme", type="button"),
        class_="inner controls",
    )
    return el("nav", inner, aria_label="What is shown")


def _card(photo: Photo, found: Detections, names: Mapping[int, str], min_score: float) -> Markup:
    encoded = base64.b64encode(photo.jpeg).decode("ascii")
    size = {"width": photo.width, "height": photo.height}
    best = np.argsort(-found.scores, kind="stable")[:_MOST_SHAPES]
    sides = found.boxes[best, 2:] - found.boxes[best, :2]
    large_first = best[np.argsort(-sides.prod(axis=1), kind="stable")]
    pairs = [_shape(photo, found, int(d), names, min_score) for d in large_first]
    shapes = [shape for shape, _ in pairs] + [label for _, label in pairs]  # labels on top
    says = "; ".join(
        f"{names.get(int(found.category_ids[d]), 'unnamed')} {found.scores[d]:.2f}"
        for d in best[:20].tolist()
    )
    svg = el(
        "svg",
        el("image", href=f"data:image/jpeg;base64,{encoded}", **size),
        *shapes,
        viewBox=f"0 0 {photo.width} {photo.height}",
        role="img",
        aria_label=f"Predicted: {says or 'nothing'}",
    )
    more = len(found.scores) - len(best)
    facts = [count(len(found.scores), "detection")]
    facts += [f"{more} of the lowest scores are left out"] if more > 0 else []
    zoom = el("button", "Enlarge", type="button", class_="zoom", aria_pressed="false")
    name = el("bdi", found.file_name or f"image {found.image_id}")
    head = el("header", el("h4", name), el("p", *(el("span", f) for f in facts), class_="facts"),
              zoom)  # fmt: skip
    return el("article", head, svg, class_="card shot")


def _shape(
    photo: Photo, found: Detections, d: int, names: Mapping[int, str], min_score: float
) -> tuple[Markup, Markup]:
    """The outline and box of a detection, and its label."""
    scale = photo.width / found.width
    category, score = int(found.category_ids[d]), float(found.scores[d])
    name = names.get(category, f"category {category}")
    x1, y1, x2, y2 = (found.boxes[d] * scale).tolist()
    label = f"{name} {score:.2f}"
    letter = photo.width / 38  # the height of the letters
    longest = photo.width - 0.58 * letter * len(label)  # where it may begin and still be seen
    at = {"x": max(min(x1 + 2, longest), 1.0), "y": max(y1 - 3, letter)}
    shown: dict[str, Attribute] = {"data_score": f"{score:.4f}", "hidden": score < min_score}
    shape = el(
        "g",
        el("title", f"{name}, score {score:.3f}"),
        el("path", d=rle_path(found.rles[d], found.height, found.width, scale), class_="mask"),
        el("rect", x=x1, y=y1, width=max(x2 - x1, 1.0), height=max(y2 - y1, 1.0), class_="box"),
        class_=f"found hue{category % _NUM_HUES}",
        **shown,
    )
    return shape, el("text", label, **at, font_size=letter, class_="found label", **shown)
