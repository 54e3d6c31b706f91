"""Which detection found which object, kept in a few numbers a detection.

COCO's precision arrays say how good a model is, not which detections made it so. What is kept here
does: from it come the average precision of any choice of images (`precision`), the kinds of errors
and the calibration (`breakdown`), and the difference between two runs (`compare`). Matching is
COCO's own, in all of its sizes and thresholds. This module refuses to compute overlaps and knows
no files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ("", "s", "m", "l")  # all, small, medium, large
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # square pixels
CONFIDENT = 0.5  # the score from which a detection counts in the confusion matrix
MATCH_IOU, BACKGROUND_IOU = 0.5, 0.1

# What is wrong with a detection, at an IoU of 0.5.
RIGHT, CLS, LOC, BOTH, DUPE, BKG = range(6)

_TILED = np.tile(np.minimum(THRESHOLDS, 1 - 1e-10), len(AREAS))[:, None]  # [40, 1]
_BITS = 1 << np.arange(len(AREAS) * len(THRESHOLDS), dtype=np.int64)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """What became of detections and objects; categories are places in a sorted list.

    Bit `10 * i + j` of `hit` and `ignored` is that of `AREAS[i]` and `THRESHOLDS[j]`.
    """

    image: Ints  # [num_detections] ids
    category: npt.NDArray[np.int32]
    score: Floats
    hit: Ints  # found an object that counts
    ignored: Ints  # counts neither for nor against the model
    error: npt.NDArray[np.uint8]  # RIGHT, CLS, ...; an ignored detection has one too
    mended: npt.NDArray[np.int32]  # the category in which it would be right, corrected; or -1
    object_image: Ints  # [num_objects] ids; crowds are not among them
    object_category: npt.NDArray[np.int32]
    object_areas: npt.NDArray[np.uint8]  # bit i: it counts in AREAS[i]
    object_found: Bools  # at an IoU of 0.5
    object_near: Bools  # not found, but a detection would find it, corrected
    confusion: Ints  # [num_pairs, 3]: category of the object, of the detection, how often

    def to_bytes(self) -> bytes:
        """All arrays, to be read by `from_bytes`; about 45 bytes a detection."""
        stream = io.BytesIO()
        np.savez(stream, **vars(self))
        return stream.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Records:
        """The records of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return Records(**{field.name: stored[field.name] for field in fields(Records)})

    @staticmethod
    def join(parts: Sequence[Records]) -> Records:
        """The records of all parts, sorted by image so that their order does not matter."""
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Records)
        }
        order = np.argsort(joined["image"], kind="stable")
        for name in ("image", "category", "score", "hit", "ignored", "error", "mended"):
            joined[name] = joined[name][order]
        order = np.argsort(joined["object_image"], kind="stable")
        for name in ("image", "category", "areas", "found", "near"):
            joined[f"object_{name}"] = joined[f"object_{name}"][order]
        pairs, place = np.unique(joined["confusion"][:, :2], axis=0, return_inverse=True)
        counts = np.bincount(place.reshape(-1), joined["confusion"][:, 2], len(pairs))
        joined["confusion"] = np.column_stack((pairs, counts.astype(np.int64)))
        return Records(**joined)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageInput:
    """One image: detections, annotations and how they overlap."""

    image_id: int
    overlaps: Floats  # [num_detections, num_annotations] IoU; with a crowd, the share inside it
    categories: npt.NDArray[np.int32]  # [num_detections] places
    scores: Floats
    areas: Floats  # square pixels
    true_categories: npt.NDArray[np.int32]  # [num_annotations] places
    true_areas: Floats
    crowds: Bools
    num_categories: int
    # Detections that count for nothing where they match nothing: LVIS's categories of which not
    # all objects were annotated.
    lenient: Bools
    most: int  # detections of a category that count


def match_image(given: ImageInput) -> Records:
    """Match the detections of an image to its objects.

    Detections keep COCO's order: by category, best score first, equal scores as they came; those
    beyond the `most` best of a category are left out.

    Source: COCOeval.evaluateImg of pycocotools; the errors as in Bolya et al., TIDE: A General
    Toolbox for Identifying Object Detection Errors, ECCV 2020, section 2.
    """
    order = np.lexsort((-given.scores, given.categories))
    rank = np.arange(len(order)) - np.searchsorted(given.categories[order], given.categories[order])
    order = order[rank < given.most]
    overlaps, categories = given.overlaps[order], given.categories[order]
    scores, areas = given.scores[order], given.areas[order]
    low, high = AREA_RANGES[:, :1], AREA_RANGES[:, 1:]
    out = (given.true_areas < low) | (given.true_areas > high)  # [4, num_annotations]
    ignored_truth = out | given.crowds
    same = categories[:, None] == given.true_categories[None, :]
    matched, on_ignored, found = _match(overlaps, same, ignored_truth, given.crowds)
    outside = ((areas < low) | (areas > high)).T | given.lenient[order][:, None]  # [num, 4]
    ignored = on_ignored | (~matched & np.repeat(outside, len(THRESHOLDS), axis=1))
    hit = matched & ~ignored

    real = np.flatnonzero(~given.crowds)
    was_found = np.isin(real, found)
    near = np.zeros(len(real), np.bool_)
    error, mended = _errors(
        overlaps[:, real], same[:, real], scores, hit[:, 0], was_found, near,
        given.true_categories[real],
    )  # fmt: skip
    return Records(
        image=np.full(len(order), given.image_id, np.int64),
        category=categories,
        score=scores,
        hit=hit @ _BITS,
        ignored=ignored @ _BITS,
        error=error,
        mended=mended,
        object_image=np.full(len(real), given.image_id, np.int64),
        object_category=given.true_categories[real],
        object_areas=(~ignored_truth[:, real].T @ (1 << np.arange(4))).astype(np.uint8),
        object_found=was_found,
        object_near=near & ~was_found,
        confusion=_confusion(overlaps, same, categories, scores, given),
    )


