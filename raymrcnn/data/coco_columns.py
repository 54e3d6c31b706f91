"""A COCO annotation file as columns: numbers in arrays, names and run lengths in byte buffers.

The file is mapped, not read, and its annotations are decoded one at a time, so that no Python
object of an annotation outlives its turn. The columns hold what the file says, right or wrong:
whether ids refer to anything is asked by `raymrcnn.data.coco`. This module refuses what is not
JSON or not of COCO's shape, and says where.
"""

from __future__ import annotations

import hashlib
import mmap
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from raymrcnn.data.coco_entries import (
    AnnotationEntry,
    File,
    Rle,
    annotation_error,
    decode_document,
    file_name_of,
    malformed_entry,
)
from raymrcnn.data.malformed import Malformed, merged, odd_crowd
from raymrcnn.errors import DataError

# How an annotation gives its mask.
NO_MASK, POLYGONS, COMPRESSED, COUNTS = range(4)

_RELEASE_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Segmentations:
    """The masks of all annotations, as they were given.

    Row j is `rows[j] = (start, stop)`: polygons `start` to `stop`, or the run lengths `start`.
    """

    kinds: npt.NDArray[np.uint8]  # [num_annotations] NO_MASK, POLYGONS, COMPRESSED or COUNTS
    rows: npt.NDArray[np.int64]  # [num_annotations, 2]
    coordinates: npt.NDArray[np.float64]  # x, y, x, y, ... of all polygons, pixels
    polygon_ends: npt.NDArray[np.int64]  # [num_polygons + 1] in coordinates, the first being 0
    rle_bytes: npt.NDArray[np.uint8]  # compressed counts as they are, others as int64
    rle_ends: npt.NDArray[np.int64]  # [num_rles + 1] in rle_bytes, the first being 0
    rle_sizes: npt.NDArray[np.int32]  # [num_rles, 2] height, width

    def polygons(self, j: int) -> list[npt.NDArray[np.float64]]:
        """The polygons of annotation j, each [2 * num_points] x, y, x, y, ..."""
        start, stop = self.rows[j]
        ends = self.polygon_ends[start : stop + 1].tolist()
        return [self.coordinates[a:b] for a, b in zip(ends, ends[1:], strict=False)]

    def run_lengths(self, j: int) -> dict[str, Any]:
        """The RLE of annotation j in COCO's form, counts as `str` or as `list[int]`."""
        row = int(self.rows[j, 0])
        raw = self.rle_bytes[self.rle_ends[row] : self.rle_ends[row + 1]].tobytes()
        compressed = self.kinds[j] == COMPRESSED
        counts = raw.decode() if compressed else np.frombuffer(raw, np.int64).tolist()
        return {"size": self.rle_sizes[row].tolist(), "counts": counts}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Federation:
    """What LVIS says besides: which categories each image was searched for."""

    frequencies: dict[int, str]  # "r", "c" or "f" by category id
    negative: npt.NDArray[np.int64]  # category ids of which an image has none
    negative_ends: npt.NDArray[np.int64]  # [num_images + 1] in `negative`
    partial: npt.NDArray[np.int64]  # category ids of which not all objects are annotated
    partial_ends: npt.NDArray[np.int64]  # [num_images + 1] in `partial`

    def of_image(self, i: int) -> dict[str, list[int]]:
        """The fields of image i as in the file."""
        a, b = self.negative_ends[i : i + 2]
        c, d = self.partial_ends[i : i + 2]
        return {
            "neg_category_ids": self.negative[a:b].tolist(),
            "not_exhaustive_category_ids": self.partial[c:d].tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Columns:
    """Everything that an annotation file says, in the order of the file."""

    fingerprint: str  # SHA-256 of the file
    category_table: tuple[tuple[int, str], ...]  # ids and names
    image_ids: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    name_bytes: npt.NDArray[np.uint8]  # UTF-8
    name_ends: npt.NDArray[np.int64]  # [num_images + 1]
    ids: npt.NDArray[np.int64]
    image_id_of: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]  # NaN where the file gives none
    boxes: npt.NDArray[np.float64]  # [num_annotations, 4] x, y, width, height
    segmentations: Segmentations
    federation: Federation | None = None  # where the file is LVIS's


