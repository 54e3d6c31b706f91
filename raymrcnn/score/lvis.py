"""What LVIS asks of detections before they are matched.

LVIS annotates an image for some categories only: those that have objects in it, and those that
are known to have none. A detection of any other category can be neither right nor wrong and is
left out. Where not all objects of a category were annotated, a detection that matches nothing
counts for nothing. This module refuses to match.

Source: Gupta et al., LVIS, CVPR 2019, section 3; lvis-api, `LVISResults` and `LVISEval`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DETECTIONS = 300  # of an image, of all categories together
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent: in under 10, under 100, more images

Entries = Sequence[dict[str, Any]]
Bools = npt.NDArray[np.bool_]


def judged(
    images: Entries,
    annotations: Entries,
    image_ids: npt.NDArray[np.int64],
    category_ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float64],
) -> Bools:
    """Which detections are judged: the 300 best of an image, of categories searched for in it.

    Args:
        images: id and `neg_category_ids` each.
        annotations: of these images.
        image_ids: [num_detections].
        category_ids: likewise.
        scores: likewise.
    """
    known: dict[int, set[int]] = {i["id"]: set(i.get("neg_category_ids") or ()) for i in images}
    for annotation in annotations:
        known[annotation["image_id"]].add(annotation["category_id"])
    order = np.lexsort((-scores, image_ids))
    sorted_ids = image_ids[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)
    kept = np.zeros(len(scores), np.bool_)
    kept[order] = rank < MAX_DETECTIONS
    pairs = zip(image_ids.tolist(), category_ids.tolist(), strict=True)
    searched = np.fromiter((k in known[i] for i, k in pairs), np.bool_, len(scores))
    return kept & searched


def not_exhaustive(images: Entries) -> dict[int, set[int]]:
    """The categories of each image of which not all objects were annotated, by image id."""
    found: dict[int, set[int]] = defaultdict(set)
    for image in images:
        found[image["id"]].update(image.get("not_exhaustive_category_ids") or ())
    return found
