"""A data set of a user's own written in COCO's layout, from images and masks in memory or on disk.

Images are written or copied as they come, one at a time; the annotation file comes last, so that a
split that was cut short is none. Nothing that is there is overwritten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn import rundir
from raymrcnn.data.images import decode_image
from raymrcnn.errors import DataError, OutputError
from raymrcnn.masks import bitmap_to_rle, polygons_to_bitmap
from raymrcnn.pictures import Picture, pixels_in_memory

# A mask of bool or 0 and 1, [height, width]; or outlines, each [x, y, x, y, ...] in pixels.
Shape = npt.NDArray[Any] | Sequence[Sequence[float]]
Sample = tuple[Picture, Sequence[tuple[str, Shape]]]


def write_dataset(
    out: str | os.PathLike[str],
    split: str,
    samples: Iterable[Sample],
    categories: Sequence[str],
) -> Path:
    """Write one split: `{split}/` with the images and `annotations/instances_{split}.json`.

    Args:
        out: root of the data set; other splits may be there.
        split: its name, as train2017 or val.
        samples: an image each (a path, which is copied, a PIL image, or uint8 [height, width, 3]
            RGB) and its objects: the category's name, and a mask [height, width] or outlines.
            Masks are in the frame of the upright image. Generators are read once.
        categories: names of all classes, in the order of their ids from 1.

    Returns:
        The annotation file.

    Raises:
        DataError: a sample is malformed; says which. Nothing is left behind.
        OutputError: the split is there already, or the disk refuses.
    """
    root = rundir.local_path(out, "out")
    target = root / "annotations" / f"instances_{split}.json"
    ids = {name: k for k, name in enumerate(categories, start=1)}
    if len(ids) != len(categories) or not ids:
        raise DataError("names must differ, and there must be one", where="categories")
    if target.exists() or (root / split).exists():
        raise OutputError(
            f"the split {split} is there already", where=str(root), todo="choose another name"
        )
    rundir.prepare_output(target.parent)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def write(folder: Path) -> None:
        for k, (picture, objects) in enumerate(samples, start=1):
            image = _image(folder, k, picture)
            images.append(image)
            for n, (name, shape) in enumerate(objects, start=1):
                where = f"image {k}, object {n}"
                if name not in ids:
                    raise DataError(f"{name!r} is none of the categories", where=where)
                about = {"id": len(annotations) + 1, "image_id": k, "category_id": ids[name]}
                described = _described(shape, image["height"], image["width"], where)
                annotations.append({**about, **described, "iscrowd": 0})

    rundir.write_folder_atomic(root / split, write)
    named = [{"id": k, "name": name} for name, k in ids.items()]
    rundir.write_json(target, {"images": images, "annotations": annotations, "categories": named})
    return target


def _image(folder: Path, k: int, picture: Picture) -> dict[str, Any]:
    """Bring image `k` into the folder; returns its entry."""
    if isinstance(picture, (str, os.PathLike)):
        source = Path(picture)
        _, height, width = decode_image(source).shape
        name = f"{k:09d}{source.suffix.lower()}"
        shutil.copyfile(source, folder / name)
    else:
        pixels = pixels_in_memory(picture, f"image {k}")
        height, width = pixels.shape[:2]
        name = f"{k:09d}.png"
        Image.fromarray(pixels).save(folder / name)
    return {"id": k, "file_name": name, "width": width, "height": height}


def _described(shape: Shape, height: int, width: int, where: str) -> dict[str, Any]:
    """Mask, box and area of an object."""
    segmentation: Any
    if isinstance(shape, np.ndarray) and shape.ndim == 2 and shape.shape == (height, width):
        bitmap = shape != 0
        segmentation = {"size": [height, width], "counts": bitmap_to_rle(bitmap)}
    elif isinstance(shape, np.ndarray):
        raise DataError(
            f"a mask of {'x'.join(map(str, shape.shape))} in an image of {height}x{width}",
            where=where,
            todo="give [height, width] of the upright image",
        )
    else:
        segmentation = [[float(v) for v in polygon] for polygon in shape]
        bitmap = polygons_to_bitmap(segmentation, height, width, where)
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        raise DataError("the mask is empty", where=where)
    x, y = int(columns[0]), int(rows[0])
    return {
        "segmentation": segmentation,
        "area": int(np.count_nonzero(bitmap)),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
    }
