"""Pictures in memory as upright RGB pixels: what Pillow opened, and arrays that a user holds.

Files are decoded elsewhere; an array of unknown range or channels is refused, not guessed at.
"""

from __future__ import annotations

import os
from typing import Any, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.errors import DataError

Pixels = npt.NDArray[np.uint8]
Picture = Union[str, "os.PathLike[str]", npt.NDArray[Any], Image.Image]

_ORIENTATION = 0x0112
# What brings the stored pixels upright (EXIF 2.3, section 4.6.4, tag Orientation).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    # After load(): only then has a TIFF been turned by Pillow itself, and a PNG read all chunks.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF: as if there were none
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Upright by an orientation, 1 to 8."""
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def rgb_of(image: Image.Image, where: str = "") -> Pixels:
    """uint8 [height, width, 3] RGB of what Pillow opened, as stored.

    Raises:
        DataError: floating-point pixels.
    """
    if image.mode == "F":
        raise DataError("the image has floating-point pixels, whose range is unknown", where=where)
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip these at 255.
        deep = np.asarray(image).astype(np.int64)
        gray = (deep.clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way warns
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def pixels_in_memory(image: npt.NDArray[Any] | Image.Image, where: str = "image") -> Pixels:
    """uint8 [height, width, 3] RGB, upright.

    Args:
        image: a PIL image, turned by its EXIF orientation; or uint8 [height, width] gray,
            [height, width, 3] RGB or [height, width, 4] RGBA, whose alpha is dropped.
        where: what it is called in an error.

    Raises:
        DataError: an array of another shape or type, or without pixels.
    """
    if isinstance(image, Image.Image):
        try:
            image.load()
        except Exception as error:  # Pillow's readers raise nearly anything on damaged input
            text = " ".join(str(error).split())[:200]
            raise DataError(f"the image cannot be decoded ({text})", where=where) from None
        return rgb_of(turned(image, orientation_of(image)), where)
    shape = "x".join(map(str, image.shape))
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise DataError(
            f"an array of {shape or 'one number'} is no image",
            where=where,
            todo="give [height, width, 3] RGB",
        )
    if image.dtype != np.uint8:
        raise DataError(
            f"pixels of type {image.dtype}, whose range is unknown",
            where=where,
            todo="give uint8, 0 to 255",
        )
    if not image.size:
        raise DataError(f"an array of {shape} has no pixels", where=where)
    rgb = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image[:, :, :3]
    return np.ascontiguousarray(rgb)


def is_picture(value: Any) -> bool:
    """Whether a value is one picture, not a sequence of them."""
    if isinstance(value, np.ndarray):
        return value.ndim != 4
    return isinstance(value, (str, os.PathLike, Image.Image))
