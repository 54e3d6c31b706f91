"""Images with what is in them and what the model found, side by side.

The photograph is embedded once an image, as a small JPEG; masks and boxes are drawn over it as
SVG, labels as text. What is drawn carries its score, so that the page's slider can move the least
one. This module refuses to embed more than thumbnails, and leaves out, with a line that says so,
an image that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas
from raymrcnn.report.markup import Attribute, Markup, el, join, markup
from raymrcnn.report.outline import rle_path
from raymrcnn.report.photos import Photo, photo_of, pixels_of
from raymrcnn.report.quality import CONFIDENT, Matches, Ranked, match
from raymrcnn.report.size import Level

SHOWN_FROM = 0.05  # the least score of a detection that the slider can bring up
_MAX_TAGS = 16  # labels written in one panel at the first score; all objects have a tooltip
_NUM_HUES = 5  # of matched pairs; see the style sheet

# The size that tags are taken to have when they are kept apart, for a panel of 290 by 217.
_TAG_PANEL, _TAG_CHAR, _TAG_PAD, _TAG_HEIGHT = 290.0, 6.3, 10.0, 17.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """An image to show, its photograph, and its matches down to `SHOWN_FROM`."""

    item: Ranked
    photo: Photo
    matches: Matches | None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One object or detection in a panel, in units of the thumbnail."""

    label: str
    tip: str
    style: str
    path: str
    box: tuple[float, float, float, float]  # XYXY
    score: float | None = None  # of a detection
    by: float | None = None  # of an object: the score that it was found with

    def shown(self) -> bool:
        """Whether it is seen before the slider is moved."""
        return self.score is None or self.score >= CONFIDENT

    def now(self) -> str:
        """The style before the slider is moved."""
        return "missed" if self.by is not None and self.by < CONFIDENT else self.style

    def attributes(self) -> dict[str, Attribute]:
        """What the page's script reads."""
        found: dict[str, Attribute] = {}
        if self.score is not None:
            found = {"data_score": f"{self.score:.4f}", "hidden": not self.shown()}
        elif self.by is not None:
            found = {"data_by": f"{self.by:.4f}", "data_style": self.style}
        return found


def take(
    items: Sequence[Ranked], *, key: str, locate: Callable[[Ranked], bytes | Path | str | None]
) -> tuple[list[Shot], list[str]]:
    """Read the photographs of some images; what cannot be read becomes a line.

    Args:
        items: what to show, in this order.
        key: unique on the page, for the ids of the photographs.
        locate: the bytes, path or URI of an image, None if it is not known.
    """
    shots, unread = [], []
    for i, item in enumerate(items):
        found = item.detections
        try:
            photo = photo_of(f"{key}-{i}", pixels_of(locate(item), found))
            matches = None if item.truth is None else match(found, item.truth, SHOWN_FROM)
        except DataError as error:
            unread.append(f"{found.file_name} is not shown: {error.what}")
            continue
        shots.append(Shot(item=item, photo=photo, matches=matches))
    return shots, unread


def gallery(
    shots: Sequence[Shot], unread: Sequence[str], names: Mapping[int, str], level: Level
) -> Markup:
    """The cards of some images, and a line for each that cannot be shown."""
    cards = [_card(shot, names, level) for shot in shots[: level.photos]]
    notes = [el("p", text, class_="absent") for text in unread]
    return markup(el("div", join(cards), class_="gallery"), *notes)


def zoom_buttons(name: str) -> Markup:
    """The buttons of a card that enlarge it and move closer."""
    wide = el("button", "Enlarge", type="button", class_="zoom", aria_pressed="false",
              aria_label=f"Enlarge {name}")  # fmt: skip
    steps = [
        el("button", sign, type="button", data_zoom=what, aria_label=f"{says} {name}")
        for sign, what, says in (
            ("−", "out", "Zoom out of"),
            ("+", "in", "Zoom into"),
            ("1:1", "all", "Show the whole of"),
        )
    ]
    return el("span", *steps, wide, class_="zooms", role="group", aria_label=f"Zoom of {name}")


def frame(stage: Markup, says: str) -> Markup:
    """What a picture moves in when one is closer; takes the keyboard's keys."""
    keys = "plus and minus zoom, arrow keys move, zero shows the whole"
    return el("div", stage, class_="frame", tabindex=0, role="group",
              aria_label=f"{says}; {keys}")  # fmt: skip


