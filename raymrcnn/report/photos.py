"""Photographs that a page embeds: read, checked against what was predicted, made small.

This module refuses to embed an image in its own size, and to show one in another frame than that
of its detections.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from raymrcnn.data.images import decode_annotated_image
from raymrcnn.errors import DataError
from raymrcnn.report.size import LEVELS
from raymrcnn.structures import Detections

JPEG_QUALITY = 80
_MAX_IMAGE_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An embedded photograph."""

    key: str
    width: int
    height: int
    jpeg: bytes

    def href(self) -> str:
        """The photograph as an address."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode('ascii')}"

    def at_most(self, side_px: int) -> Photo:
        """The same one with a longer side of at most so many pixels."""
        if max(self.width, self.height) <= side_px:
            return self
        with Image.open(io.BytesIO(self.jpeg)) as image:
            return photo_of(self.key, np.asarray(image.convert("RGB")), side_px)


def pixels_of(place: bytes | Path | str | None, found: Detections) -> npt.NDArray[np.uint8]:
    """An image in the frame of its detections, uint8 [height, width, 3] RGB.

    Args:
        place: its bytes, path or URI; None if it is not known.
        found: what says its size.

    Raises:
        DataError: it cannot be read, or has not that size.
    """
    if not place:
        raise DataError("its place is not known")
    remote = isinstance(place, str) and "://" in place
    pixels = decode_annotated_image(
        _fetched(str(place)) if remote else place, found.width, found.height
    )
    upright: npt.NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
    return upright


def photo_of(key: str, pixels: npt.NDArray[np.uint8], side_px: int = LEVELS[0].photo_px) -> Photo:
    """A small photograph, to be embedded.

    Args:
        key: unique on the page.
        pixels: uint8 [height, width, 3] RGB.
        side_px: the most pixels of the longer side.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Photo(key=key, width=image.width, height=image.height, jpeg=stream.getvalue())


def _fetched(uri: str) -> bytes:
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read(_MAX_IMAGE_BYTES)
    except (OSError, pa.ArrowException) as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(f"cannot be read ({line})", where=Path(uri).name) from None
    return data
