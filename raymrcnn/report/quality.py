"""How good the predictions of one image are, and which images are the best and the worst.

The measure is for picking images to look at; a model is judged by its AP. This module refuses to
rank an image whose ground truth it cannot read, and counts those.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymrcnn.data.coco import CocoIndex
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas, rle_iou, segmentation_to_rle
from raymrcnn.report.collect import Predictions, result_batches
from raymrcnn.report.progress import Progress
from raymrcnn.rows import iter_detections
from raymrcnn.structures import Detections

CONFIDENT = 0.5  # the score from which a detection counts as the model's word
MATCH_IOU = 0.5
MAX_RANKED = 2000  # images that are looked at, evenly spread by id


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The ground truth of one image."""

    category_ids: npt.NDArray[np.int64]  # [num_objects]
    iscrowd: npt.NDArray[np.bool_]  # [num_objects]
    rles: list[str]  # compressed counts, of the image's size


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Which detection found which object, by their places in `Detections` and `Truth`."""

    pairs: tuple[tuple[int, int, float], ...]  # detection, object, mask IoU
    missed: tuple[int, ...]  # objects
    extra: tuple[int, ...]  # confident detections that found nothing

    @property
    def quality(self) -> float:
        """Panoptic quality, 0 to 1; NaN where there is nothing to find and nothing was found."""
        weight = len(self.pairs) + (len(self.missed) + len(self.extra)) / 2
        return sum(iou for _, _, iou in self.pairs) / weight if weight else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """One image to show."""

    detections: Detections
    truth: Truth | None = None
    matches: Matches | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The images with the highest and the lowest quality."""

    best: list[Ranked]
    worst: list[Ranked]
    qualities: npt.NDArray[np.float64]  # of all that were looked at and have one
    num_looked_at: int
    num_unreadable: int  # whose ground truth is missing, malformed, or of another size


def match(detections: Detections, truth: Truth, least: float = CONFIDENT) -> Matches:
    """Pair detections of at least a score with objects, for the panoptic quality of one image.

    Panoptic quality is the sum of the mask IoU of the pairs, divided by the number of pairs plus
    half the missed objects plus half the extra detections: 1 if every object is found exactly and
    nothing else, 0 if nothing is. Detections with a score of at least `least` pick, highest
    score first, the object of their category that they overlap most, if it is still free and the
    mask IoU is above `MATCH_IOU`. Objects marked as crowds need not be found, and a detection
    that lies by more than half in a crowd of its category is not extra.

    So the pairs and extra detections of a higher least score are those of a lower one that reach
    it: the page moves the score without matching anew.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, equation 1, per image and with
    instances that may overlap.
    """
    pairs: list[tuple[int, int, float]] = []
    extra: list[int] = []
    chosen = np.flatnonzero(detections.scores >= least)
    order = chosen[np.argsort(-detections.scores[chosen], kind="stable")]
    for category in np.unique(detections.category_ids[order]).tolist():
        found = order[detections.category_ids[order] == category]
        same = truth.category_ids == category
        real = np.flatnonzero(same & ~truth.iscrowd)
        overlaps = _overlaps(detections, found, truth, real)
        unmatched = []
        for k, d in enumerate(found.tolist()):
            best = int(overlaps[k].argmax()) if len(real) else -1
            if best >= 0 and overlaps[k, best] > MATCH_IOU:
                pairs.append((d, int(real[best]), float(overlaps[k, best])))
                overlaps[:, best] = -1.0
            else:
                unmatched.append(d)
        crowds = np.flatnonzero(same & truth.iscrowd)
        extra += _outside_crowds(detections, np.asarray(unmatched, np.int64), truth, crowds)
    hit = {g for _, g, _ in pairs}
    missed = [g for g in np.flatnonzero(~truth.iscrowd).tolist() if g not in hit]
    return Matches(pairs=tuple(pairs), missed=tuple(missed), extra=tuple(sorted(extra)))


def truth_of(index: CocoIndex, row: int) -> Truth:
    """The ground truth of the image in a row of the index.

    Raises:
        DataError: an annotation has no mask, or a malformed one.
    """
    notes = index.annotations_of(row)
    height, width = int(index.heights[row]), int(index.widths[row])
    rles = [
        segmentation_to_rle(index.segmentation(j), height, width, f"annotation {annotation_id}")
        for j, annotation_id in enumerate(notes.ids.tolist(), start=notes.first)
    ]
    return Truth(category_ids=notes.category_ids, iscrowd=notes.iscrowd, rles=rles)


