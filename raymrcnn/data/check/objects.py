"""Findings about annotations: masks, boxes, areas, crowd flags, and objects that come twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymrcnn.data.check.findings import Finding
from raymrcnn.data.check.masks import OUTSIDE_PX, MaskMeasures, disagrees, measure_masks
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.coco_columns import COUNTS, POLYGONS
from raymrcnn.masks import polygon_pixels

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# A box that is as near to its mask's is taken to be drawn around it, by hand or in whole pixels.
BOX_PX, BOX_RATIO = 3.0, 0.1
# So many crowds as uncompressed runs, and so few others, show that the file means crowds by them.
_MANY_CROWDS, _FEW = 10, 0.1


@dataclass(frozen=True)
class Entries:
    """Makes findings about annotations, given by rows of the index."""

    index: CocoIndex
    positions: Ints  # of each row of the index in the file's list

    def finding(self, kind: str, j: int, what: str) -> Finding:
        """One about annotation j."""
        annotation_id = int(self.index.columns.ids[j])
        return Finding(
            kind=kind,
            id=annotation_id,
            message=f"annotation {annotation_id}: {what}",
            file=self.index.path,
            section="annotations",
            position=int(self.positions[j]),
        )

    def findings(self, kind: str, flags: Flags, what: Callable[[int], str]) -> Iterator[Finding]:
        """One about each annotation that is flagged."""
        for j in np.flatnonzero(flags).tolist():
            yield self.finding(kind, j, what(j))


def annotation_findings(entries: Entries) -> Iterator[Finding]:
    """All that is wrong or doubtful with annotations in themselves."""
    index = entries.index
    masks = measure_masks(index)
    yield from entries.findings(
        "annotation-id-0",
        index.columns.ids == 0,
        lambda j: "COCO's scorer takes the id 0 for no match; count ids from 1",
    )
    yield from _crowds(entries)
    for j, (kind, what) in sorted(masks.problems.items()):
        yield entries.finding(kind, j, what)
    yield from _shapes(entries, masks)
    yield from _areas(entries, masks)
    yield from _boxes(entries, masks)
    yield from _repeats(entries, masks)


def _crowds(entries: Entries) -> Iterator[Finding]:
    crowd = entries.index.columns.iscrowd
    kinds = entries.index.columns.segmentations.kinds
    yield from entries.findings(
        "crowd-polygons",
        crowd & (kinds == POLYGONS),
        lambda j: "a crowd with polygons, which scorers take for runs of pixels",
    )
    plain = kinds == COUNTS
    unset = plain & ~crowd
    if (plain & crowd).sum() >= _MANY_CROWDS and unset.sum() <= _FEW * plain.sum():
        yield from entries.findings(
            "crowd-unset",
            unset,
            lambda j: (
                "uncompressed run lengths, which all crowds here have and few others, "
                "but iscrowd is 0"
            ),
        )


def _shapes(entries: Entries, masks: MaskMeasures) -> Iterator[Finding]:
    yield from entries.findings(
        "polygon-crossing", masks.crossing, lambda j: "the sides of a polygon of it cross"
    )
    yield from entries.findings(
        "polygon-flat", masks.flat, lambda j: "one of its polygons encloses nothing"
    )
    yield from entries.findings(
        "polygon-outside",
        masks.outside_px > OUTSIDE_PX,
        lambda j: (
            f"a polygon stands {masks.outside_px[j]:g} px out of its "
            f"{_image_size(entries.index, j)} image"
        ),
    )


def _areas(entries: Entries, masks: MaskMeasures) -> Iterator[Finding]:
    areas = entries.index.columns.areas
    blank = masks.sound & (masks.pixels == 0)
    looked_at = masks.sound & ~blank
    yield from entries.findings(
        "mask-blank", blank, lambda j: "its mask covers no pixel; not trained on"
    )
    yield from entries.findings(
        "area-missing",
        looked_at & np.isnan(areas),
        lambda j: "it has no area; the pixels of its mask are taken",
    )
    with np.errstate(invalid="ignore"):
        zero = looked_at & (areas <= 0)
    yield from entries.findings("area-zero", zero, lambda j: f"its area is {areas[j]:g}")
    yield from entries.findings(
        "area-mismatch",
        looked_at & ~zero & disagrees(areas, masks.pixels),
        lambda j: f"its area is {areas[j]:g}, its mask covers {masks.pixels[j]:g} pixels",
    )


def _boxes(entries: Entries, masks: MaskMeasures) -> Iterator[Finding]:
    index = entries.index
    known = index.annotation_images >= 0
    size = np.stack((index.widths, index.heights), axis=1)[index.annotation_images]
    low, sides = index.columns.boxes[:, :2], index.columns.boxes[:, 2:]
    high = low + sides
    visible = np.minimum(high, size) - np.maximum(low, 0)
    out_px = np.maximum(-low, high - size).max(axis=1)

    def says(text: str) -> Callable[[int], str]:
        return lambda j: (
            f"the box {index.columns.boxes[j].tolist()} " + text.format(size=_image_size(index, j))
        )

    empty = known & (sides <= 0).any(axis=1)
    away = known & ~empty & (visible <= 0).any(axis=1)
    thin = known & ~empty & ~away & (visible.min(axis=1) < 1)
    standing = known & ~empty & ~away & (out_px > OUTSIDE_PX)
    yield from entries.findings("box-degenerate", empty, says("has no area"))
    yield from entries.findings("box-outside", away, says("lies outside its {size} image"))
    yield from entries.findings(
        "box-degenerate", thin, says("is thinner than a pixel; not trained on")
    )
    yield from entries.findings("box-outside", standing, says("stands out of its {size} image"))

    real = np.concatenate((low, high), axis=1)
    limit = np.concatenate((size, size), axis=1)
    apart = np.abs(np.clip(real, 0, limit) - np.clip(masks.extents, 0, limit)).max(axis=1)
    allowed = np.maximum(BOX_PX, BOX_RATIO * sides.min(axis=1))
    mismatch = known & ~empty & ~away & masks.sound & (masks.pixels != 0) & (apart > allowed)
    for j in np.flatnonzero(mismatch & (index.columns.segmentations.kinds == POLYGONS)).tolist():
        # Where an outline ends in a tip that covers no pixel, the pixels' box is as good.
        height, width = int(size[j, 1]), int(size[j, 0])
        _, box = polygon_pixels(index.columns.segmentations.polygons(j), height, width)
        mismatch[j] = np.abs(np.clip(real[j], 0, limit[j]) - box).max() > allowed[j]
    yield from entries.findings(
        "box-mismatch", mismatch, lambda j: _box_of_mask(index, masks.extents[j], j)
    )


def _box_of_mask(index: CocoIndex, extent: Floats, j: int) -> str:
    x1, y1, x2, y2 = extent.tolist()
    box = ", ".join(f"{v:g}" for v in (x1, y1, x2 - x1, y2 - y1))
    return f"its box is {index.columns.boxes[j].tolist()}, that of its mask [{box}]"


def _repeats(entries: Entries, masks: MaskMeasures) -> Iterator[Finding]:
    """Objects of the same image, category and mask as one before."""
    index = entries.index
    columns = index.columns
    rows = np.flatnonzero(masks.sound & (index.annotation_images >= 0))
    keys = np.stack(
        [
            index.annotation_images[rows],
            columns.category_ids[rows],
            columns.iscrowd[rows],
            columns.segmentations.kinds[rows],
        ]
    )
    extents = masks.extents[rows].T
    order = np.lexsort((*extents, *keys))  # stable: of equal ones the first in the file leads
    same = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    same &= (extents[:, order[1:]] == extents[:, order[:-1]]).all(axis=0)
    if not same.any():
        return
    group = np.concatenate(([0], np.cumsum(~same)))
    doubtful = np.flatnonzero(np.bincount(group)[group] > 1)
    first: dict[tuple[int, str], int] = {}
    for k in doubtful.tolist():
        j = int(rows[order[k]])
        mask = index.segmentation(j)
        text = repr([p.tolist() for p in mask] if isinstance(mask, list) else mask)
        leader = first.setdefault((int(group[k]), text), j)
        if leader != j:
            yield entries.finding(
                "duplicate-object",
                j,
                f"the same object as annotation {columns.ids[leader]}: image, category and mask",
            )


def _image_size(index: CocoIndex, j: int) -> str:
    i = index.annotation_images[j]
    return f"{index.widths[i]}x{index.heights[i]}"