def _card(shot: Shot, names: Mapping[int, str], level: Level) -> Markup:
    found, m = shot.item.detections, shot.matches
    photo = shot.photo.at_most(level.photo_px)
    name = found.file_name or f"image {found.image_id}"
    on_it = predicted_shapes(shot, photo, names, level)
    if shot.item.matches is None or m is None:
        panels = [panel(photo, [], "Image", first=True), panel(photo, on_it, "Predicted")]
        sure = int((found.scores >= CONFIDENT).sum())
        facts = [el("span", f"{sure} detections", data_fact="sure")]
        counted: dict[str, Attribute] = {"data_sure": _scores(found.scores.tolist())}
    else:
        truth = annotated(shot, photo, names, level)
        panels = [panel(photo, truth, "Ground truth", first=True), panel(photo, on_it, "Predicted")]
        facts, counted = facts_of(shot), counted_of(shot)
    title = el("h4", el("bdi", name))
    head = el("header", title, el("p", *facts, class_="facts"), zoom_buttons(name))
    return el("article", head, el("div", *panels, class_="panels"), class_="card shot", **counted)


def facts_of(shot: Shot) -> list[Markup]:
    """Quality, and how many were found, missed and extra; the page's script renews them."""
    m = shot.item.matches
    assert m is not None
    quality = f"{m.quality:.2f}" if m.quality == m.quality else "–"
    return [
        el("strong", f"PQ {quality}", data_fact="pq"),
        el("span", f"{len(m.pairs)} found", data_fact="found"),
        el("span", f"{len(m.missed)} missed", data_fact="missed"),
        el("span", f"{len(m.extra)} extra", data_fact="extra"),
    ]


def counted_of(shot: Shot) -> dict[str, Attribute]:
    """What those facts are counted from, for any least score."""
    m, scores = shot.matches, shot.item.detections.scores
    assert m is not None
    return {
        "data_pairs": " ".join(f"{scores[d]:.4f}:{iou:.4f}" for d, _, iou in m.pairs),
        "data_extra": _scores([float(scores[d]) for d in m.extra]),
        "data_objects": len(m.pairs) + len(m.missed),
    }


def _scores(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values if value >= SHOWN_FROM)


def panel(
    photo: Photo,
    drawn: Sequence[Drawn],
    title: str,
    *,
    first: bool = False,
    facts: Sequence[Markup] = (),
    counted: Mapping[str, Attribute] | None = None,
) -> Markup:
    """The photograph and what is drawn over it; the later panels of a card refer to the first."""
    size = {"width": photo.width, "height": photo.height}
    picture = (
        el("image", id=photo.key, href=photo.href(), **size)
        if first
        else el("use", href=f"#{photo.key}")
    )
    shown = [d.tip for d in drawn if d.shown()]
    svg = el(
        "svg",
        picture,
        *(_shape(d) for d in drawn if d.path),
        viewBox=f"0 0 {photo.width} {photo.height}",
        role="img",
        data_title=title,
        aria_label=f"{title}: " + ("; ".join(shown[:30]) or "no objects marked"),
    )
    stage = el(
        "div",
        svg,
        el("div", *_tags(drawn, photo.width, photo.height), class_="tags", aria_hidden="true"),
        class_="stage tall" if photo.height * 4 > photo.width * 3 else "stage",
        style=f"aspect-ratio:{photo.width}/{photo.height}",
    )
    caption = el("figcaption", el("bdi", title), *facts)
    return el("figure", caption, frame(stage, title), class_="panel", **(counted or {}))


def _shape(d: Drawn) -> Markup:
    x1, y1, x2, y2 = d.box
    return el(
        "g",
        el("title", d.tip),
        el("path", d=d.path),
        el("rect", x=x1, y=y1, width=max(x2 - x1, 1.0), height=max(y2 - y1, 1.0), class_="box"),
        class_=f"shape {d.now()}",
        **d.attributes(),
    )


def annotated(
    shot: Shot, photo: Photo, names: Mapping[int, str], level: Level, *, plain: bool = False
) -> list[Drawn]:
    """The objects of an image; `plain`: without saying which were found."""
    truth, m, found = shot.item.truth, shot.matches, shot.item.detections
    assert truth is not None and m is not None
    partner = {g: (d, iou) for d, g, iou in m.pairs}
    drawn = []
    every = range(len(truth.rles))
    for g in _largest(truth.rles, every, found.height, found.width)[: level.shapes]:
        label = names.get(int(truth.category_ids[g]), f"category {truth.category_ids[g]}")
        by = None
        if truth.iscrowd[g]:
            style, tip = "crowd", f"{label}, a crowd: need not be found"
        elif plain:
            style, tip = f"pair{g % _NUM_HUES}", label
        elif g in partner:
            d, iou = partner[g]
            by = float(found.scores[d])
            style = f"pair{g % _NUM_HUES}"
            tip = f"{label}, found with score {by:.2f}, IoU {iou:.2f}"
        else:
            style, tip = "missed", f"{label}, missed"
        entry = _drawn(label, tip, style, truth.rles[g], shot, photo, level)
        drawn.append(replace(entry, by=by))
    return drawn


