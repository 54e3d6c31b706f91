"""What scoring asks of ground truth, whoever holds it.

`raymrcnn.data.coco.CocoIndex` answers so. This module refuses ids that the ground truth does not
have, and names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import DataError
from raymrcnn.structures import Category

Ints = npt.NDArray[np.int64]


class GroundTruth(Protocol):
    """Images and annotations of one split. Images are numbered by their row, from 0."""

    @property
    def path(self) -> str:
        """Where it came from, for errors."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """All categories, whether or not an annotation names them."""

    @property
    def frequencies(self) -> Mapping[int, str]:
        """LVIS's "r", "c" or "f" of each category, by id; empty where it is not LVIS's."""

    @property
    def image_ids(self) -> Ints:
        """int64 [num_images], the id of each row."""

    def images_with_ids(self, image_ids: npt.ArrayLike) -> Ints:
        """The rows of images, int64."""

    def to_coco_dicts(
        self, image_rows: Sequence[int] | Ints
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Images (id, height, width) and annotations as COCO's dictionaries, `area` included.

        Images of LVIS have `neg_category_ids` and `not_exhaustive_category_ids` besides.
        """


def rows_of(truth: GroundTruth, image_ids: npt.ArrayLike, where: str) -> Ints:
    """The rows of the images with these ids.

    Raises:
        DataError: the ground truth has no image of some id.
    """
    wanted = np.asarray(image_ids, np.int64)
    unknown = np.unique(wanted[~np.isin(wanted, truth.image_ids)])
    if len(unknown):
        raise DataError(
            f"{len(unknown)} images that {truth.path} does not have: {some_ids(unknown)}",
            where=where,
            todo="score with the annotations of the images that were predicted",
        )
    return truth.images_with_ids(wanted)


def some_ids(ids: npt.ArrayLike) -> str:
    """The first few ids, for an error."""
    listed = np.asarray(ids).tolist()
    return ", ".join(str(i) for i in listed[:5]) + (", ..." if len(listed) > 5 else "")
