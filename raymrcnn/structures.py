"""The records that cross floors. Boxes are XYXY float32; lengths are pixels.

Coordinates are absolute pixels of the original, upright image unless a name says `resized_`.
Plain data: geometry lives with the code that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL.Image import Image

    from raymrcnn.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Category:
    """One class of a data set: its own id (gaps allowed) and name."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The borders of an image's objects; an object is the union of its parts."""

    edges: torch.Tensor  # [num_edges, 4] float32 x1, y1, x2, y2, pixels
    part_of_edge: torch.Tensor  # [num_edges] int64
    object_of_part: torch.Tensor  # [num_parts] int64


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is in one training image, in the frame of the (augmented) image beside it."""

    image_id: int
    boxes: torch.Tensor  # [num_objects, 4] float32 XYXY, pixels
    labels: torch.Tensor  # [num_objects] int64, 1 to num_classes; 0 is background
    # [num_objects, height, width] uint8, 0 or 1; where outlines are given, of size 0.
    masks: torch.Tensor
    outlines: Outlines | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What was drawn for one worker's images of a step, and what it must know of the others.

    A tuple left empty stands for the model's own choice.
    """

    seeds: tuple[int, ...]  # an image each: of the sampling of anchors and proposals
    # An image each: pixels to scale the short side to; 0: the model's own.
    short_sides: tuple[int, ...] = ()
    # (height, width, short side) of each image of the global batch.
    batch_sizes: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a model found in one image, best score first."""

    image_id: int
    file_name: str
    width: int
    height: int
    boxes: npt.NDArray[np.float32]  # [num_detections, 4] XYXY, pixels
    scores: npt.NDArray[np.float32]  # [num_detections], 0 to 1
    category_ids: npt.NDArray[np.int64]  # [num_detections], ids of the data set
    rles: list[str]  # compressed COCO RLE counts of (height, width) masks
    # Names of categories, where they are known; no part of what was found.
    names: Mapping[int, str] = field(default_factory=dict, compare=False, repr=False)

    def to_coco(self) -> list[dict[str, Any]]:
        """Entries of a COCO results file: bbox as [x, y, width, height], masks as RLE."""
        from raymrcnn.rows import coco_results

        return coco_results(self)

    def masks(self) -> npt.NDArray[np.bool_]:
        """[num_detections, height, width]: every mask as pixels; many of them need much memory.

        Raises:
            DataError: a mask is malformed.
        """
        import numpy as np

        from raymrcnn.masks import rle_to_bitmap

        found = [rle_to_bitmap(rle, self.height, self.width) for rle in self.rles]
        return np.array(found, bool).reshape(-1, self.height, self.width)

    def overlay(self, image: Picture, *, min_score: float = 0.5) -> Image:
        """The image with masks, boxes and labels drawn over it.

        Args:
            image: what was predicted on: a path, uint8 [height, width, 3] RGB, or a PIL image.
            min_score: of what is drawn, 0 to 1.

        Raises:
            DataError: it cannot be read, or has another size.
        """
        from raymrcnn.overlay import draw_over

        return draw_over(image, self, min_score=min_score)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image for which no detections can be given, and why."""

    image_id: int
    file_name: str
    error: str


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """One image of a prediction job: where it is and what it is called."""

    image_id: int
    file_name: str  # as in the annotations, or relative to the folder that was given
    uri: str  # a path or URI to read it from; "": the name leads out of the data root
    # Pixels as its annotations say, which tells the frame they were drawn in; 0: no annotations.
    width: int = 0
    height: int = 0
    # Where the uri is a file of many images: bytes of it (a tar), or the row of it (parquet).
    offset: int = 0
    length: int = 0  # bytes; 0: the whole file
    row: int = -1


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What stands beside weights so that they can be used: saved with every checkpoint."""

    model: dict[str, object] = field(default_factory=dict)  # ModelConfig as JSON
    # The category of label 1, 2, ...; None where a label belongs to no category.
    categories: tuple[Category | None, ...] = ()
    short_side: int = 800
    long_side: int = 1333
