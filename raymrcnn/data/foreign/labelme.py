"""labelme: a JSON file an image, with polygons, rectangles, circles and masks.

Shapes of one label and one group number are one object. A rectangle is its four corners, a circle a
polygon of 64. Lines and points enclose nothing, and are refused. Shapes labelled `__ignore__` are
left out, as labelme's own exporters do.

Source: labelme's file format, labelme/label_file.py, and its exporters' use of masks: a mask is a
PNG of the pixels from its first point to its second, both included.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from raymrcnn.data.foreign.records import (
    Labelled,
    Shape,
    Written,
    box_of,
    name_below,
    png_pixels,
    require_size,
    sizes_of,
    write_beside,
)
from raymrcnn.errors import DataError
from raymrcnn.masks import bitmap_to_rle, polygons_to_bitmap, rle_to_bitmap

IGNORED = "__ignore__"
CROWD = "crowd"  # the flag that crowds are written with
_CIRCLE_CORNERS = 64
_MAX_BYTES = 256 << 20  # of a file that is looked into; photographs inside make them large
_Size = tuple[int, int]  # width, height, pixels
_SPLIT = re.compile(r"(train|val|test)[0-9_-]*|all")


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | str | None = None
    mask: str | None = None
    flags: dict[str, Any] | None = None


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imagePath: str  # noqa: N815  # labelme's names
    imageHeight: int | None = None  # noqa: N815  # early versions do not say
    imageWidth: int | None = None  # noqa: N815
    imageData: str | None = None  # noqa: N815


class LabelmeFolder:
    """A folder of labelme files; folders train, val, test, all in it, also with a year, are splits.

    Args:
        root: the folder.
    """

    categories = None

    def __init__(self, root: Path) -> None:
        self.root = root
        found = sorted(root.rglob("*.json"))
        self.splits: dict[str, list[Path]] = {}
        for path in found:
            first = path.relative_to(root).parts[0]
            known = first if _SPLIT.fullmatch(first) and (root / first).is_dir() else "all"
            self.splits.setdefault(known, []).append(path)

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder holds a labelme file."""
        return any(_looks_right(path) for path in sorted(root.rglob("*.json"))[:20])

    def read(self, item: Path) -> Labelled:
        """One image; see `records.Source`."""
        try:
            file = msgspec.json.decode(item.read_bytes(), type=_File)
        except OSError as error:
            raise DataError(f"cannot read ({error.strerror})", where=str(item)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"is no labelme file ({error})", where=str(item)) from None
        source, name = self._image(item, file)
        upright, _ = sizes_of(source)
        size = file.imageWidth or upright[0], file.imageHeight or upright[1]
        require_size(source, *size, str(item))
        shapes = _objects(file, item, size)
        return Labelled(source=source, name=name, width=size[0], height=size[1], shapes=shapes)

    def _image(self, item: Path, file: _File) -> tuple[bytes | Path, str]:
        """The image beside a file, or the one inside it; and its name."""
        told = file.imagePath.replace("\\", "/")
        path = item.parent / told
        below = [*(self.root / split for split in self.splits), self.root]
        if told and path.is_file():
            return path, name_below(path.resolve(), [f.resolve() for f in below])
        if not file.imageData:
            raise DataError(f"the image {told!r} is not there", where=str(item))
        try:
            data = base64.b64decode(file.imageData, validate=True)
        except ValueError:
            raise DataError("imageData is no base64", where=str(item)) from None
        suffix = Path(told).suffix or ".jpg"
        return data, name_below(item, below).removesuffix(".json") + suffix


def write_labelme(folder: Path, image: Labelled) -> Written:
    """Write the file of one image, to lie beside it.

    Polygons stay polygons, several of one object with a group number; pixels become a mask.

    Raises:
        DataError: another image has a file of this name.
    """
    shapes: list[dict[str, Any]] = []
    for k, shape in enumerate(image.shapes, start=1):
        flags = {CROWD: True} if shape.crowd else {}
        group = k if len(shape.polygons) > 1 else None
        about = {"label": shape.category, "group_id": group, "description": "", "flags": flags}
        if shape.rle:
            shapes.append({**about, **_mask(shape.rle, image), "shape_type": "mask"})
        for polygon in shape.polygons:
            points = np.reshape(polygon, (-1, 2)).tolist()
            shapes.append({**about, "points": points, "shape_type": "polygon", "mask": None})
    document: dict[str, Any] = {
        "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": Path(image.name).name,
        "imageData": None, "imageHeight": image.height, "imageWidth": image.width,
    }  # fmt: skip
    text = json.dumps(document, ensure_ascii=False, indent=1)
    write_beside(folder, image.name, ".json", text)
    return Written(objects=len(image.shapes))


