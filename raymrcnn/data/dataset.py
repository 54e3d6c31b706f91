"""Images of a COCO index as training samples: decoded, rasterised, augmented.

What a sample needs is gathered from the index into a small `Job`, and made from the job alone:
worker processes are sent jobs and never the index, which is hundreds of megabytes for COCO. This
module refuses images that are missing, of another size than their annotations say, or without
masks; crowds and boxes of less than a pixel are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raymrcnn.config import DataConfig
from raymrcnn.data.coco import CocoIndex, Segmentation
from raymrcnn.data.copy_paste import paste_objects
from raymrcnn.data.images import decode_annotated_image
from raymrcnn.data.order import (
    aspect_groups,
    drawn_donor,
    drawn_short_side,
    epoch_size,
    image_seed,
    sampling_seed,
)
from raymrcnn.data.outlines import outlines_of
from raymrcnn.data.store import ImageStore
from raymrcnn.data.trainable import (
    clipped_xyxy,
    long_enough,
    trainable_annotations,
    usable_images,
)
from raymrcnn.data.transforms import build_train_transform
from raymrcnn.errors import DataError
from raymrcnn.masks import polygons_to_bitmap, rle_to_bitmap, segmentation_to_rle
from raymrcnn.structures import Target

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """An image's turn in an epoch, and what is drawn for it before it is read."""

    position: int  # in the data set's `images`
    image_id: int
    epoch: int
    copy: int  # how often it came in this epoch before
    sampling_seed: int
    short_side: int  # pixels that the model scales it to; 0: the model's own
    donor: int | None  # position of the image that objects are pasted from


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """All that is needed to make one training sample; cheap to send to another process."""

    image_id: int
    epoch: int
    copy: int
    file_name: str
    width: int  # pixels, as the annotation file says
    height: int
    boxes: npt.NDArray[np.float32]  # [num_objects, 4] XYXY, pixels, clipped to the image
    labels: _Ints  # [num_objects] 1 to num_classes
    annotation_ids: _Ints  # [num_objects]
    segmentations: list[Segmentation]
    donor: Job | None  # whose objects are pasted into this image


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
        seed = image_seed(self.seed, job.epoch, job.image_id, job.copy)
        mine, pasting = seed.spawn(2) if job.donor else (seed, seed)
        image, target = self._augmented(job, mine)
        if job.donor is None:
            return image, target
        donor_seed = image_seed(self.seed, job.epoch, job.donor.image_id)
        return paste_objects(image, target, *self._augmented(job.donor, donor_seed), pasting)

    def _augmented(self, job: Job, seed: np.random.SeedSequence) -> tuple[torch.Tensor, Target]:
        image = self._decoded(job)
        names = [f"annotation {k}" for k in job.annotation_ids]
        if self.config.mask_targets == "outline":
            target = Target(
                image_id=job.image_id,
                boxes=torch.from_numpy(job.boxes),
                labels=torch.from_numpy(job.labels),
                masks=torch.zeros((len(job.labels), 0, 0), dtype=torch.uint8),
                outlines=outlines_of(job.segmentations, names, job.height, job.width),
            )
        else:
            target = _with_bitmaps(job, names)
        return build_train_transform(self.config)(image, target, seed)

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
        self.repeats = (
            repeat_factors(index, self.images, config.repeat_threshold)
            if config.repeat_threshold
            else None
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def epoch_size(self) -> int:
        """Samples in an epoch: the images, or more where rare classes are repeated."""
        return epoch_size(len(self), self.repeats)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        """The sample of (entry, epoch), see `epoch_entries`; made as `SampleMaker` says."""
        return self.make(self.job(self.draw(*key)))

    def draw(self, entry: int, epoch: int) -> Draw:
        """What is drawn for an entry of an epoch; touches no disk."""
        copy, position = divmod(entry, len(self))
        image_id = int(self.index.image_ids[self.images[position]])
        key = self.make.seed, int(epoch), image_id, copy
        config = self.make.config
        return Draw(
            position=position,
            image_id=image_id,
            epoch=int(epoch),
            copy=copy,
            sampling_seed=sampling_seed(*key),
            short_side=drawn_short_side(*key, config.short_sides),
            donor=drawn_donor(*key, config.copy_paste_prob, len(self)),
        )

    def size_of(self, draw: Draw) -> tuple[int, int]:
        """(height, width) in pixels of the augmented sample; touches no disk."""
        i = int(self.images[draw.position])
        return self.transform.size_after(int(self.index.heights[i]), int(self.index.widths[i]))

    def job(self, draw: Draw) -> Job:
        """What a sample is made from; touches no disk."""
        donor = None if draw.donor is None else self._job(draw.donor, draw.epoch, 0, None)
        return self._job(draw.position, draw.epoch, draw.copy, donor)

    def _job(self, position: int, epoch: int, copy: int, donor: Job | None) -> Job:
        index, i = self.index, int(self.images[position])
        found = index.annotations_of(i)
        width, height = int(index.widths[i]), int(index.heights[i])
        boxes = clipped_xyxy(found.boxes, np.float32(width), np.float32(height))
        keep = np.flatnonzero(long_enough(boxes) & ~found.iscrowd)
        return Job(
            image_id=int(index.image_ids[i]),
            epoch=epoch,
            copy=copy,
            file_name=index.file_name(i),
            width=width,
            height=height,
            boxes=boxes[keep],
            labels=np.array([self._label_of[int(c)] for c in found.category_ids[keep]], np.int64),
            annotation_ids=found.ids[keep],
            segmentations=[index.segmentation(found.first + int(k)) for k in keep],
            donor=donor,
        )


def _with_bitmaps(job: Job, names: Sequence[str]) -> Target:
    masks = np.zeros((len(job.labels), job.height, job.width), np.uint8)
    for mask, given, name in zip(masks, job.segmentations, names, strict=True):
        mask[:] = _bitmap(given, job.height, job.width, name)
    keep = masks.any(axis=(1, 2))  # a sliver may cover no pixel at all
    return Target(
        image_id=job.image_id,
        boxes=torch.from_numpy(job.boxes[keep]),
        labels=torch.from_numpy(job.labels[keep]),
        masks=torch.from_numpy(masks if keep.all() else masks[keep]),
    )


def repeat_factors(index: CocoIndex, images: _Ints, threshold: float) -> npt.NDArray[np.float64]:
    """How often each of `images` is to come in an epoch, float64 [num_images], at least once.

    A class in a share f of the images is repeated max(1, sqrt(threshold / f)) times, an image as
    often as the rarest class in it. Source: LVIS (Gupta et al. 2019), section 4.2.
    """
    rows = np.flatnonzero(trainable_annotations(index))
    place_of = np.full(index.num_images, -1, np.int64)
    place_of[images] = np.arange(len(images))
    place = place_of[index.annotation_images[rows]]
    _, label = np.unique(index.columns.category_ids[rows], return_inverse=True)
    pairs = np.unique(np.stack((place, label))[:, place >= 0], axis=1)
    share = np.bincount(pairs[1]) / len(images)
    factors = np.ones(len(images))
    with np.errstate(divide="ignore"):  # a class in no image has no pair either
        of_class = np.maximum(1.0, np.sqrt(threshold / share))
    np.maximum.at(factors, pairs[0], of_class[pairs[1]])
    return factors


def _bitmap(given: Segmentation, height: int, width: int, where: str) -> npt.NDArray[np.uint8]:
    if isinstance(given, list):
        return polygons_to_bitmap(given, height, width, where)
    return rle_to_bitmap(segmentation_to_rle(given, height, width, where), height, width, where)
