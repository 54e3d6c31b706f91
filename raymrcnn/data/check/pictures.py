"""Looks at the image files of a split: whether each is there, whole, and of the stated size.

What is kept of a picture is small: a digest of its file, 64 bits that stay the same when it is
scaled or compressed again, and a thumbnail of 16x16 gray pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.data.check.findings import Finding
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.images import ImageSizeError, annotated_picture
from raymrcnn.data.store import ImageStore, ShardedImages
from raymrcnn.errors import DataError
from raymrcnn.pictures import rgb_of

Ints = npt.NDArray[np.int64]

THUMBNAIL = 16  # pixels a side
_AT_ONCE = 32  # images a task
_AHEAD = 4  # tasks in hand for each thread


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image as the annotation file has it."""

    id: int
    name: str
    width: int
    height: int
    position: int  # in the file's list


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What an image file was found to be."""

    findings: tuple[Finding, ...] = ()
    digest: bytes = b""  # of the file; empty where it was not read
    dhash: int = 0
    thumbnail: bytes = b""  # empty where it was not decoded


def listed_images(index: CocoIndex, positions: Ints) -> list[ListedImage]:
    """The images of a file, in its order."""
    return [
        ListedImage(
            id=int(index.image_ids[i]),
            name=index.file_name(i),
            width=int(index.widths[i]),
            height=int(index.heights[i]),
            position=int(positions[i]),
        )
        for i in range(index.num_images)
    ]


def look_at_all(
    images: ImageStore,
    listed: Sequence[ListedImage],
    decode: bool,
    num_threads: int,
    progress: Callable[[int], object],
) -> list[Look]:
    """Look at images in threads of this process; in their order.

    Args:
        images: where the files are.
        listed: the images.
        decode: decode each; without, they are only looked for.
        num_threads: that decode at a time.
        progress: told the number of images that are done.
    """
    looks: list[Look] = []
    with ThreadPoolExecutor(num_threads) as pool:
        running: list[Future[list[Look]]] = []
        for part in chunks(listed, _AT_ONCE):
            running.append(pool.submit(look_at, images, part, decode))
            if len(running) >= _AHEAD * num_threads:
                looks += running.pop(0).result()
                progress(len(looks))
        for future in running:
            looks += future.result()
            progress(len(looks))
    return looks


def chunks(listed: Sequence[ListedImage], size: int) -> Iterator[Sequence[ListedImage]]:
    """Consecutive pieces."""
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def look_at(images: ImageStore, listed: Sequence[ListedImage], decode: bool) -> list[Look]:
    """Look at a few images, one after the other."""
    return [_look(images, item, decode) for item in listed]


def _look(images: ImageStore, item: ListedImage, decode: bool) -> Look:
    def only(kind: str, what: str, digest: bytes = b"") -> Look:
        return Look(findings=(_finding(item, kind, what),), digest=digest)

    try:
        data = images.read(item.id, item.name)
    except DataError as error:
        return only("missing" if isinstance(images, ShardedImages) else "outside-root", error.what)
    if isinstance(data, Path):
        if not data.is_file():
            return only("missing", f"no file {item.name}")
        if not decode:
            return Look()
        try:
            data = data.read_bytes()
        except OSError as error:
            return only("undecodable", f"{item.name}: cannot read the image ({error.strerror})")
    if not decode:
        return Look()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        picture, stored = annotated_picture(data, item.width, item.height)
        gray = Image.fromarray(rgb_of(picture)).convert("L")
    except ImageSizeError as error:
        return only("size", f"{item.name}: {error.what}", digest)
    except DataError as error:
        return only("undecodable", f"{item.name}: {error.what}", digest)
    what = f"{item.name}: its EXIF orientation turns it, and it was annotated as stored"
    return Look(
        findings=(_finding(item, "turned", what),) if stored else (),
        digest=digest,
        dhash=_dhash(gray),
        thumbnail=_shrunk(gray, THUMBNAIL, THUMBNAIL).tobytes(),
    )


def _finding(item: ListedImage, kind: str, what: str) -> Finding:
    return Finding(
        kind=f"image-{kind}",
        id=item.id,
        message=f"image {item.id}: {what}",
        file=item.name,
        section="images",
        position=item.position,
    )


def _dhash(gray: Image.Image) -> int:
    """Whether each of 8x8 places is darker than the one to its right, as 64 bits."""
    small = np.asarray(_shrunk(gray, 9, 8)).astype(np.int16)
    bits = (small[:, :-1] < small[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _shrunk(gray: Image.Image, width: int, height: int) -> Image.Image:
    return gray.resize((width, height), Image.Resampling.BOX)