def _match(
    overlaps: Floats, same: Bools, ignored_truth: Bools, crowds: Bools
) -> tuple[Bools, Bools, Ints]:
    """Match greedily, best score first, for all areas and thresholds at once.

    Returns:
        Whether each detection matched, and whether it matched what is ignored, [num, 40] each;
        and the annotations found at the lowest threshold among all sizes.
    """
    num, num_truth = overlaps.shape
    matched = np.zeros((num, len(_TILED)), np.bool_)
    on_ignored = np.zeros((num, len(_TILED)), np.bool_)
    taken = np.zeros((len(_TILED), num_truth), np.bool_)
    ignored = np.repeat(ignored_truth, len(THRESHOLDS), axis=0)  # [40, num_truth]
    found = []
    rows = np.arange(len(_TILED))
    for d in np.flatnonzero((same & (overlaps >= MATCH_IOU)).any(axis=1)):
        near = np.flatnonzero(same[d] & (overlaps[d] >= MATCH_IOU))[::-1]  # of equals the last
        iou = overlaps[d, near]
        fits = (iou >= _TILED) & (~taken[:, near] | crowds[near])
        regular = fits & ~ignored[:, near]
        fits = np.where(regular.any(axis=1)[:, None], regular, fits)
        hit = fits.any(axis=1)
        place = near[np.where(fits, iou, -1.0).argmax(axis=1)]
        matched[d] = hit
        on_ignored[d] = hit & ignored[rows, place]
        taken[rows[hit], place[hit]] = True
        if hit[0] and not on_ignored[d, 0]:
            found.append(place[0])
    return matched, on_ignored, np.array(found, np.int64)


def _errors(
    overlaps: Floats,
    same: Bools,
    scores: Floats,
    right: Bools,
    found: Bools,
    near: Bools,
    true_categories: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """What is wrong with each detection, and in which category it would be right, corrected.

    Of the detections that could be corrected to one object the best scored one is. Marks in
    `near` the objects that one of them is about.
    """
    error = np.full(len(scores), BKG, np.uint8)
    mended = np.full(len(scores), -1, np.int32)
    if overlaps.size:
        own, other = overlaps * same, overlaps * ~same
        best_own, best_other = own.max(axis=1), other.max(axis=1)
        error = np.select(
            [
                (best_own >= BACKGROUND_IOU) & (best_own <= MATCH_IOU),
                best_other >= MATCH_IOU,
                (own * found).max(axis=1) >= MATCH_IOU,
                overlaps.max(axis=1) <= BACKGROUND_IOU,
            ],
            [LOC, CLS, DUPE, BKG],
            BOTH,
        ).astype(np.uint8)
        target = np.where(error == LOC, own.argmax(axis=1), other.argmax(axis=1))
        wanting = np.flatnonzero(~right & np.isin(error, (LOC, CLS)) & ~found[target])
        for d in wanting[np.argsort(-scores[wanting], kind="stable")]:
            if not near[target[d]]:
                near[target[d]] = True
                mended[d] = true_categories[target[d]]
    error[right] = RIGHT
    return error, mended


def _confusion(
    overlaps: Floats,
    same: Bools,
    categories: npt.NDArray[np.int32],
    scores: Floats,
    given: ImageInput,
) -> Ints:
    """Pairs of categories, `num_categories` standing for background: confident detections.

    Each, best score first, takes the free object that it overlaps most, of whatever category.
    A detection inside a crowd of its category is left out.
    """
    background = given.num_categories
    free = ~given.crowds
    pairs = []
    sure = np.flatnonzero(scores >= CONFIDENT)
    for d in sure[np.argsort(-scores[sure], kind="stable")]:
        open_ = np.where(free, overlaps[d], -1.0)
        g = int(open_.argmax()) if len(open_) else -1
        if g >= 0 and open_[g] >= MATCH_IOU:
            free[g] = False
            pairs.append((int(given.true_categories[g]), int(categories[d])))
        elif not (same[d] & given.crowds & (overlaps[d] >= MATCH_IOU)).any():
            pairs.append((background, int(categories[d])))
    pairs += [(int(k), background) for k in given.true_categories[free]]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return np.column_stack((table, np.ones(len(table), np.int64)))
