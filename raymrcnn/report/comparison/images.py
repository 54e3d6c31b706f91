"""The images that the compared predictions differ most in, beside their ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raymrcnn.data.coco import CocoIndex
from raymrcnn.errors import DataError
from raymrcnn.report.collect import Predictions
from raymrcnn.report.comparison.subjects import Subject
from raymrcnn.report.controls import floating_controls
from raymrcnn.report.gallery import (
    SHOWN_FROM,
    Shot,
    annotated,
    counted_of,
    facts_of,
    panel,
    predicted_shapes,
    zoom_buttons,
)
from raymrcnn.report.images import locator
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section
from raymrcnn.report.photos import photo_of, pixels_of
from raymrcnn.report.progress import Progress
from raymrcnn.report.quality import (
    CONFIDENT,
    MATCH_IOU,
    MAX_RANKED,
    Ranked,
    evenly,
    match,
    sampled,
    truth_for,
)
from raymrcnn.report.size import Level
from raymrcnn.report.truth import Source

NUM_SHOWN = 6
_MOST_SUBJECTS = 4  # beside the ground truth


@dataclass(frozen=True, kw_only=True)
class Differing:
    """The images, one shot a subject; or why there are none."""

    why_absent: str = ""
    subjects: list[str] = field(default_factory=list)
    cards: list[list[Shot]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def section(self, names: Mapping[int, str], level: Level) -> Section:
        """The section at a level of size."""
        key, title = "images", "Images"
        if self.why_absent or not level.photos:
            return Section(key=key, title=title, why_absent=self.why_absent or "no room is left")
        lead = (
            f"Those whose panoptic quality (score at least {CONFIDENT}, IoU above {MATCH_IOU}) "
            "differs most. An object and what found it have one colour; dashed amber found none."
        )
        cards = [_card(shots, self.subjects, names, level) for shots in self.cards]
        notes = [el("p", text, class_="absent") for text in self.unread]
        body = markup(
            el("p", lead, class_="lead"),
            floating_controls(CONFIDENT),
            el("div", *cards, class_="gallery one"),
            *notes,
        )
        return Section(key=key, title=title, body=body)


def differing_images(
    subjects: Sequence[Subject], index: CocoIndex, source: Source, progress: Progress
) -> Differing:
    """Choose images that all predictions have, and read them."""
    chosen = [(one.name, one.predictions) for one in subjects if one.predictions is not None]
    chosen = chosen[:_MOST_SUBJECTS]
    if len(chosen) < 2:
        return Differing(why_absent="fewer than two predictions were given")
    every = [predictions for _, predictions in chosen]
    common = every[0].image_ids
    for one in every[1:]:
        common = np.intersect1d(common, one.image_ids)
    ids = evenly(common, MAX_RANKED)
    tables = [_qualities(p, index, ids, name, progress) for name, p in chosen]
    known = set(tables[0]).intersection(*tables[1:])
    spread = {k: max(t[k] for t in tables) - min(t[k] for t in tables) for k in known}
    apart = [k for k in sorted(spread, key=lambda k: (-spread[k], k)) if spread[k] > 0]
    if not apart:
        return Differing(why_absent="no image with ground truth differs")
    wanted = np.asarray(sorted(apart[:NUM_SHOWN]), np.int64)
    found = [{d.image_id: d for d in sampled(p, wanted)} for p in every]
    cards, unread = [], []
    for k, image_id in enumerate(apart[:NUM_SHOWN]):
        items = []
        for table in found:
            detections = table[image_id]
            truth = truth_for(index, detections)
            items.append(
                Ranked(detections=detections, truth=truth, matches=match(detections, truth))
            )
        locate = locator(every[0], source, items[:1])
        try:
            pixels = pixels_of(locate(items[0]), items[0].detections)
        except DataError as error:
            unread.append(f"{items[0].detections.file_name} is not shown: {error.what}")
            continue
        photo = photo_of(f"differing-{k}", pixels)
        cards.append([
            Shot(item=item, photo=photo, matches=match(item.detections, item.truth, SHOWN_FROM))
            for item in items if item.truth is not None
        ])  # fmt: skip
    return Differing(subjects=[name for name, _ in chosen], cards=cards, unread=unread)


def _qualities(
    predictions: Predictions,
    index: CocoIndex,
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    name: str,
    progress: Progress,
) -> dict[int, float]:
    """Panoptic quality by image id, of those that have one."""
    found = {}
    for done, detections in enumerate(sampled(predictions, ids), start=1):
        progress(f"images of {name} compared with the ground truth", done, len(ids))
        try:
            quality = match(detections, truth_for(index, detections)).quality
        except DataError:
            continue
        if quality == quality:  # a number
            found[detections.image_id] = quality
    return found


def _card(
    shots: Sequence[Shot], subjects: Sequence[str], names: Mapping[int, str], level: Level
) -> Markup:
    first = shots[0]
    photo = first.photo.at_most(level.photo_px)
    name = first.item.detections.file_name or f"image {first.item.detections.image_id}"
    truth = annotated(first, photo, names, level, plain=True)
    panels = [panel(photo, truth, "Ground truth", first=True)]
    for shot, subject in zip(shots, subjects, strict=True):
        drawn = predicted_shapes(shot, photo, names, level)
        facts = [el("span", *facts_of(shot), class_="facts")]
        panels.append(panel(photo, drawn, subject, facts=facts, counted=counted_of(shot)))
    head = el("header", el("h3", el("bdi", name)), zoom_buttons(name))
    style = f"--columns:{len(panels)}"
    return el("article", head, el("div", *panels, class_="panels several", style=style),
              class_="card shot")  # fmt: skip
