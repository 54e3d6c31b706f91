"""The entries of a COCO annotation file: their fields, and what is said of malformed ones.

The document is decoded down to its sections; annotations stay text until their turn comes. This
module refuses what is not JSON or not of COCO's shape, and says where; or it collects such entries
for whoever wants all of them.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from raymrcnn.data.malformed import SINGULAR, Malformed, finite_entries, is_no_number
from raymrcnn.errors import DataError

_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Length = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Run = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class ImageEntry(msgspec.Struct, gc=False):
    """An image, with the fields that are read."""

    id: _Id
    width: _Length
    height: _Length
    file_name: str | None = None
    # LVIS's; its file names are the last two parts of the URL.
    coco_url: str = ""
    neg_category_ids: list[_Id] = []
    not_exhaustive_category_ids: list[_Id] = []


class CategoryEntry(msgspec.Struct, gc=False):
    """A category."""

    id: _Id
    name: str
    frequency: str = ""  # LVIS's


class File(msgspec.Struct):
    """The sections of a file; annotations are text still."""

    images: list[ImageEntry]
    annotations: list[msgspec.Raw]
    categories: list[CategoryEntry]


class _RawFile(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class Rle(msgspec.Struct):
    """Run lengths, compressed or not."""

    size: tuple[_Length, _Length]
    counts: str | list[_Run]


class AnnotationEntry(msgspec.Struct):
    """An annotation, with the fields that are read."""

    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0
    area: float | None = None
    segmentation: list[list[float]] | Rle | None = None


class _AnnotationId(msgspec.Struct):
    id: int


def decode_document(content: mmap.mmap, path: Path, malformed: list[Malformed] | None) -> File:
    """The file's entries, the annotations not decoded yet."""
    try:
        if malformed is None:
            return msgspec.json.decode(content, type=File)
        try:
            raws = msgspec.json.decode(content, type=_RawFile)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            entries = finite_entries(content[:], malformed)
            if entries is None:
                raise
            raws = msgspec.convert(entries, _RawFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _shape_error(error, path, len(content)) from None
    return File(
        images=_entries(raws.images, ImageEntry, "images", malformed),
        annotations=raws.annotations,
        categories=_entries(raws.categories, CategoryEntry, "categories", malformed),
    )


_Entry = TypeVar("_Entry", ImageEntry, CategoryEntry)


def _entries(
    raws: list[msgspec.Raw], kind: type[_Entry], section: str, malformed: list[Malformed]
) -> list[_Entry]:
    """Those that are well formed."""
    decode = msgspec.json.Decoder(kind).decode
    found = []
    for position, raw in enumerate(raws):
        try:
            entry = decode(raw)
            if isinstance(entry, ImageEntry):
                file_name_of(entry, position, Path())
            found.append(entry)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DataError) as error:
            malformed.append(malformed_entry(error, section, position, raw))
    return found


def malformed_entry(error: Exception, section: str, position: int, raw: msgspec.Raw) -> Malformed:
    """What an error of decoding says of an entry."""
    text = "it has no `file_name`" if isinstance(error, DataError) else _located(str(error), "")
    return Malformed(
        section=section,
        position=position,
        id=_id_of(raw),
        kind="number-not-finite" if is_no_number(text) else f"{SINGULAR[section]}-malformed",
        what=text,
    )


def _id_of(raw: msgspec.Raw) -> int:
    try:
        return msgspec.json.decode(raw, type=_AnnotationId).id
    except msgspec.DecodeError:
        return -1


def file_name_of(image: ImageEntry, position: int, path: Path) -> str:
    """The name of the image's file, relative to the folder of its split.

    Raises:
        DataError: it has none.
    """
    # An empty name stays empty: it is a fault of that image alone, for whoever reads it.
    name = image.file_name
    if name is None:
        name = "/".join(image.coco_url.split("/")[-2:]) or None
    if name is None:
        raise DataError(
            f"not a COCO annotation file: images[{position}]: object missing required field "
            "`file_name`",
            where=str(path),
            todo="copy or export the file again",
        )
    return name


def _shape_error(error: Exception, path: Path, size: int) -> DataError:
    text = str(error)
    # An invalid character behind the end: a number was cut.
    if "truncated" in text or re.search(rf"invalid \w+ \(byte {size}\)", text):
        what = f"the JSON is cut short: it ends within a value at byte {size}"
    elif isinstance(error, RecursionError):
        what = "the JSON is nested too deep"
    elif isinstance(error, msgspec.ValidationError):
        what = f"not a COCO annotation file: {_located(text, '')}"
    else:
        what = f"not JSON: {text.removeprefix('JSON is malformed: ')}"
    return DataError(what, where=str(path), todo="copy or export the file again")


def annotation_error(error: Exception, path: Path, position: int, raw: msgspec.Raw) -> DataError:
    """The error of a reader that stops at a malformed annotation."""
    place = f"annotations[{position}]"
    annotation_id = _id_of(raw)
    place += f" (id {annotation_id})" if annotation_id >= 0 else ""
    return DataError(
        f"not a COCO annotation file: {_located(str(error), place)}",
        where=str(path),
        todo="correct or remove the annotation",
    )


def _located(message: str, place: str) -> str:
    """`Expected ... - at `$.bbox[2]`` as `PLACE.bbox[2]: expected ...`."""
    found = re.fullmatch(r"(.*) - at `\$(.*)`", message, re.DOTALL)
    what, field = found.groups() if found else (message, "")
    full = (place + field).removeprefix(".") or "top level"
    return f"{full}: {what[:1].lower()}{what[1:]}"
