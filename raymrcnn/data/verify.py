"""Everything that is wrong with a split, as a list: what stops a run, and what is doubtful.

Training and scoring stop at the first fault they meet; here all are found in one go. This module
repairs nothing, and refuses only what cannot be read as an annotation file at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.coco_columns import NO_MASK
from raymrcnn.data.dataset import usable_images
from raymrcnn.data.images import ImageSizeError, decode_annotated_image
from raymrcnn.data.store import ImageStore, ShardedImages, open_dataset
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas, segmentation_to_rle

# Kinds of finding that training, inference or scoring stops at; the others only cost accuracy.
ERRORS = frozenset(
    {
        "duplicate-annotation",
        "duplicate-category",
        "duplicate-image",
        "image-missing",
        "image-outside-root",
        "image-size",
        "image-undecodable",
        "mask-malformed",
        "mask-missing",
        "polygon-empty",
        "polygon-short",
        "unknown-category",
        "unknown-image",
    }
)

OUTSIDE_PX = 1.0  # how far a box may stand out of its image
# COCO's own areas count overlapping polygons of an object twice, so only gross errors are told.
AREA_RATIO, AREA_PX = 2.0, 32.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong or doubtful."""

    kind: str
    id: int  # of the image, annotation or category that the message names
    message: str

    @property
    def is_error(self) -> bool:
        """Whether a run stops at it."""
        return self.kind in ERRORS


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a split holds, and what is wrong with it."""

    annotation_file: str
    num_images: int
    num_annotations: int
    num_crowds: int
    num_categories: int
    num_trainable_images: int  # with at least one object that can be trained on
    decoded: bool  # whether the images were decoded or only looked for
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that a run stops at."""
        return not any(finding.is_error for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each kind."""
        return dict(sorted(Counter(finding.kind for finding in self.findings).items()))

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dictionaries."""
        return {
            **asdict(self),
            "ok": self.ok,
            "counts": self.counts,
            "findings": [{**asdict(f), "error": f.is_error} for f in self.findings],
        }


def verify(
    root: Path | str,
    split: str,
    decode: bool = True,
    *,
    num_threads: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> VerifyReport:
    """Look at every image and annotation of a split.

    Args:
        root: of the data set.
        split: name of the split.
        decode: decode each image; without, they are only looked for.
        num_threads: 0: one a CPU.
        progress: told the images done and all images, now and then.

    Raises:
        DataError: there is no such split, or its annotation file is not one.
    """
    index, images = open_dataset(root, split, check=False)
    findings = [Finding(**vars(fault)) for fault in index.faults()]
    findings += _shared_files(index)
    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        per_image = pool.map(
            lambda i: [*_image(index, images, i, decode), *_annotations(index, i)],
            range(index.num_images),
        )
        for done, found in enumerate(per_image, start=1):
            findings += found
            if progress and (done % 100 == 0 or done == index.num_images):
                progress(done, index.num_images)
    return VerifyReport(
        annotation_file=index.path,
        num_images=index.num_images,
        num_annotations=index.num_annotations,
        num_crowds=int(index.columns.iscrowd.sum()),
        num_categories=len(index.categories),
        num_trainable_images=len(usable_images(index)),
        decoded=decode,
        findings=tuple(findings),
    )


def _shared_files(index: CocoIndex) -> list[Finding]:
    first: dict[str, int] = {}
    found = []
    for i in range(index.num_images):
        name, image_id = index.file_name(i), int(index.image_ids[i])
        if first.setdefault(name, image_id) != image_id:
            message = f"images {first[name]} and {image_id} share the file {name}"
            found.append(Finding(kind="image-file-shared", id=image_id, message=message))
    return found


def _image(index: CocoIndex, images: ImageStore, i: int, decode: bool) -> Iterator[Finding]:
    image_id, name = int(index.image_ids[i]), index.file_name(i)
    width, height = int(index.widths[i]), int(index.heights[i])

    def finding(kind: str, what: str) -> Finding:
        return Finding(kind=f"image-{kind}", id=image_id, message=f"image {image_id}: {what}")

    try:
        data = images.read(image_id, name)
    except DataError as error:
        yield finding(
            "missing" if isinstance(images, ShardedImages) else "outside-root", error.what
        )
        return
    if isinstance(data, Path) and not data.is_file():
        yield finding("missing", f"no file {name}")
    elif decode:
        try:
            decode_annotated_image(data, width, height)
        except ImageSizeError as error:
            yield finding("size", f"{name}: {error.what}")
        except DataError as error:
            yield finding("undecodable", f"{name}: {error.what}")


def _annotations(index: CocoIndex, i: int) -> Iterator[Finding]:
    """Findings about the annotations of image i."""
    width, height = int(index.widths[i]), int(index.heights[i])
    found = index.annotations_of(i)
    for k in range(len(found)):
        annotation_id = int(found.ids[k])
        for kind, what in (
            *_id_problems(annotation_id),
            *_box_problems(found.boxes[k].tolist(), height, width),
            *_mask_problems(index, found.first + k, height, width),
        ):
            message = f"annotation {annotation_id}: {what}"
            yield Finding(kind=kind, id=annotation_id, message=message)


def _id_problems(annotation_id: int) -> Iterator[tuple[str, str]]:
    if annotation_id == 0:
        yield "annotation-id-0", "COCO's scorer takes the id 0 for no match; count ids from 1"


def _box_problems(box: list[float], height: int, width: int) -> Iterator[tuple[str, str]]:
    x, y, w, h = box
    visible_w, visible_h = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    if w <= 0 or h <= 0:
        yield "box-degenerate", f"the box {box} has no area"
    elif visible_w <= 0 or visible_h <= 0:
        yield "box-outside", f"the box {box} lies outside its {width}x{height} image"
    else:
        if min(visible_w, visible_h) < 1:
            yield "box-degenerate", f"the box {box} is thinner than a pixel; not trained on"
        if max(-x, -y, x + w - width, y + h - height) > OUTSIDE_PX:
            yield "box-outside", f"the box {box} stands out of its {width}x{height} image"


def _mask_problems(index: CocoIndex, j: int, height: int, width: int) -> Iterator[tuple[str, str]]:
    if index.columns.segmentations.kinds[j] == NO_MASK:
        yield "mask-missing", "it has no segmentation"
        return
    mask = index.segmentation(j)
    if isinstance(mask, list):
        if not mask or min(len(polygon) for polygon in mask) == 0:
            yield "polygon-empty", "it has an empty polygon"
            return
        if min(len(polygon) for polygon in mask) < 6:
            yield "polygon-short", "it has a polygon of fewer than 3 points"
            return
    try:
        rle = segmentation_to_rle(mask, height, width)
        pixels = float(rle_areas([rle], height, width)[0])
    except DataError as error:
        yield "mask-malformed", error.what
        return
    area = float(index.columns.areas[j])
    if pixels == 0:
        yield "mask-blank", "its mask covers no pixel; not trained on"
    elif np.isnan(area):
        yield "area-missing", "it has no area; the pixels of its mask are taken"
    elif abs(area - pixels) > AREA_PX and not 1 / AREA_RATIO <= area / pixels <= AREA_RATIO:
        yield "area-mismatch", f"its area is {area:g}, its mask covers {pixels:g} pixels"