def read_columns(path: Path, malformed: list[Malformed] | None = None) -> Columns:
    """Read an annotation file.

    Args:
        path: of the file.
        malformed: takes the entries that are malformed, which the columns then lack; without it
            the first one ends in an error.

    Raises:
        DataError: it cannot be read, is cut short, is not JSON, or a field is missing or of
            another type, with the byte or the annotation and field.
    """
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # what mmap says of an empty file
        raise DataError("the annotation file is empty", where=str(path)) from None
    except OSError as error:
        raise DataError(
            f"cannot read the annotation file ({error.strerror})", where=str(path)
        ) from None
    document = decode_document(content, path, malformed)
    fingerprint = hashlib.sha256(content).hexdigest()
    builder = _Builder()
    builder.add_all(document.annotations, path, content, malformed)
    if malformed is not None:
        malformed[:] = merged(malformed)
    names = [file_name_of(image, i, path).encode() for i, image in enumerate(document.images)]
    return Columns(
        fingerprint=fingerprint,
        category_table=tuple((c.id, c.name) for c in document.categories),
        image_ids=_column((i.id for i in document.images), np.int64),
        widths=_column((i.width for i in document.images), np.int32),
        heights=_column((i.height for i in document.images), np.int32),
        name_bytes=np.frombuffer(b"".join(names), np.uint8),
        name_ends=np.cumsum([0, *(len(name) for name in names)], dtype=np.int64),
        ids=_array(builder.ids),
        image_id_of=_array(builder.image_ids),
        category_ids=_array(builder.category_ids),
        iscrowd=_array(builder.iscrowd).astype(np.bool_),
        areas=_array(builder.areas),
        boxes=_array(builder.boxes).reshape(-1, 4),
        segmentations=builder.segmentations(),
        federation=_federation(document),
    )


def _federation(document: File) -> Federation | None:
    frequencies = {c.id: c.frequency for c in document.categories}
    if not frequencies or not set(frequencies.values()) <= {"r", "c", "f"}:
        return None
    negative = [image.neg_category_ids for image in document.images]
    partial = [image.not_exhaustive_category_ids for image in document.images]
    return Federation(
        frequencies=frequencies,
        negative=_column((k for ids in negative for k in ids), np.int64),
        negative_ends=np.cumsum([0, *map(len, negative)], dtype=np.int64),
        partial=_column((k for ids in partial for k in ids), np.int64),
        partial_ends=np.cumsum([0, *map(len, partial)], dtype=np.int64),
    )


class _Builder:
    """Grows the annotation columns, one annotation at a time."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = array("q"), array("q"), array("q")
        self.iscrowd, self.kinds = array("B"), array("B")
        self.areas, self.boxes = array("d"), array("d")
        self.rows = array("q")
        self.coordinates, self.polygon_ends = array("d"), array("q", [0])
        self.rle_bytes, self.rle_ends = bytearray(), array("q", [0])
        self.rle_sizes = array("i")

    def add_all(
        self,
        raws: list[msgspec.Raw],
        path: Path,
        content: mmap.mmap,
        malformed: list[Malformed] | None,
    ) -> None:
        decode = msgspec.json.Decoder(AnnotationEntry).decode
        done = released = 0
        for position, raw in enumerate(raws):
            try:
                item = decode(raw)
                self.add(item)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if malformed is None:
                    raise annotation_error(error, path, position, raw) from None
                malformed.append(malformed_entry(error, "annotations", position, raw))
                continue
            if malformed is not None and item.iscrowd not in (0, 1):
                malformed.append(odd_crowd(position, item.id, item.iscrowd))
            done += len(memoryview(raw))
            if released + _RELEASE_BYTES <= done <= len(content):
                # Pages behind us count as our memory until they are let go.
                released = done // mmap.PAGESIZE * mmap.PAGESIZE
                content.madvise(mmap.MADV_DONTNEED, 0, released)

    def add(self, item: AnnotationEntry) -> None:
        self.ids.append(item.id)
        self.image_ids.append(item.image_id)
        self.category_ids.append(item.category_id)
        self.iscrowd.append(bool(item.iscrowd))
        self.areas.append(float("nan") if item.area is None else item.area)
        self.boxes.extend(item.bbox)
        mask = item.segmentation
        if isinstance(mask, list):
            start = len(self.polygon_ends) - 1
            for polygon in mask:
                self.coordinates.fromlist(polygon)  # half the time of extend
                self.polygon_ends.append(len(self.coordinates))
            self._place(POLYGONS, start, start + len(mask))
        elif isinstance(mask, Rle):
            row = len(self.rle_ends) - 1
            if isinstance(mask.counts, str):
                self.rle_bytes += mask.counts.encode()
            else:
                self.rle_bytes += array("q", mask.counts).tobytes()
            self.rle_ends.append(len(self.rle_bytes))
            self.rle_sizes.extend(mask.size)
            self._place(COMPRESSED if isinstance(mask.counts, str) else COUNTS, row, row + 1)
        else:
            self._place(NO_MASK, 0, 0)

    def _place(self, kind: int, start: int, stop: int) -> None:
        self.kinds.append(kind)
        self.rows.append(start)
        self.rows.append(stop)

    def segmentations(self) -> Segmentations:
        return Segmentations(
            kinds=_array(self.kinds),
            rows=_array(self.rows).reshape(-1, 2),
            coordinates=_array(self.coordinates),
            polygon_ends=_array(self.polygon_ends),
            rle_bytes=np.frombuffer(self.rle_bytes, np.uint8),
            rle_ends=_array(self.rle_ends),
            rle_sizes=_array(self.rle_sizes).reshape(-1, 2),
        )


def _array(values: array[Any]) -> npt.NDArray[Any]:
    return np.frombuffer(values, values.typecode)


def _column(values: Iterable[int], dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    return np.fromiter(values, dtype)
