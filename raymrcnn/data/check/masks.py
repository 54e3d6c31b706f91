"""The masks of a whole annotation file: what is wrong with each, its pixels and its extent.

Pixels are counted where it matters alone: outlines enclose what they enclose give or take their
length, and where that already tells an area right, nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymrcnn.data.check.polygons import PolygonMeasures, measure_polygons
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.coco_columns import COMPRESSED, COUNTS, NO_MASK, POLYGONS
from raymrcnn.errors import DataError
from raymrcnn.masks import polygon_pixels
from raymrcnn.rle import check_size, decode_runs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# COCO's own areas count overlapping polygons of an object twice, so only gross errors are told.
AREA_RATIO, AREA_PX = 2.0, 32.0
OUTSIDE_PX = 1.0  # how far a box or a polygon may stand out of its image
_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class MaskMeasures:
    """By rows of the index; of masks that are not sound, or of no known image, 0.

    Crossing, flat and outside are about polygons.
    """

    problems: dict[int, tuple[str, str]]  # kind and what, of masks that are not sound
    sound: Flags
    pixels: Floats  # NaN where they were not counted: about as many as the area says
    extents: Floats  # [num, 4] XYXY pixels
    crossing: Flags
    flat: Flags  # one of several polygons encloses nothing
    outside_px: Floats  # how far the extent stands out of the image


def measure_masks(index: CocoIndex) -> MaskMeasures:
    """Measure all masks of a file."""
    num = index.num_annotations
    found = MaskMeasures(
        problems={},
        sound=np.zeros(num, np.bool_),
        pixels=np.full(num, np.nan),
        extents=np.zeros((num, 4)),
        crossing=np.zeros(num, np.bool_),
        flat=np.zeros(num, np.bool_),
        outside_px=np.zeros(num),
    )
    kinds = index.columns.segmentations.kinds
    for j in np.flatnonzero(kinds == NO_MASK).tolist():
        found.problems[j] = ("mask-missing", "it has no segmentation")
    _outlines(index, found)
    _run_lengths(index, found)
    return found


def _outlines(index: CocoIndex, found: MaskMeasures) -> None:
    masks = index.columns.segmentations
    rows = np.flatnonzero(masks.kinds == POLYGONS)
    polygons = measure_polygons(masks)
    first, num_parts = masks.rows[rows, 0], masks.rows[rows, 1] - masks.rows[rows, 0]
    inside = np.arange(num_parts.sum()) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    parts = np.repeat(first, num_parts) + inside  # polygons, those of an annotation together
    owner = np.repeat(np.arange(len(rows)), num_parts)

    wrong = np.zeros(len(rows), np.bool_)
    wrong[num_parts == 0] = True
    wrong[owner[~polygons.sound[parts]]] = True
    for k in np.flatnonzero(wrong).tolist():
        own = slice(int(first[k]), int(first[k] + num_parts[k]))
        found.problems[int(rows[k])] = _polygon_problem(polygons, own)

    whole = ~wrong[owner]
    parts, owner = parts[whole], owner[whole]
    good = rows[~wrong]
    if not len(good):
        return
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    areas, perimeters = polygons.areas[parts], polygons.perimeters[parts]
    extents = polygons.extents[parts]
    found.sound[good] = True
    found.extents[good, :2] = np.minimum.reduceat(extents[:, :2], starts, axis=0)
    found.extents[good, 2:] = np.maximum.reduceat(extents[:, 2:], starts, axis=0)
    found.crossing[good] = np.logical_or.reduceat(polygons.crossing[parts], starts)
    found.flat[good] = np.logical_or.reduceat(areas == 0, starts) & (num_parts[~wrong] > 1)
    height, width = _image_sizes(index, good)
    extent = found.extents[good]
    out = np.maximum.reduce(
        [-extent[:, 0], -extent[:, 1], extent[:, 2] - width, extent[:, 3] - height]
    )
    found.outside_px[good] = np.maximum(out, 0)
    # Parts may lie in one another, and each pixel on an outline is in or out.
    least = np.maximum.reduceat(areas - perimeters, starts) - 4
    most = np.add.reduceat(areas + perimeters, starts) + 4
    stated = index.columns.areas[good]
    clear = (least > 0) & ~disagrees(stated, least) & ~disagrees(stated, most)
    clear &= (out <= OUTSIDE_PX) & ~found.crossing[good]
    _count_pixels(index, good[~clear & np.isfinite(height)], found)


def disagrees(area: Floats, pixels: Floats) -> Flags:
    """Whether an area is grossly another than the pixels of the mask; never where it is NaN."""
    with np.errstate(all="ignore"):
        ratio = area / pixels
        near = (ratio >= 1 / AREA_RATIO) & (ratio <= AREA_RATIO)
        apart: Flags = (np.abs(area - pixels) > AREA_PX) & ~near
        return apart


def _count_pixels(index: CocoIndex, rows: Ints, found: MaskMeasures) -> None:
    """Draw these masks, all of sound polygons."""
    images = index.annotation_images[rows]
    sizes = zip(index.heights[images].tolist(), index.widths[images].tolist(), strict=True)
    masks = index.columns.segmentations
    for j, (height, width) in zip(rows.tolist(), sizes, strict=True):
        try:
            check_size(height, width)
        except DataError as error:
            found.sound[j] = False
            found.problems[j] = ("mask-malformed", error.what)
            continue
        found.pixels[j], _ = polygon_pixels(masks.polygons(j), height, width)


def _polygon_problem(polygons: PolygonMeasures, own: slice) -> tuple[str, str]:
    numbers = polygons.num_numbers[own].tolist()
    if not numbers or 0 in numbers:
        return "polygon-empty", "it has an empty polygon" if numbers else "it has no polygon"
    for k, count in enumerate(numbers):
        if count < 6:
            return "polygon-short", f"polygon {k} has {count} numbers, fewer than 3 points"
        if count % 2:
            return "polygon-odd", f"polygon {k} has {count} numbers, an x without its y"
    return "mask-malformed", "it has a polygon that is too long to be drawn"


def _run_lengths(index: CocoIndex, found: MaskMeasures) -> None:
    masks = index.columns.segmentations
    rows = np.flatnonzero((masks.kinds == COMPRESSED) | (masks.kinds == COUNTS))
    rows = rows[index.annotation_images[rows] >= 0]
    stated = masks.rle_sizes[masks.rows[rows, 0]]
    sizes = np.stack(_image_sizes(index, rows), axis=1).astype(np.int64)
    for k in np.flatnonzero((stated != sizes).any(axis=1)).tolist():
        what = f"an RLE of size {stated[k].tolist()} in an image of {sizes[k].tolist()}"
        found.problems[int(rows[k])] = ("rle-size", what)
    fits = (stated == sizes).all(axis=1)
    rows, sizes = rows[fits], sizes[fits]
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        for part, runs, num_runs in _decoded(index, rows[some], sizes[some], found):
            _measure_runs(runs, num_runs, sizes[some][part], rows[some][part], found)


def _decoded(
    index: CocoIndex, rows: Ints, sizes: Ints, found: MaskMeasures
) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Which of the rows, their runs, and how many each has; those that fail become problems."""
    masks = index.columns.segmentations
    compressed = np.flatnonzero(masks.kinds[rows] == COMPRESSED)
    strings = [str(masks.run_lengths(int(rows[k]))["counts"]) for k in compressed]
    height, width = sizes[compressed, 0], sizes[compressed, 1]
    try:
        if strings:
            yield compressed, *decode_runs(strings, height, width)
    except DataError:
        for k, string, h, w in zip(compressed, strings, height, width, strict=True):
            try:
                yield np.array([k]), *decode_runs([string], int(h), int(w), name=lambda _: "it")
            except DataError as error:
                found.problems[int(rows[k])] = ("rle-malformed", f"its RLE: {error.what}")
    plain = np.flatnonzero(masks.kinds[rows] == COUNTS)
    good, runs = [], []
    for k in plain.tolist():
        row = int(masks.rows[rows[k], 0])
        raw = masks.rle_bytes[masks.rle_ends[row] : masks.rle_ends[row + 1]]
        counts = np.frombuffer(raw.tobytes(), np.int64)
        total, pixels = sum(counts.tolist()), int(sizes[k].prod())
        if total == pixels:
            good.append(k)
            runs.append(counts)
        else:
            what = f"the runs of its RLE add up to {total}, not {pixels} pixels"
            found.problems[int(rows[k])] = ("rle-malformed", what)
    if good:
        yield np.array(good), np.concatenate(runs), np.array([len(r) for r in runs])