def rank(
    predictions: Predictions,
    index: CocoIndex,
    num_best: int,
    num_worst: int,
    progress: Progress = lambda what, done, of: None,
) -> Ranking:
    """The best and the worst images, in one pass that keeps only those.

    Among images of the same quality, the best have the most objects found and the worst the most
    mistakes. Where there are more than `MAX_RANKED` images, that many, evenly spread by id, are
    looked at: the same ones every time.
    """
    best: list[tuple[tuple[float, ...], Ranked]] = []
    worst: list[tuple[tuple[float, ...], Ranked]] = []
    qualities: list[float] = []
    num_looked_at = num_unreadable = 0
    chosen = evenly(predictions.image_ids, MAX_RANKED)
    for detections in sampled(predictions, chosen):
        serial, num_looked_at = float(num_looked_at), num_looked_at + 1
        progress("images compared with the ground truth", num_looked_at, len(chosen))
        try:
            truth = truth_for(index, detections)
            matches = match(detections, truth)
        except DataError:
            num_unreadable += 1
            continue
        quality = matches.quality
        if np.isnan(quality):
            continue
        qualities.append(quality)
        item = Ranked(detections=detections, truth=truth, matches=matches)
        mistakes = len(matches.missed) + len(matches.extra)
        # The serial number decides ties: the items themselves have no order.
        _keep(best, ((quality, len(matches.pairs), -serial), item), num_best)
        _keep(worst, ((-quality, mistakes, -serial), item), num_worst)
    top, bottom = _apart(best, worst, len(qualities))
    return Ranking(
        best=top,
        worst=bottom,
        qualities=np.asarray(qualities),
        num_looked_at=num_looked_at,
        num_unreadable=num_unreadable,
    )


def examples(predictions: Predictions, count: int) -> list[Ranked]:
    """Some images in which something was found, evenly spread by id."""
    pool = sampled(predictions, evenly(predictions.image_ids, MAX_RANKED))
    ids = [d.image_id for d in pool if len(d.scores) and d.scores.max() >= CONFIDENT]
    chosen = evenly(np.sort(np.asarray(ids, np.int64)), count)
    return [Ranked(detections=d) for d in sampled(predictions, chosen)][:count]


def evenly(ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the ids, spread evenly over their order."""
    if len(ids) <= count:
        return ids
    return ids[np.arange(count) * len(ids) // count]


def sampled(predictions: Predictions, ids: npt.NDArray[np.int64]) -> Iterator[Detections]:
    """The detections of images with these ids, in the order of the files."""
    for batch in result_batches(predictions.parts):
        wanted = np.isin(batch.column("image_id").to_numpy(zero_copy_only=False), ids)
        if wanted.any():
            yield from iter_detections(pa.Table.from_batches([batch]).filter(pa.array(wanted)))


def truth_for(index: CocoIndex, detections: Detections) -> Truth:
    """The ground truth of a predicted image.

    Raises:
        DataError: there is none, it is malformed, or drawn in another frame.
    """
    row = int(index.images_with_ids([detections.image_id])[0])
    size = int(index.widths[row]), int(index.heights[row])
    if size != (detections.width, detections.height):
        raise DataError("predicted in another frame than it was annotated in")
    return truth_of(index, row)


def _keep(
    heap: list[tuple[tuple[float, ...], Ranked]],
    entry: tuple[tuple[float, ...], Ranked],
    count: int,
) -> None:
    heapq.heappush(heap, entry)
    if len(heap) > count:
        heapq.heappop(heap)


def _apart(
    best: list[tuple[tuple[float, ...], Ranked]],
    worst: list[tuple[tuple[float, ...], Ranked]],
    num_ranked: int,
) -> tuple[list[Ranked], list[Ranked]]:
    """Both lists in order, no image in both: of few images, the upper half is best."""
    top = [item for _, item in sorted(best, key=lambda entry: entry[0], reverse=True)]
    bottom = [item for _, item in sorted(worst, key=lambda entry: entry[0], reverse=True)]
    if num_ranked < len(top) + len(bottom):
        top = top[: (num_ranked + 1) // 2]
        shown = {id(item) for item in top}
        bottom = [item for item in bottom if id(item) not in shown]
    return top, bottom


def _overlaps(
    detections: Detections,
    found: npt.NDArray[np.int64],
    truth: Truth,
    real: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Mask IoU, [num_found, num_real]."""
    return rle_iou(
        [detections.rles[d] for d in found],
        [truth.rles[g] for g in real],
        detections.height,
        detections.width,
        f"image {detections.image_id}",
    )


def _outside_crowds(
    detections: Detections,
    found: npt.NDArray[np.int64],
    truth: Truth,
    crowds: npt.NDArray[np.int64],
) -> list[int]:
    """The detections that lie by at most half in any of the crowds."""
    if not len(found) or not len(crowds):
        return [int(d) for d in found]
    size = detections.height, detections.width
    areas = rle_areas([detections.rles[d] for d in found], *size)[:, None].astype(np.float64)
    crowd_areas = rle_areas([truth.rles[g] for g in crowds], *size)[None, :]
    iou = _overlaps(detections, found, truth, crowds)
    shared = iou * (areas + crowd_areas) / (1.0 + iou)
    inside = (shared > areas / 2).any(axis=1)
    return [int(d) for d in found[~inside]]
