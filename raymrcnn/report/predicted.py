"""The page of predicted images: thumbnails with outlines, a slider for the least score.

This module refuses to read anything: it is given pictures and detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raymrcnn.report.controls import controls
from raymrcnn.report.document import document, theme_button
from raymrcnn.report.gallery import frame, zoom_buttons
from raymrcnn.report.markup import Attribute, Markup, el
from raymrcnn.report.outline import rle_path
from raymrcnn.report.parts import count
from raymrcnn.report.photos import Photo
from raymrcnn.report.size import Level
from raymrcnn.structures import Detections

_NUM_HUES = 8


def gallery_page(
    shown: Sequence[tuple[Photo, Detections]],
    names: Mapping[int, str],
    title: str,
    about: str,
    notes: Sequence[str],
    min_score: float,
    level: Level,
) -> str:
    """The HTML document.

    Args:
        shown: pictures with their detections.
        names: category ids to names.
        title: of the page.
        about: which images these are.
        notes: what could not be shown, a line each.
        min_score: where the slider starts.
        level: how much of it is shown.
    """
    cards = [_card(photo, found, names, min_score, level) for photo, found in shown[: level.photos]]
    lines = [el("p", note, class_="absent") for note in (*notes, level.says()) if note]
    top = el("header", el("p", "Predicted images", class_="kind"), el("h1", title),
             el("p", f"{about[:1].upper()}{about[1:]}", class_="lead"), class_="top")  # fmt: skip
    chosen = el("div", *controls(min_score), theme_button(), class_="inner controls")
    bar = el("nav", chosen, aria_label="What is shown")
    main = el("main", el("div", *cards, class_="gallery predicted"), *lines, id="main")
    return document(f"{title} · predicted images", [bar, top, main])


def _card(
    photo: Photo, found: Detections, names: Mapping[int, str], min_score: float, level: Level
) -> Markup:
    photo = photo.at_most(level.photo_px)
    size = {"width": photo.width, "height": photo.height}
    best = np.argsort(-found.scores, kind="stable")[: level.shapes]
    sides = found.boxes[best, 2:] - found.boxes[best, :2]
    large_first = best[np.argsort(-sides.prod(axis=1), kind="stable")]
    pairs = [_shape(photo, found, int(d), names, min_score, level) for d in large_first]
    shapes = [shape for shape, _ in pairs] + [label for _, label in pairs]  # labels on top
    says = "; ".join(
        f"{names.get(int(found.category_ids[d]), 'unnamed')} {found.scores[d]:.2f}"
        for d in best[:20].tolist()
    )
    svg = el(
        "svg",
        el("image", href=photo.href(), **size),
        *shapes,
        viewBox=f"0 0 {photo.width} {photo.height}",
        role="img",
        data_title="Predicted",
        aria_label=f"Predicted: {says or 'nothing'}",
    )
    more = len(found.scores) - len(best)
    facts = [count(len(found.scores), "detection")]
    facts += [f"{more} of the lowest scores are left out"] if more > 0 else []
    name = found.file_name or f"image {found.image_id}"
    head = el("header", el("h2", el("bdi", name)),
              el("p", *(el("span", f) for f in facts), class_="facts"),
              zoom_buttons(name))  # fmt: skip
    stage = el("div", svg, class_="stage")
    return el("article", head, frame(stage, "Predicted"), class_="card shot")


def _shape(
    photo: Photo,
    found: Detections,
    d: int,
    names: Mapping[int, str],
    min_score: float,
    level: Level,
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
    path = rle_path(found.rles[d], found.height, found.width, scale, level.path_chars)
    shape = el(
        "g",
        el("title", f"{name}, score {score:.3f}"),
        el("path", d=path, class_="mask"),
        el("rect", x=x1, y=y1, width=max(x2 - x1, 1.0), height=max(y2 - y1, 1.0), class_="box"),
        class_=f"found hue{category % _NUM_HUES}",
        **shown,
    )
    return shape, el("text", label, **at, font_size=letter, class_="found label", **shown)
