"""Image files to upright RGB tensors, and the names in a data set to the files that hold them.

Pillow decodes, because its reading of damaged and odd files is the one that people compare with.
This module refuses what is not a picture, what is cut short, what is larger than a limit (checked
on the header, before any pixel is decoded), and every name that leads out of the data root.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from raymrcnn.errors import DataError
from raymrcnn.pictures import orientation_of, rgb_of, turned

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 100_000_000


class ImageSizeError(DataError):
    """An image is whole, but of another size than its annotations say."""


# Raster formats alone: Pillow would also hand PostScript to an external interpreter. Naming the
# plugins here saves the import of all others; a Pillow built without one of them lacks its format.
Image.preinit()
_PLUGINS = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)
_WANTED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)


def decode_image(
    data: bytes | str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """The picture as it is meant to be seen: upright by its EXIF orientation, in RGB.

    Gray is repeated, CMYK and palettes are converted, alpha is dropped (the stored colours stay,
    as everywhere in detection), 16 bits become the upper 8, of an animation the first frame is
    taken. An orientation that cannot be read counts as none.

    Args:
        data: the bytes of an image file, or its path.
        max_pixels: width times height that is still decoded. Pillow's own limit, twice
            `PIL.Image.MAX_IMAGE_PIXELS`, holds besides.

    Returns:
        uint8 [3, height, width] RGB, contiguous.

    Raises:
        DataError: no such file, empty, not an image, damaged, too large; one line, with the path
            where one was given.
    """
    image, orientation = _read(data, max_pixels)
    return _to_tensor(turned(image, orientation), _name(data))


def decode_annotated_image(
    data: bytes | str | os.PathLike[str], width: int, height: int, *, max_pixels: int = MAX_PIXELS
) -> torch.Tensor:
    """The picture in the frame that its annotations were drawn in.

    Tools that make annotations disagree on whether they honour the EXIF orientation; the size
    that the annotation file states tells. If the upright picture has that size, it is taken; else
    if the pixels as stored have it, they are. Where both have (half turns, mirrors, squares) the
    upright one is taken.

    Args:
        data: as for `decode_image`.
        width: of the image in the annotation file, pixels.
        height: likewise.
        max_pixels: as for `decode_image`.

    Returns:
        uint8 [3, height, width] RGB, contiguous.

    Raises:
        DataError: as `decode_image`.
        ImageSizeError: neither frame has the stated size.
    """
    return _to_tensor(annotated_picture(data, width, height, max_pixels=max_pixels)[0], _name(data))


def annotated_picture(
    data: bytes | str | os.PathLike[str], width: int, height: int, *, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, bool]:
    """What `decode_annotated_image` decodes, not yet as RGB; and whether it is not the upright one.

    Raises as `decode_annotated_image`.
    """
    image, orientation = _read(data, max_pixels)
    upright = turned(image, orientation)
    for candidate in (upright, image):
        if candidate.size == (width, height):
            return candidate, candidate.size != upright.size
    raise ImageSizeError(
        f"the image has {upright.width}x{upright.height} pixels, its annotations say "
        f"{width}x{height}",
        where=_name(data),
        todo="`raymrcnn data verify` lists all such images",
    )


def image_folders(root: Path, split: str) -> tuple[Path, ...]:
    """Where the images of a split may lie, in the order of preference."""
    return (root / split, root / "images" / split, root / "images", root)


def resolve_image(root: Path, split: str, file_name: str) -> Path:
    """The file of an image named in the annotations of a split.

    Looks in `{split}/`, `images/{split}/`, `images/` and the root itself. Links inside the data
    root may point anywhere: whoever made the root chose them; names come from the annotations.

    Returns:
        The first that exists, or the most usual place if none does.

    Raises:
        DataError: the name is empty, absolute, or leads out of the data root.
    """
    folders = image_folders(root, split)
    first = inside_root(root, folders[0], file_name)
    # Not Path.exists, which raises for names that the file system does not take.
    if ".." not in file_name and os.path.exists(first):  # no other folder leads it out either
        return first
    others = [inside_root(root, folder, file_name) for folder in folders[1:]]
    return next((path for path in (first, *others) if os.path.exists(path)), first)


def inside_root(root: Path, folder: Path, file_name: str) -> Path:
    """`folder / file_name` without `..`, proved to lie in the data root; touches no disk.

    Raises:
        DataError: the name is empty, absolute, or leads out of the data root.
    """
    if not file_name or "\0" in file_name or os.path.isabs(file_name):
        raise _outside(root, file_name)
    base = os.path.abspath(root)
    path = os.path.normpath(os.path.join(os.path.abspath(folder), file_name))
    if not path.startswith(base.rstrip(os.sep) + os.sep):
        raise _outside(root, file_name)
    return Path(path)


def _outside(root: Path, file_name: str) -> DataError:
    return DataError(
        f"the image name {file_name[:200]!r} does not stay inside the data root",
        where=str(root),
        todo="make image names relative to the folder of their split",
    )


def _read(data: bytes | str | os.PathLike[str], max_pixels: int) -> tuple[Image.Image, int]:
    """The decoded first frame as stored, and its orientation, 1 to 8."""
    name = _name(data)
    if isinstance(data, bytes):
        raw = data
    else:
        try:
            raw = Path(data).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image ({error.strerror})", where=name) from None
    if not raw:
        raise DataError("the image file is empty", where=name)
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(
                f"the image has {width}x{height} pixels, more than the limit of {max_pixels}",
                where=name,
            )
        image.load()
    except (DataError, MemoryError):  # the image may be sound
        raise
    except UnidentifiedImageError:
        raise DataError("not an image in a known format", where=name) from None
    # Pillow's readers raise nearly anything on damaged input.
    except Exception as error:
        raise DataError(f"the image cannot be decoded ({_one_line(error)})", where=name) from None
    return image, orientation_of(image)


def _to_tensor(image: Image.Image, name: str) -> torch.Tensor:
    import torch  # here: those who only look at pictures start seconds earlier

    pixels = rgb_of(image, name)
    tensor = torch.empty((3, *pixels.shape[:2]), dtype=torch.uint8)
    np.copyto(tensor.numpy(), pixels.transpose(2, 0, 1))
    return tensor


def _name(data: bytes | str | os.PathLike[str]) -> str:
    return "" if isinstance(data, bytes) else os.fspath(data)


def _one_line(error: BaseException) -> str:
    parts: Sequence[str] = str(error).split()
    return " ".join(parts)[:200] or type(error).__name__