def predicted_shapes(
    shot: Shot, photo: Photo, names: Mapping[int, str], level: Level
) -> list[Drawn]:
    """The detections of an image, in the colours of the objects that they found."""
    found, m = shot.item.detections, shot.matches
    partner = {} if m is None else {d: (g, iou) for d, g, iou in m.pairs}
    extra = set() if m is None else set(m.extra)
    best = np.argsort(-found.scores, kind="stable")
    chosen = [d for d in best.tolist() if found.scores[d] >= SHOWN_FROM][: level.shapes]
    drawn = []
    for k, d in enumerate(_largest(found.rles, chosen, found.height, found.width)):
        name = names.get(int(found.category_ids[d]), f"category {found.category_ids[d]}")
        tip, style = f"{name}, score {found.scores[d]:.2f}", f"pair{k % _NUM_HUES}"
        if d in partner:
            g, iou = partner[d]
            style, tip = f"pair{g % _NUM_HUES}", f"{tip}, IoU {iou:.2f} with the ground truth"
        elif d in extra:
            style, tip = "extra", f"{tip}, matches no object"
        elif m is not None:
            style, tip = "crowd", f"{tip}, inside a crowd: not counted"
        label = f"{name} {found.scores[d]:.2f}"
        entry = _drawn(label, tip, style, found.rles[d], shot, photo, level)
        x1, y1, x2, y2 = (found.boxes[d] * (photo.width / found.width)).tolist()
        drawn.append(replace(entry, box=(x1, y1, x2, y2), score=float(found.scores[d])))
    return drawn


def _drawn(
    label: str, tip: str, style: str, rle: str, shot: Shot, photo: Photo, level: Level
) -> Drawn:
    found = shot.item.detections
    scale = photo.width / found.width
    path = rle_path(rle, found.height, found.width, scale, level.path_chars)
    return Drawn(label=label, tip=tip, style=style, path=path, box=_path_box(path))


def _largest(rles: Sequence[str], chosen: Iterable[int], height: int, width: int) -> list[int]:
    """The places of the masks, large before small so that small ones lie on top."""
    places = list(chosen)
    areas = rle_areas([rles[k] for k in places], height, width)
    return [places[k] for k in np.argsort(-areas, kind="stable")]


def _path_box(path: str) -> tuple[float, float, float, float]:
    words = path.replace("M", " ").replace("L", " ").replace("Z", " ").split()
    if not words:
        return 0.0, 0.0, 0.0, 0.0
    points = np.asarray(words, np.float64).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2


def _tags(drawn: Sequence[Drawn], width: int, height: int) -> list[Markup]:
    """Labels at their objects: what is seen at first before the rest, large objects first.

    What would cover another is left out.
    """
    scale = min(_TAG_PANEL / width, _TAG_PANEL * 0.75 / height)
    panel = (width * scale, height * scale)
    taken: list[tuple[float, float, float, float]] = []
    tags: list[Markup] = []
    for d in sorted(drawn, key=lambda d: not d.shown()):
        if not d.path or len(tags) >= (_MAX_TAGS if d.shown() else 2 * _MAX_TAGS):
            continue
        size = len(d.label) * _TAG_CHAR + _TAG_PAD, _TAG_HEIGHT
        x1, y1, _, y2 = (value * scale for value in d.box)
        for x, y in ((x1, y1 - size[1]), (x1, y1), (x1, y2 - size[1]), (x1, y2)):
            at = (
                min(max(x, 0.0), max(panel[0] - size[0], 0.0)),
                min(max(y, 0.0), max(panel[1] - size[1], 0.0)),
            )
            area = (*at, at[0] + size[0], at[1] + size[1])
            if not any(_overlap(area, other) for other in taken):
                taken.append(area)
                style = f"{_side(area, panel[0])};top:{100 * at[1] / panel[1]:.1f}%"
                tags.append(
                    el("span", d.label, class_=f"tag {d.now()}", style=style, **d.attributes())
                )
                break
    return tags


def _side(area: tuple[float, float, float, float], width: float) -> str:
    """Held at the nearer side, so that a wider font than expected does not leave the picture."""
    if area[0] + area[2] > width:
        return f"right:{100 * max(width - area[2], 0.0) / width:.1f}%"
    return f"left:{100 * area[0] / width:.1f}%"


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
