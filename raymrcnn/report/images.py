"""The images of the page: the best and the worst beside their ground truth, or examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raymrcnn import storage
from raymrcnn.data.fetch import Fetcher
from raymrcnn.data.images import resolve_image
from raymrcnn.report import collect
from raymrcnn.report.collect import Predictions
from raymrcnn.report.controls import floating_controls
from raymrcnn.report.gallery import Shot, gallery, take
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section, count, grouped
from raymrcnn.report.quality import CONFIDENT, MATCH_IOU, Ranked, Ranking, examples
from raymrcnn.report.size import Level
from raymrcnn.report.truth import Source

NUM_BEST, NUM_WORST = 6, 6


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the section shows, with the photographs read; or why it is left out."""

    why_absent: str = ""
    lead: str = ""
    with_truth: bool = False
    # Heading, the images, and a line for each that cannot be read.
    groups: list[tuple[str, list[Shot], list[str]]] = field(default_factory=list)

    def section(self, names: Mapping[int, str], level: Level) -> Section:
        """The section at a level of size."""
        key, title = "images", "Images"
        if self.why_absent or not level.photos:
            return Section(key=key, title=title, why_absent=self.why_absent or "no room is left")
        parts = [el("p", self.lead, class_="lead"), floating_controls(CONFIDENT)]
        parts += [_legend()] if self.with_truth else []
        for heading, shots, unread in self.groups:
            parts += [el("h3", heading)] if heading else []
            parts.append(gallery(shots, unread, names, level))
        return Section(key=key, title=title, body=markup(*parts))


def pictures(predictions: Predictions | None, ranking: Ranking | None, source: Source) -> Pictures:
    """Choose what to show, and read the photographs."""
    if predictions is None:
        return Pictures(why_absent="no predictions folder was given")
    if ranking is None:
        items = examples(predictions, NUM_BEST)
        if not items:
            why = f"no ground truth, and no detection with a score of {CONFIDENT} or more"
            return Pictures(why_absent=why)
        shots, unread = take(items, key="example", locate=locator(predictions, source, items))
        lead = f"Examples without ground truth: {source.why}."
        return Pictures(lead=lead, groups=[("", shots, unread)])
    if not len(ranking.qualities):
        why = "no image has both readable ground truth and something to compare"
        return Pictures(why_absent=why)
    locate = locator(predictions, source, ranking.best + ranking.worst)
    groups = [
        (heading, *take(items, key=key, locate=locate))
        for key, heading, items in (
            ("worst", "Worst images", ranking.worst),
            ("best", "Best images", ranking.best),
        )
        if items
    ]
    return Pictures(lead=_ranking_lead(predictions, ranking), with_truth=True, groups=groups)


def locator(
    predictions: Predictions, source: Source, items: Sequence[Ranked]
) -> Callable[[Ranked], bytes | Path | str | None]:
    """What finds the image of each item: as infer noted, or beside the annotations.

    The function that is returned raises DataError for an image that cannot be read.
    """
    refs = collect.image_refs(predictions.folder, [item.detections.image_id for item in items])
    fetch = Fetcher()

    def locate(item: Ranked) -> bytes | Path | str | None:
        found = item.detections
        ref = refs.get(found.image_id)
        if source.shards is not None:
            return source.shards.read(found.image_id, found.file_name)
        if ref is not None and (ref.length or ref.row >= 0):
            return fetch(ref)
        noted = ref.uri if ref is not None else ""
        if noted and not source.given and (storage.is_uri(noted) or Path(noted).is_file()):
            return noted
        if source.root is None or storage.is_uri(str(source.root)):
            return noted or None
        beside = resolve_image(Path(source.root), source.split, found.file_name)
        return noted if noted and not beside.is_file() else str(beside)

    return locate


def _ranking_lead(predictions: Predictions, ranking: Ranking) -> str:
    text = (
        f"Ranked by panoptic quality (PQ): the mask IoU of found objects, summed, over found plus "
        f"half of missed and extra ones; score at least {CONFIDENT}, IoU above {MATCH_IOU}."
    )
    if ranking.num_looked_at < len(predictions.image_ids):
        text += (
            f" Of {grouped(len(predictions.image_ids))} images, "
            f"{grouped(ranking.num_looked_at)}, evenly spread, were looked at."
        )
    if ranking.num_unreadable:
        text += f" {count(ranking.num_unreadable, 'image')} could not be compared."
    return text


def _legend() -> Markup:
    entries = (
        ("pair0", "found: same colour on both sides"),
        ("missed", "missed object"),
        ("extra", "extra detection"),
        ("crowd", "crowd, not counted"),
    )
    items = [
        el("li", el("span", class_=f"swatch {style}", aria_hidden="true"), says)
        for style, says in entries
    ]
    return el("ul", *items, class_="legend shapes")