def _measure_runs(runs: Ints, num_runs: Ints, sizes: Ints, rows: Ints, found: MaskMeasures) -> None:
    """Pixels and extents of several RLEs, all of a right size."""
    starts = np.cumsum(num_runs) - num_runs
    ends = np.cumsum(runs)
    ends -= np.repeat(ends[starts] - runs[starts], num_runs)  # from the first pixel of each mask
    nth = np.arange(len(runs)) - np.repeat(starts, num_runs)
    inside = (nth % 2 == 1) & (runs > 0)
    height = np.repeat(sizes[:, 0], num_runs)
    first, last = ends - runs, ends - 1
    column, last_column = first // height, last // height
    tall = last_column > column  # goes on in the next column: from its top
    top = np.where(tall, 0, first % height)
    bottom = np.where(tall, height - 1, last % height)
    found.sound[rows] = True
    found.pixels[rows] = np.add.reduceat(np.where(inside, runs, 0), starts)
    far = np.iinfo(np.int64).max
    for side, least in ((0, column), (1, top)):
        found.extents[rows, side] = np.minimum.reduceat(np.where(inside, least, far), starts)
    for side, most in ((2, last_column), (3, bottom)):
        found.extents[rows, side] = np.maximum.reduceat(np.where(inside, most, -1), starts) + 1
    found.extents[rows[found.pixels[rows] == 0]] = 0


def _image_sizes(index: CocoIndex, rows: Ints) -> tuple[Floats, Floats]:
    """Height and width of the image of each annotation; NaN where there is none."""
    image = index.annotation_images[rows]
    known = image >= 0
    return (
        np.where(known, index.heights[image], np.nan),
        np.where(known, index.widths[image], np.nan),
    )