def _looks_right(path: Path) -> bool:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return False
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return "shapes" in document and "imagePath" in document


def _objects(file: _File, item: Path, size: _Size) -> list[Shape]:
    """The objects of a file: shapes, those of one label and group together."""
    together: dict[object, list[int]] = {}
    for k, shape in enumerate(file.shapes):
        if shape.label != IGNORED:
            alone = shape.group_id is None
            together.setdefault(k if alone else (shape.label, str(shape.group_id)), []).append(k)
    found = []
    for members in together.values():
        parts = [_part(file.shapes[k], size, f"{item}: shape {k + 1}") for k in members]
        first = file.shapes[members[0]]
        crowd = bool((first.flags or {}).get(CROWD))
        if all(isinstance(part, list) for part in parts):
            found.append(Shape(category=first.label, polygons=parts, crowd=crowd))  # type: ignore[arg-type]
            continue
        union = np.zeros(size[::-1], np.uint8)
        for part in parts:
            union |= _pixels(part, size)
        found.append(Shape(category=first.label, rle=bitmap_to_rle(union), crowd=crowd))
    return found


def _pixels(part: list[float] | np.ndarray[Any, Any], size: _Size) -> Any:
    if isinstance(part, list):
        return polygons_to_bitmap([part], size[1], size[0])
    return part


def _part(shape: _Shape, size: _Size, where: str) -> list[float] | np.ndarray[Any, Any]:
    """A polygon [x, y, ...], or the pixels [height, width] of a mask."""
    points, kind = shape.points, shape.shape_type
    where = f"{where} ({shape.label})"
    if kind == "mask":
        return _bitmap(shape, size, where)
    if kind == "polygon":
        if len(points) < 3:
            raise DataError("has fewer than 3 points", where=where)
        return [v for point in points for v in point]
    if kind in ("rectangle", "circle") and len(points) != 2:
        raise DataError(f"is a {kind} of {len(points)} points, not 2", where=where)
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    if kind == "circle":
        return _circle(points)
    raise DataError(f"is a {kind}, which encloses nothing", where=where, todo="draw a polygon")


def _circle(points: Sequence[tuple[float, float]]) -> list[float]:
    """The middle, and a point on the border."""
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    turns = [2 * math.pi * k / _CIRCLE_CORNERS for k in range(_CIRCLE_CORNERS)]
    return [v for t in turns for v in (x + radius * math.cos(t), y + radius * math.sin(t))]


def _bitmap(shape: _Shape, size: _Size, where: str) -> np.ndarray[Any, Any]:
    if len(shape.points) != 2 or not shape.mask:
        raise DataError("is a mask without its two points and its pixels", where=where)
    try:
        data = base64.b64decode(shape.mask, validate=True)
    except ValueError:
        raise DataError("its mask is no base64", where=where) from None
    pixels = png_pixels(data, where, "L") > 0
    (x, y), (x2, y2) = ((round(a), round(b)) for a, b in shape.points)
    inside = 0 <= x <= x2 < size[0] and 0 <= y <= y2 < size[1]
    if not inside or pixels.shape != (y2 + 1 - y, x2 + 1 - x):
        raise DataError("its mask has another size than its points say", where=where)
    whole = np.zeros(size[::-1], np.uint8)
    whole[y : y2 + 1, x : x2 + 1] = pixels
    return whole


def _mask(rle: str, image: Labelled) -> dict[str, Any]:
    x, y, width, height = (int(v) for v in box_of(rle, image.width, image.height))
    part = rle_to_bitmap(rle, image.height, image.width)[y : y + height, x : x + width]
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(part * 255)).convert("1").save(stream, "PNG")
    return {
        "points": [[x, y], [x + width - 1, y + height - 1]],
        "mask": base64.b64encode(stream.getvalue()).decode("ascii"),
    }
