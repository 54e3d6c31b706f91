"""Which annotations and images can be trained on: no crowds, and no boxes of less than a pixel.

Asked of the index alone, in arrays, and without the network's library, whose import takes seconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymrcnn.data.coco import CocoIndex

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MIN_SIDE_PX = 1.0


def trainable_annotations(index: CocoIndex) -> Bools:
    """Which annotations are no crowd and have a box of at least a pixel inside their image."""
    of = index.annotation_images
    boxes = clipped_xyxy(
        index.columns.boxes,
        index.widths[of].astype(np.float32)[:, None],
        index.heights[of].astype(np.float32)[:, None],
    )
    return long_enough(boxes) & ~index.columns.iscrowd & (of >= 0)


def usable_images(index: CocoIndex, keep_empty: bool = False) -> Ints:
    """Rows of the images with at least one trainable annotation, int64; with `keep_empty` all."""
    if keep_empty:
        return np.arange(index.num_images, dtype=np.int64)
    of = index.annotation_images[trainable_annotations(index)]
    return np.flatnonzero(np.bincount(of, minlength=index.num_images)).astype(np.int64)


def clipped_xyxy(
    boxes: npt.NDArray[np.float64],
    width: np.float32 | npt.NDArray[np.float32],
    height: np.float32 | npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """x, y, width, height to XYXY float32 [n, 4] inside the image.

    In single precision from the start, as torchvision's reference reads COCO
    (references/detection/coco_utils.py, ConvertCocoPolysToMask), so that boxes are equal to the
    last bit.
    """
    single = boxes.astype(np.float32)
    corners = np.concatenate([single[:, :2], single[:, :2] + single[:, 2:]], axis=1)
    corners[:, 0::2] = corners[:, 0::2].clip(0, width)
    corners[:, 1::2] = corners[:, 1::2].clip(0, height)
    return corners


def long_enough(boxes: npt.NDArray[np.float32]) -> Bools:
    """Which boxes XYXY [n, 4] have sides of a pixel or more."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray((sides >= MIN_SIDE_PX).all(axis=1))
