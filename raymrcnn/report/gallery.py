"""Images with what is in them and what the model found, side by side.

The photograph is embedded once an image, as a small JPEG; masks are drawn over it as SVG, labels
as text. This module refuses to embed more than thumbnails, and leaves out, with a line that says
so, an image that cannot be read.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from raymrcnn.data.images import decode_annotated_image
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas
from raymrcnn.report.markup import Markup, el, join, markup
from raymrcnn.report.outline import rle_path
from raymrcnn.report.quality import CONFIDENT, Ranked
from raymrcnn.structures import Detections

THUMBNAIL_PX = 480  # the longer side of an embedded photograph
JPEG_QUALITY = 80
_MAX_OBJECTS = 80  # drawn in one panel
_MAX_TAGS = 16  # labels written in one panel; all objects have a tooltip
_MAX_IMAGE_BYTES = 200_000_000
_NUM_HUES = 5  # of matched pairs; see the style sheet

# The size that tags are taken to have when they are kept apart, for a panel of 290 by 217.
_TAG_PANEL, _TAG_CHAR, _TAG_PAD, _TAG_HEIGHT = 290.0, 6.3, 10.0, 17.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One object or detection in a panel, in units of the thumbnail."""

    label: str
    tip: str
    style: str
    path: str
    box: tuple[float, float, float, float]  # XYXY


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An embedded photograph."""

    key: str
    width: int
    height: int
    jpeg: bytes


def gallery(
    items: Sequence[Ranked],
    *,
    key: str,
    names: Mapping[int, str],
    locate: Callable[[Ranked], str | None],
) -> Markup:
    """The cards of some images, and a line for each that cannot be shown.

    Args:
        items: what to show, in this order.
        key: unique on the page, for the ids of the photographs.
        names: category ids to names.
        locate: the path or URI of an image, None if it is not known.
    """
    cards, unread = [], []
    for i, item in enumerate(items):
        try:
            photo = photo_of(f"{key}-{i}", pixels_of(locate(item), item.detections))
            cards.append(_card(item, photo, names))
        except DataError as error:
            unread.append(f"{item.detections.file_name} is not shown: {error.what}")
    notes = [el("p", text, class_="absent") for text in unread]
    return markup(el("div", join(cards), class_="gallery"), *notes)


def _card(item: Ranked, photo: Photo, names: Mapping[int, str]) -> Markup:
    found = item.detections
    name = el("bdi", found.file_name or f"image {found.image_id}")
    panels = [_panel(photo, _predicted(item, photo, names), "Predicted", first=False)]
    if item.matches is None:
        panels.insert(0, _panel(photo, [], "Image", first=True))
        sure = int((found.scores >= CONFIDENT).sum())
        facts = [el("span", f"{sure} with a score of at least {CONFIDENT}")]
    else:
        panels.insert(0, _panel(photo, _annotated(item, photo, names), "Ground truth", first=True))
        m = item.matches
        facts = [
            el("strong", f"PQ {m.quality:.2f}"),
            el("span", f"{len(m.pairs)} found"),
            el("span", f"{len(m.missed)} missed"),
            el("span", f"{len(m.extra)} extra"),
        ]
    zoom = el("button", "Enlarge", type="button", class_="zoom", aria_pressed="false")
    head = el("header", el("h4", name), el("p", *facts, class_="facts"), zoom)
    return el("article", head, el("div", *panels, class_="panels"), class_="card shot")


def _panel(photo: Photo, drawn: Sequence[Drawn], title: str, *, first: bool) -> Markup:
    """The photograph and what is drawn over it; the second panel of a card refers to the first."""
    size = {"width": photo.width, "height": photo.height}
    if first:
        encoded = base64.b64encode(photo.jpeg).decode("ascii")
        picture = el("image", id=photo.key, href=f"data:image/jpeg;base64,{encoded}", **size)
    else:
        picture = el("use", href=f"#{photo.key}")
    shapes = [
        el("g", el("title", d.tip), el("path", d=d.path), class_=f"shape {d.style}")
        for d in drawn
        if d.path
    ]
    says = f"{title}: " + ("; ".join(d.tip for d in drawn[:30]) or "no objects marked")
    svg = el(
        "svg",
        picture,
        *shapes,
        viewBox=f"0 0 {photo.width} {photo.height}",
        role="img",
        aria_label=says,
    )
    stage = el(
        "div",
        svg,
        el("div", *_tags(drawn, photo.width, photo.height), class_="tags", aria_hidden="true"),
        class_="stage tall" if photo.height * 4 > photo.width * 3 else "stage",
        style=f"aspect-ratio:{photo.width}/{photo.height}",
    )
    return el(
        "figure",
        el("figcaption", title),
        el("div", stage, class_="frame"),
        class_="panel",
    )


def _annotated(item: Ranked, photo: Photo, names: Mapping[int, str]) -> list[Drawn]:
    truth, matches, found = item.truth, item.matches, item.detections
    assert truth is not None and matches is not None
    partner = {g: (k, iou) for k, (_, g, iou) in enumerate(matches.pairs)}
    drawn = []
    for g in _largest(truth.rles, range(len(truth.rles)), found.height, found.width):
        label = names.get(int(truth.category_ids[g]), f"category {truth.category_ids[g]}")
        if truth.iscrowd[g]:
            style, tip = "crowd", f"{label}, a crowd: need not be found"
        elif g in partner:
            k, iou = partner[g]
            style, tip = f"pair{k % _NUM_HUES}", f"{label}, found with IoU {iou:.2f}"
        else:
            style, tip = "missed", f"{label}, missed"
        drawn.append(_drawn(label, tip, style, truth.rles[g], item, photo))
    return drawn


def _predicted(item: Ranked, photo: Photo, names: Mapping[int, str]) -> list[Drawn]:
    found, matches = item.detections, item.matches
    partner = {} if matches is None else {
        d: (k, iou) for k, (d, _, iou) in enumerate(matches.pairs)
    }  # fmt: skip
    extra = set() if matches is None else set(matches.extra)
    confident = np.flatnonzero(found.scores >= CONFIDENT).tolist()
    drawn = []
    for k, d in enumerate(_largest(found.rles, confident, found.height, found.width)):
        name = names.get(int(found.category_ids[d]), f"category {found.category_ids[d]}")
        tip, style = f"{name}, score {found.scores[d]:.2f}", f"pair{k % _NUM_HUES}"
        if d in partner:
            hue, iou = partner[d]
            style, tip = f"pair{hue % _NUM_HUES}", f"{tip}, IoU {iou:.2f} with the ground truth"
        elif d in extra:
            style, tip = "extra", f"{tip}, matches no object"
        elif matches is not None:
            style, tip = "crowd", f"{tip}, inside a crowd: not counted"
        label = f"{name} {found.scores[d]:.2f}"
        entry = _drawn(label, tip, style, found.rles[d], item, photo)
        x1, y1, x2, y2 = (found.boxes[d] * (photo.width / found.width)).tolist()
        drawn.append(replace(entry, box=(x1, y1, x2, y2)))
    return drawn


def _drawn(label: str, tip: str, style: str, rle: str, item: Ranked, photo: Photo) -> Drawn:
    size = item.detections.height, item.detections.width
    path = rle_path(rle, *size, photo.width / item.detections.width)
    return Drawn(label=label, tip=tip, style=style, path=path, box=_path_box(path))


def _largest(rles: Sequence[str], chosen: Iterable[int], height: int, width: int) -> list[int]:
    """The places of the largest masks, large before small so that small ones lie on top."""
    places = list(chosen)
    areas = rle_areas([rles[k] for k in places], height, width)
    return [places[k] for k in np.argsort(-areas, kind="stable")[:_MAX_OBJECTS]]


def _path_box(path: str) -> tuple[float, float, float, float]:
    words = path.replace("M", " ").replace("L", " ").replace("Z", " ").split()
    if not words:
        return 0.0, 0.0, 0.0, 0.0
    points = np.asarray(words, np.float64).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2


def _tags(drawn: Sequence[Drawn], width: int, height: int) -> list[Markup]:
    """Labels at their objects, large objects first; what would cover another is left out."""
    scale = min(_TAG_PANEL / width, _TAG_PANEL * 0.75 / height)
    panel = (width * scale, height * scale)
    taken: list[tuple[float, float, float, float]] = []
    tags: list[Markup] = []
    for d in drawn:
        if not d.path or len(tags) == _MAX_TAGS:
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
                tags.append(el("span", d.label, class_=f"tag {d.style}", style=style))
                break
    return tags


def _side(area: tuple[float, float, float, float], width: float) -> str:
    """Held at the nearer side, so that a wider font than expected does not leave the picture."""
    if area[0] + area[2] > width:
        return f"right:{100 * max(width - area[2], 0.0) / width:.1f}%"
    return f"left:{100 * area[0] / width:.1f}%"


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def pixels_of(place: bytes | Path | str | None, found: Detections) -> npt.NDArray[np.uint8]:
    """An image in the frame of its detections, uint8 [height, width, 3] RGB.

    Args:
        place: its bytes, path or URI; None if it is not known.
        found: what says its size.

    Raises:
        DataError: it cannot be read, or has not that size.
    """
    if not place:
        raise DataError("its place is not known")
    remote = isinstance(place, str) and "://" in place
    pixels = decode_annotated_image(
        _fetched(str(place)) if remote else place, found.width, found.height
    )
    upright: npt.NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
    return upright


def photo_of(key: str, pixels: npt.NDArray[np.uint8]) -> Photo:
    """A small photograph, to be embedded.

    Args:
        key: unique on the page.
        pixels: uint8 [height, width, 3] RGB.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Photo(key=key, width=image.width, height=image.height, jpeg=stream.getvalue())


def _fetched(uri: str) -> bytes:
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read(_MAX_IMAGE_BYTES)
    except (OSError, pa.ArrowException) as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(f"cannot be read ({line})", where=Path(uri).name) from None
    return data
