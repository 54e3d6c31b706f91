"""What a split holds, in numbers: sizes, objects an image, object sizes, crowding, the long tail.

All is read from the annotation file, in arrays; no image is opened. Crowds are counted apart, and
are no objects here. Areas are those of the file, or of the box where it gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn import storage
from raymrcnn.data.coco import CocoIndex, splits
from raymrcnn.data.coco_columns import NO_MASK, POLYGONS
from raymrcnn.data.store import open_annotations
from raymrcnn.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SMALL_PX, MEDIUM_PX = 32, 96  # sides of COCO's squares between small, medium and large
OVERLAP_IOU = 0.5
FEW_IMAGES = (10, 100)  # LVIS's limits of rare and common categories
# Bars of the histograms.
OBJECT_EDGES = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129)  # objects an image; the last has no end
SIDE_EDGES = (0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # pixels, root of the area
RATIO_EDGES = (0.0, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0, 4.0, 8.0)
IMAGE_SIDE_EDGES = (0, 128, 256, 384, 512, 640, 800, 1024, 1333, 2048, 4096)

_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where values lie."""

    least: float
    quarter: float
    median: float
    mean: float
    three_quarters: float
    most: float

    @staticmethod
    def of(values: npt.NDArray[Any]) -> Spread | None:
        """Of values; None if there are none."""
        if not len(values):
            return None
        least, quarter, median, three_quarters, most = np.quantile(
            values, (0, 0.25, 0.5, 0.75, 1)
        ).tolist()
        return Spread(
            least=least,
            quarter=quarter,
            median=median,
            mean=float(values.mean()),
            three_quarters=three_quarters,
            most=most,
        )


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges; the last bar has no upper end."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @staticmethod
    def of(values: npt.NDArray[Any], edges: Sequence[float]) -> Histogram:
        """A value on an edge belongs to the bar above it."""
        bars = np.searchsorted(np.asarray(edges), values, side="right") - 1
        counts = np.bincount(bars.clip(min=0), minlength=len(edges))
        return Histogram(edges=tuple(edges), counts=tuple(counts.tolist()))


@dataclass(frozen=True, kw_only=True)
class CategoryStatistics:
    """A category in a split."""

    id: int
    name: str
    num_objects: int
    num_images: int  # with an object of it
    num_crowds: int
    median_side_px: float | None  # root of the area


@dataclass(frozen=True, kw_only=True)
class LongTail:
    """How unevenly objects are spread over categories."""

    num_empty: int  # categories without an object
    num_under_10_images: int  # LVIS's rare ones, those without included
    num_under_100_images: int
    share_of_rarest_half: float  # of all objects
    share_of_commonest_tenth: float
    imbalance: float | None  # the commonest to the rarest that has objects


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """A split in numbers. Sides are roots of areas, pixels; ratios are width to height."""

    annotation_file: str
    num_images: int
    num_unannotated_images: int
    num_objects: int
    num_crowds: int
    num_categories: int
    masks: dict[str, int]  # objects and crowds, by the form of their mask
    image_width: Spread | None
    image_height: Spread | None
    image_sides: Histogram
    image_ratios: Histogram
    commonest_sizes: tuple[tuple[int, int, int], ...]  # width, height, images
    objects_per_image: Spread | None
    objects_per_image_bars: Histogram
    categories_per_image: Spread | None
    object_side_px: Spread | None
    object_sides: Histogram
    object_part_of_image: Spread | None  # area of the object to that of its image
    by_size: dict[str, int]  # COCO's small, medium, large
    object_ratio: Spread | None
    object_ratios: Histogram
    num_overlapped: int  # objects whose box overlaps another's with an IoU over 0.5
    long_tail: LongTail
    categories: tuple[CategoryStatistics, ...]  # commonest first


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A data set in numbers."""

    data: str
    splits: dict[str, SplitStatistics]

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dictionaries."""
        return asdict(self)


def statistics(root: Path | str, names: Sequence[str] = ()) -> Statistics:
    """The numbers of a data set.

    Args:
        root: of the data set: a path, or a URI of a sharded one.
        names: of the splits; none: all that are there.

    Raises:
        DataError: no such folder or split, or an annotation file that is none.
        ConfigError: a URI, whose splits are not known, without names.
    """
    chosen = list(dict.fromkeys(names)) or _all_splits(root)
    found = {name: split_statistics(open_annotations(root, name, check=False)) for name in chosen}
    return Statistics(data=str(root), splits=found)


def _all_splits(root: Path | str) -> list[str]:
    if storage.is_uri(root):
        raise ConfigError(
            "the splits behind a URI are not known", where="--split", todo="name them"
        )
    if not Path(root).is_dir():
        raise DataError("no such folder", where=str(root), todo="give the root of a COCO data set")
    known = sorted(splits(Path(root)))
    if not known:
        raise DataError(
            "no annotation file annotations/instances_SPLIT.json",
            where=str(root),
            todo="give the root of a COCO data set",
        )
    return known


