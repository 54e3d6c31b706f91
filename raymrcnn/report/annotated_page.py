"""The page of annotated images: photographs with outlines, boxes and names, and switches for them.

This module refuses to read anything: it is given pictures and annotations.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raymrcnn.masks import rle_areas
from raymrcnn.report.document import document
from raymrcnn.report.markup import Attribute, Markup, el
from raymrcnn.report.outline import rle_path
from raymrcnn.report.parts import count
from raymrcnn.report.photos import Photo
from raymrcnn.structures import Detections

_NUM_HUES = 8
_MOST_SHAPES = 200  # in one picture, large ones first
_REMARKS_SHOWN = 8
_LETTER = 1 / 38  # of the width of a picture

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image and its annotations; scores are 1."""

    image_id: int
    found: Detections
    annotation_ids: list[int]
    crowds: list[bool]
    remarks: list[str] = field(default_factory=list)  # findings
    notes: list[str] = field(default_factory=list)  # what could not be drawn
    photo: Photo | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the page is about."""

    title: str
    about: str
    names: Mapping[int, str]  # of all categories, by id


def page(scene: Scene, cards: Sequence[Card]) -> str:
    """The HTML document."""
    top = el("header", el("p", "Annotated images", class_="kind"), el("h1", scene.title),
             el("p", scene.about, class_="lead"), class_="top")  # fmt: skip
    hues = {k: n % _NUM_HUES for n, k in enumerate(sorted(scene.names))}
    main = el("main", el("div", *(_card(card, scene.names, hues) for card in cards),
                         class_="gallery predicted annotated"))  # fmt: skip
    body = [_controls(scene.names, cards), top, main]
    return document(f"{scene.title} · annotated images", body, besides="annotated")


def _controls(names: Mapping[int, str], cards: Sequence[Card]) -> Markup:
    """The switches and the choice of a category, kept in sight."""
    switches = [
        el("label", el("input", type="checkbox", checked=True, data_shows=what), f" {says}")
        for what, says in (("masks", "Masks"), ("boxes", "Boxes"), ("labels", "Labels"))
    ]
    ids = [k for card in cards for k in card.found.category_ids.tolist()]
    there = sorted({(names.get(k, f"category {k}"), k) for k in ids})
    options = [el("option", f"{name} ({ids.count(k)})", value=str(k)) for name, k in there]
    choice = el("select", el("option", "all categories", value=""), *options, id="category")
    inner = el(
        "div",
        *switches,
        el("label", "Show ", choice),
        el("span", id="counted", aria_live="polite"),
        el("button", "Dark", id="theme", type="button"),
        class_="inner controls",
    )
    return el("nav", inner, aria_label="What is shown")


def _card(card: Card, names: Mapping[int, str], hues: Mapping[int, int]) -> Markup:
    found = card.found
    facts = [f"id {card.image_id}", f"{found.width}x{found.height}",
             count(len(found.scores), "object")]  # fmt: skip
    if sum(card.crowds):
        facts.append(f"{sum(card.crowds)} a crowd")
    name = el("bdi", found.file_name or f"image {card.image_id}")
    zoom = el("button", "Enlarge", type="button", class_="zoom", aria_pressed="false")
    seen = [zoom] if card.photo is not None else []
    head = el("header", el("h4", name), *seen,
              el("p", *(el("span", f) for f in facts), class_="facts"))  # fmt: skip
    more = len(card.remarks) - _REMARKS_SHOWN
    lines = card.notes + card.remarks[:_REMARKS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    said = [el("ul", *(el("li", line) for line in lines), class_="remarks")] if lines else []
    picture = [] if card.photo is None else [_picture(card, card.photo, names, hues)]
    return el("article", head, *picture, *said, class_="card shot")


def _picture(card: Card, photo: Photo, names: Mapping[int, str], hues: Mapping[int, int]) -> Markup:
    found = card.found
    areas = rle_areas(found.rles, found.height, found.width)
    large_first = np.argsort(-areas, kind="stable")[:_MOST_SHAPES].tolist()
    shapes = [_shape(card, photo, d, names, hues) for d in large_first]
    taken: list[_Box] = []
    labels = [
        label
        for d in reversed(large_first)  # small ones choose their place first
        if (label := _label(card, photo, d, names, hues, taken)) is not None
    ]
    encoded = base64.b64encode(photo.jpeg).decode("ascii")
    says = [names.get(k, f"category {k}") for k in found.category_ids.tolist()]
    told = "; ".join(f"{says.count(s)} {s}" for s in dict.fromkeys(says)) or "no objects"
    return el(
        "svg",
        el("image", href=f"data:image/jpeg;base64,{encoded}", width=photo.width,
           height=photo.height),
        *shapes,
        *labels,
        viewBox=f"0 0 {photo.width} {photo.height}",
        role="img",
        aria_label=f"Annotated: {told}",
    )  # fmt: skip


def _shape(
    card: Card, photo: Photo, d: int, names: Mapping[int, str], hues: Mapping[int, int]
) -> Markup:
    """The outline and the box of one object."""
    found, scale = card.found, photo.width / card.found.width
    k = int(found.category_ids[d])
    x1, y1, x2, y2 = (found.boxes[d] * scale).tolist()
    crowd = ", a crowd" if card.crowds[d] else ""
    tip = f"{names.get(k, f'category {k}')}{crowd}, annotation {card.annotation_ids[d]}"
    return el(
        "g",
        el("title", tip),
        el("path", d=rle_path(found.rles[d], found.height, found.width, scale), class_="mask"),
        el("rect", x=x1, y=y1, width=max(x2 - x1, 1.0), height=max(y2 - y1, 1.0), class_="box"),
        class_=f"found hue{hues.get(k, k % _NUM_HUES)}{' crowd' if card.crowds[d] else ''}",
        data_category=k,
    )


def _label(
    card: Card, photo: Photo, d: int, names: Mapping[int, str], hues: Mapping[int, int],
    taken: list[_Box],
) -> Markup | None:  # fmt: skip
    """The name of one object at its box, unless it would cover another; the colour tells, too."""
    k = int(card.found.category_ids[d])
    name = names.get(k, f"category {k}")
    letter = photo.width * _LETTER
    wide = 0.64 * letter * len(name)
    x1, y1, _, _ = (card.found.boxes[d] * (photo.width / card.found.width)).tolist()
    x = max(min(x1 + 2, photo.width - wide), 1.0)
    y = min(max(y1 - 3, letter), photo.height - 2.0)
    box = (x, y - letter, x + wide, y)
    if any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in taken):
        return None
    taken.append(box)
    at: dict[str, Attribute] = {"x": x, "y": y, "data_category": k}
    return el("text", name, font_size=letter, class_=f"found label hue{hues.get(k, 0)}", **at)
