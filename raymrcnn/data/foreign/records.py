"""What all formats have in common: an image and the objects in it.

Coordinates are pixels from the upper left corner of the upper left pixel, x before y, as COCO, VOC
polygons, YOLO and labelme all have them: nothing is shifted between formats. The frame is that of
the size which the annotations state, upright by EXIF or as stored.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.data.images import FORMATS, MAX_PIXELS, inside_root
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas, rle_to_bitmap, segmentation_to_rle
from raymrcnn.pictures import orientation_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm")
_LATE_ORIENTATION = ("PNG", "TIFF")  # may state it behind the pixels


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One object: polygons, whose union is meant, or pixels.

    Args:
        category: its name.
        polygons: each [x, y, x, y, ...], pixels.
        rle: compressed counts of [height, width] of the image; where there are no polygons.
        crowd: whether it stands for several objects.
    """

    category: str
    polygons: Sequence[Sequence[float]] = ()
    rle: str = ""
    crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One image and what is in it."""

    source: bytes | Path  # the image file
    name: str  # in the folder of its split
    width: int  # pixels, of the frame that the shapes are in
    height: int
    shapes: list[Shape] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written of one image."""

    objects: int
    crowds_left_out: int = 0


class Source(Protocol):
    """A data set of another program.

    Attributes:
        splits: names, and the things that `read` turns into images.
        categories: names in the order of their ids; None: those that are found, sorted.
    """

    splits: dict[str, list[Any]]
    categories: list[str] | None

    def read(self, item: Any) -> Labelled:
        """One image.

        Raises:
            DataError: what is wrong, with the file and the object.
        """
        ...


def sizes_of(source: bytes | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of an image file, upright and as stored; decodes no pixels of most formats.

    Raises:
        DataError: it is missing, no image, or too large.
    """
    where = "" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source,
                        formats=FORMATS) as image:  # fmt: skip
            stored = image.size
            if stored[0] * stored[1] > MAX_PIXELS:
                raise DataError(
                    f"the image has {stored[0]}x{stored[1]} pixels, more than the limit of "
                    f"{MAX_PIXELS}", where=where,
                )  # fmt: skip
            if image.format in _LATE_ORIENTATION:
                image.load()
            turned = orientation_of(image) in (5, 6, 7, 8)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("the image is not there", where=where) from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged input
        text = " ".join(str(error).split())[:200]
        raise DataError(f"the image cannot be read ({text})", where=where) from None
    return (stored[1], stored[0]) if turned else stored, stored


def require_size(source: bytes | Path, width: int, height: int, where: str) -> None:
    """Refuse an image that has another size than its annotations state.

    Raises:
        DataError: that, or as `sizes_of`.
    """
    found = sizes_of(source)
    if (width, height) not in found:
        raise DataError(
            f"says that its image has {width}x{height} pixels, and it has "
            f"{found[0][0]}x{found[0][1]}", where=where,
        )  # fmt: skip


def described(shape: Shape, width: int, height: int, where: str) -> dict[str, Any]:
    """Mask, box and area of an object as COCO has them; the area is that of the pixels.

    Raises:
        DataError: it is malformed, or covers no pixel of its image.
    """
    if shape.rle:
        rle, segmentation = shape.rle, {"size": [height, width], "counts": shape.rle}
        box = box_of(rle, width, height)
    else:
        polygons = [[float(v) for v in polygon] for polygon in shape.polygons]
        try:
            rle = segmentation_to_rle(polygons, height, width)
        except DataError as error:
            raise DataError(error.what, where=where) from None
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
        low = points.min(axis=0).clip(0, (width, height))
        high = points.max(axis=0).clip(0, (width, height))
        box = [round(float(v), 3) for v in (*low, *(high - low))]
        segmentation = polygons  # type: ignore[assignment]
    area = int(rle_areas([rle], height, width)[0])
    if not area:
        raise DataError("covers no pixel of its image", where=where)
    return {"segmentation": segmentation, "area": area, "bbox": box}


def box_of(rle: str, width: int, height: int) -> list[float]:
    """x, y, width, height of the pixels of a mask; zeros where there are none."""
    bitmap = rle_to_bitmap(rle, height, width)
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def png_pixels(data: bytes | Path, where: str, mode: str = "") -> npt.NDArray[Any]:
    """The pixels of a PNG that holds numbers, not colours: [height, width].

    Args:
        data: the file.
        where: what an error names.
        mode: to convert to; empty: one of one number a pixel is required.

    Raises:
        DataError: it cannot be read, or holds colours.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data,
                        formats=("PNG",)) as image:  # fmt: skip
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"has more than {MAX_PIXELS} pixels", where=where)
            found = image.convert(mode) if mode else image
            if found.mode not in ("P", "L", "1", "I", "I;16"):
                raise DataError(f"holds colours ({found.mode}), not numbers", where=where)
            return np.asarray(found)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged input
        text = " ".join(str(error).split())[:200]
        raise DataError(f"the image cannot be read ({text})", where=where) from None


def name_below(path: Path, folders: Sequence[Path]) -> str:
    """The name of a file relative to the first of some folders that it lies in; else its own."""
    for folder in folders:
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name


def write_beside(folder: Path, name: str, suffix: str, text: str) -> None:
    """Write the text file of an image, under the image's name with another suffix.

    Raises:
        DataError: the name leads out of the folder, or another image has a file of this name.
    """
    target = inside_root(folder, folder, name).with_suffix(suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise DataError(f"two images would have the file {target.name}", where=name) from None