def split_statistics(index: CocoIndex) -> SplitStatistics:
    """The numbers of one split; annotations of no known image are not counted."""
    columns = index.columns
    known = index.annotation_images >= 0
    rows = np.flatnonzero(known & ~columns.iscrowd)
    image, category = index.annotation_images[rows], columns.category_ids[rows]
    sides, ratios = _object_shapes(index, rows)
    per_image = np.bincount(image, minlength=index.num_images)
    kinds = columns.segmentations.kinds
    width, height = index.widths.astype(np.float64), index.heights.astype(np.float64)
    sizes, times = np.unique(np.stack((index.widths, index.heights)), axis=1, return_counts=True)
    commonest = np.argsort(-times, kind="stable")[:10]
    categories = _categories(index, rows, sides)
    return SplitStatistics(
        annotation_file=index.path,
        num_images=index.num_images,
        num_unannotated_images=int((np.diff(index.first_annotation) == 0).sum()),
        num_objects=len(rows),
        num_crowds=int((known & columns.iscrowd).sum()),
        num_categories=len(index.categories),
        masks={
            "polygons": int((kinds == POLYGONS).sum()),
            "run lengths": int((kinds > POLYGONS).sum()),
            "none": int((kinds == NO_MASK).sum()),
        },
        image_width=Spread.of(width),
        image_height=Spread.of(height),
        image_sides=Histogram.of(np.sqrt(width * height), IMAGE_SIDE_EDGES),
        image_ratios=Histogram.of(width / height, RATIO_EDGES),
        commonest_sizes=tuple((*sizes[:, k].tolist(), int(times[k])) for k in commonest),
        objects_per_image=Spread.of(per_image),
        objects_per_image_bars=Histogram.of(per_image, OBJECT_EDGES),
        categories_per_image=Spread.of(_categories_per_image(index, image, category)),
        object_side_px=Spread.of(sides),
        object_sides=Histogram.of(sides, SIDE_EDGES),
        object_part_of_image=Spread.of(sides**2 / (width * height)[image]),
        by_size={
            "small": int((sides < SMALL_PX).sum()),
            "medium": int(((sides >= SMALL_PX) & (sides < MEDIUM_PX)).sum()),
            "large": int((sides >= MEDIUM_PX).sum()),
        },
        object_ratio=Spread.of(ratios),
        object_ratios=Histogram.of(ratios, RATIO_EDGES),
        num_overlapped=_num_overlapped(columns.boxes[rows], per_image),
        long_tail=_long_tail(categories),
        categories=categories,
    )


def _object_shapes(index: CocoIndex, rows: Ints) -> tuple[Floats, Floats]:
    """Roots of the areas of all rows; width to height of the boxes that have both."""
    boxes, areas = index.columns.boxes[rows], index.columns.areas[rows]
    areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
    whole = (boxes[:, 2:] > 0).all(axis=1)
    return np.sqrt(np.maximum(areas, 0)), boxes[whole, 2] / boxes[whole, 3]


def _categories_per_image(index: CocoIndex, image: Ints, category: Ints) -> Ints:
    _, label = np.unique(category, return_inverse=True)
    pairs = np.unique(image * (len(index.categories) + len(category) + 1) + label)
    owners = pairs // (len(index.categories) + len(category) + 1)
    return np.bincount(owners, minlength=index.num_images)


def _categories(index: CocoIndex, rows: Ints, sides: Floats) -> tuple[CategoryStatistics, ...]:
    """By the number of objects, commonest first; equal ones by id."""
    category = index.columns.category_ids[rows]
    crowd_of = index.columns.category_ids[index.columns.iscrowd & (index.annotation_images >= 0)]
    order = np.argsort(category, kind="stable")
    ordered = category[order]
    found = []
    for item in {c.id: c for c in index.categories}.values():
        start, stop = np.searchsorted(ordered, (item.id, item.id + 1))
        own = order[start:stop]
        found.append(
            CategoryStatistics(
                id=item.id,
                name=item.name,
                num_objects=len(own),
                num_images=len(np.unique(index.annotation_images[rows[own]])),
                num_crowds=int((crowd_of == item.id).sum()),
                median_side_px=float(np.median(sides[own])) if len(own) else None,
            )
        )
    return tuple(sorted(found, key=lambda c: (-c.num_objects, c.id)))


def _long_tail(categories: Sequence[CategoryStatistics]) -> LongTail:
    counts = np.array([c.num_objects for c in categories])  # commonest first
    images = np.array([c.num_images for c in categories])
    total, half = max(int(counts.sum()), 1), len(counts) // 2
    tenth = max(1, round(len(counts) / 10))
    some = counts[counts > 0]
    few, more = FEW_IMAGES
    return LongTail(
        num_empty=int((counts == 0).sum()),
        num_under_10_images=int((images < few).sum()),
        num_under_100_images=int((images < more).sum()),
        share_of_rarest_half=float(counts[len(counts) - half :].sum() / total),
        share_of_commonest_tenth=float(counts[:tenth].sum() / total),
        imbalance=float(some[0] / some[-1]) if len(some) else None,
    )


def _num_overlapped(boxes: Floats, per_image: Ints) -> int:
    """Objects whose box has an IoU over `OVERLAP_IOU` with another one of its image.

    Args:
        boxes: [num_objects, 4] x, y, width, height, those of an image together.
        per_image: how many each image has, in that order.
    """
    ends = np.cumsum(per_image)
    pairs = np.cumsum(per_image**2)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2:].prod(axis=1)
    total = image = 0
    while image < len(per_image):
        before = pairs[image - 1] if image else 0
        stop = max(image + 1, int(np.searchsorted(pairs, before + _PAIRS_AT_ONCE, side="right")))
        num = per_image[image:stop]
        first = ends[image:stop] - num
        a = np.repeat(np.arange(first[0], ends[stop - 1]), np.repeat(num, num))
        starts = np.repeat(first, num**2)
        within = np.arange(len(a)) - np.repeat(np.cumsum(num**2) - num**2, num**2)
        b = starts + within % np.repeat(num, num**2)
        shared = (np.minimum(high[a], high[b]) - np.maximum(low[a], low[b])).clip(min=0)
        common = shared.prod(axis=1)
        with np.errstate(all="ignore"):
            over = (common / (areas[a] + areas[b] - common) > OVERLAP_IOU) & (a != b)
        total += len(np.unique(a[over]))
        image = stop
    return total
