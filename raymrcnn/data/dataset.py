"""Images of a COCO index as training samples: decoded, rasterised, augmented.

What a sample needs is gathered from the index into a small `Job`, and made from the job alone:
worker processes are sent jobs and never the index, which is hundreds of megabytes for COCO. This
module refuses images that are missing, of another size than their annotations say, or without
masks; crowds and boxes of less than a pixel are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raymrcnn.config import DataConfig
from raymrcnn.data.coco import CocoIndex, Segmentation
from raymrcnn.data.images import decode_annotated_image
from raymrcnn.data.order import aspect_groups, image_seed
from raymrcnn.data.store import ImageStore
from raymrcnn.data.transforms import MIN_SIDE_PX, build_train_transform
from raymrcnn.errors import DataError
from raymrcnn.masks import polygons_to_bitmap, rle_to_bitmap, segmentation_to_rle
from raymrcnn.structures import Target

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """All that is needed to make one training sample; cheap to send to another process."""

    image_id: int
    epoch: int
    file_name: str
    width: int  # pixels, as the annotation file says
    height: int
    boxes: npt.NDArray[np.float32]  # [num_objects, 4] XYXY, pixels, clipped to the image
    labels: _Ints  # [num_objects] 1 to num_classes
    annotation_ids: _Ints  # [num_objects]
    segmentations: list[Segmentation]


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Makes samples from jobs; what a worker process holds."""

    images: ImageStore
    config: DataConfig
    seed: int

    def __call__(self, job: Job) -> tuple[torch.Tensor, Target]:
        """The augmented image, uint8 [3, height, width], and its target.

        The image is in the frame that its annotations were drawn in, upright or as stored: see
        `decode_annotated_image`.

        Raises:
            DataError: the image is missing, damaged or of another size, or a mask is malformed.
        """
        image = self._decoded(job)
        masks = np.zeros((len(job.labels), job.height, job.width), np.uint8)
        for mask, given, annotation_id in zip(
            masks, job.segmentations, job.annotation_ids, strict=True
        ):
            mask[:] = _bitmap(given, job.height, job.width, f"annotation {annotation_id}")
        keep = masks.any(axis=(1, 2))  # a sliver may cover no pixel at all
        target = Target(
            image_id=job.image_id,
            boxes=torch.from_numpy(job.boxes[keep]),
            labels=torch.from_numpy(job.labels[keep]),
            masks=torch.from_numpy(masks if keep.all() else masks[keep]),
        )
        transform = build_train_transform(self.config)
        return transform(image, target, image_seed(self.seed, job.epoch, job.image_id))

    def _decoded(self, job: Job) -> torch.Tensor:
        data = self.images.read(job.image_id, job.file_name)
        try:
            return decode_annotated_image(data, job.width, job.height)
        except DataError as error:
            if error.where:
                raise
            raise type(error)(error.what, where=job.file_name, todo=error.todo) from None


class TrainDataset:
    """The images of a split that can be trained on.

    Args:
        index: of the split.
        images: its image files.
        config: augmentation, grouping, and whether images without objects take part.
        seed: of the augmentation.

    Raises:
        DataError: no image can be trained on, or an object has no mask.
    """

    def __init__(self, index: CocoIndex, images: ImageStore, config: DataConfig, seed: int) -> None:
        self.index = index
        self.transform = build_train_transform(config)
        self.make = SampleMaker(images=images, config=config, seed=seed)
        self.images = usable_images(index, config.keep_empty_images)  # rows in the index
        if not len(self.images):
            raise DataError(
                f"none of the {index.num_images} images has an object to train on",
                where=index.path,
                todo="crowds and boxes of less than a pixel do not count",
            )
        index.require_masks(np.flatnonzero(trainable_annotations(index)))
        self._label_of = index.label_of_category
        self.groups = (
            aspect_groups(index.widths[self.images], index.heights[self.images])
            if config.group_by_aspect
            else np.zeros(len(self.images), np.int8)
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        """The sample of (position in `images`, epoch); see `SampleMaker`."""
        return self.make(self.job(*key))

    def size_of(self, position: int, epoch: int) -> tuple[int, int]:
        """(height, width) in pixels of the augmented sample; touches no disk."""
        i = int(self.images[position])
        return self.transform.size_after(int(self.index.heights[i]), int(self.index.widths[i]))

    def job(self, position: int, epoch: int) -> Job:
        """What the sample of `images[position]` in an epoch is made from; touches no disk."""
        index, i = self.index, int(self.images[position])
        found = index.annotations_of(i)
        width, height = int(index.widths[i]), int(index.heights[i])
        boxes = _clipped_xyxy(found.boxes, np.float32(width), np.float32(height))
        keep = np.flatnonzero(_long_enough(boxes) & ~found.iscrowd)
        return Job(
            image_id=int(index.image_ids[i]),
            epoch=epoch,
            file_name=index.file_name(i),
            width=width,
            height=height,
            boxes=boxes[keep],
            labels=np.array([self._label_of[int(c)] for c in found.category_ids[keep]], np.int64),
            annotation_ids=found.ids[keep],
            segmentations=[index.segmentation(found.first + int(k)) for k in keep],
        )


def trainable_annotations(index: CocoIndex) -> _Bools:
    """Which annotations are no crowd and have a box of at least a pixel inside their image."""
    of = index.annotation_images
    boxes = _clipped_xyxy(
        index.columns.boxes,
        index.widths[of].astype(np.float32)[:, None],
        index.heights[of].astype(np.float32)[:, None],
    )
    return _long_enough(boxes) & ~index.columns.iscrowd & (of >= 0)


def usable_images(index: CocoIndex, keep_empty: bool = False) -> _Ints:
    """Rows of the images with at least one trainable annotation, int64; with `keep_empty` all."""
    if keep_empty:
        return np.arange(index.num_images, dtype=np.int64)
    of = index.annotation_images[trainable_annotations(index)]
    return np.flatnonzero(np.bincount(of, minlength=index.num_images)).astype(np.int64)


def _clipped_xyxy(
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


def _long_enough(boxes: npt.NDArray[np.float32]) -> _Bools:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray((sides >= MIN_SIDE_PX).all(axis=1))


def _bitmap(given: Segmentation, height: int, width: int, where: str) -> npt.NDArray[np.uint8]:
    if isinstance(given, list):
        return polygons_to_bitmap(given, height, width, where)
    return rle_to_bitmap(segmentation_to_rle(given, height, width, where), height, width, where)
