"""PASCAL VOC: XML files with polygons, or images of numbered pixels.

With `SegmentationObject/` the pixels count: each number but 0 and 255 (the undecided border) is an
object; its category is the one that `SegmentationClass/` has there most often, or, without that
folder, that of the object of the same place in the XML file. Otherwise every object of an XML file
needs a polygon: `x1 y1 x2 y2 ...`, or points with x and y. XML that declares a document type is
refused, and with it all entities.

Source: the VOC 2012 development kit, section 5 (segmentation ground truth).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from raymrcnn.data.foreign.records import (
    IMAGE_SUFFIXES,
    Labelled,
    Shape,
    png_pixels,
    require_size,
    sizes_of,
)
from raymrcnn.errors import DataError
from raymrcnn.masks import bitmap_to_rle

# Section 2 of the development kit; the numbers in SegmentationClass count from 1 in this order.
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_BORDER = 255
_NAME_FILES = ("class_names.txt", "labelmap.txt")
_MAX_XML_BYTES = 32 << 20
_POINT = re.compile(r"([xy])(\d+)")


class VocFolder:
    """A VOC data set: the folder that has JPEGImages in it, or any folder of XML files.

    Args:
        root: the folder, or one with `VOCdevkit/VOC2012` or the like in it.
    """

    def __init__(self, root: Path) -> None:
        inner = sorted(p for p in root.glob("VOCdevkit/VOC*") if p.is_dir())
        self.root = inner[-1] if inner else root
        self._objects = self.root / "SegmentationObject"
        self.masks = self._objects.is_dir()
        self._xml = {p.stem: p for p in sorted(self.root.rglob("*.xml"))}
        stems = sorted(p.stem for p in self._objects.glob("*.png")) or list(self._xml)
        self.splits = self._listed(stems)
        self.categories = self._names() if self.masks else None

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder holds VOC's masks, or XML files of its kind."""
        if any(True for _ in root.glob("**/SegmentationObject")):
            return True
        for path in sorted(root.rglob("*.xml"))[:5]:
            try:
                return read_xml(path).tag == "annotation"
            except DataError:
                continue
        return False

    def read(self, item: str) -> Labelled:
        """One image; see `records.Source`."""
        tree = read_xml(self._xml[item]) if item in self._xml else None
        image = self._image(item, tree)
        if self.masks:
            return self._read_masks(item, image, tree)
        if tree is None:
            raise DataError(f"no XML file of {item}, which ImageSets lists", where=str(self.root))
        where = str(self._xml[item])
        width, height = (_number(tree, f"size/{side}", where) for side in ("width", "height"))
        require_size(image, int(width), int(height), where)
        shapes = [
            _polygon(found, f"{where}: object {k}")
            for k, found in enumerate(tree.iter("object"), start=1)
        ]
        return Labelled(source=image, name=image.name, width=int(width), height=int(height),
                        shapes=shapes)  # fmt: skip

    def _read_masks(self, item: str, image: Path, tree: Element | None) -> Labelled:
        path = self._objects / f"{item}.png"
        numbers = png_pixels(path, str(path))
        height, width = numbers.shape
        if (width, height) not in sizes_of(image):
            raise DataError(f"is {width}x{height}, and {image.name} is not", where=str(path))
        classes = self.root / "SegmentationClass" / f"{item}.png"
        kinds = png_pixels(classes, str(classes)) if classes.is_file() else None
        if kinds is not None and kinds.shape != numbers.shape:
            raise DataError("has another size than its SegmentationObject", where=str(classes))
        found = list(tree.iter("object")) if tree is not None else []
        listed = [one.findtext("name") or "" for one in found]
        shapes = []
        for number in np.unique(numbers).tolist():
            if number in (0, _BORDER):
                continue
            inside = numbers == number
            where = f"{path}: object {number}"
            name = _name_at(kinds[inside], self.categories or [], where) if kinds is not None \
                else _listed_name(listed, number, where)  # fmt: skip
            shapes.append(Shape(category=name, rle=bitmap_to_rle(inside)))
        return Labelled(source=image, name=image.name, width=width, height=height, shapes=shapes)

    def _image(self, item: str, tree: Element | None) -> Path:
        told = (tree.findtext("filename") or "").strip() if tree is not None else ""
        folders = [self.root / "JPEGImages", self.root / "images", self.root]
        if item in self._xml:
            folders.insert(0, self._xml[item].parent)
        names = [Path(told.replace("\\", "/")).name] if told else []
        names += [item + suffix for suffix in IMAGE_SUFFIXES]
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise DataError(
            f"the image {told or item!r} is not there", where=str(self._xml.get(item, self.root))
        )

    def _listed(self, stems: list[str]) -> dict[str, list[Any]]:
        """The lists of ImageSets, where there are some; else all as one."""
        for kind in ("Segmentation",) if self.masks else ("Main", "Segmentation"):
            found: dict[str, list[Any]] = {}
            for split in ("train", "val", "test"):
                path = self.root / "ImageSets" / kind / f"{split}.txt"
                if path.is_file():
                    lines = path.read_text(encoding="utf-8").splitlines()
                    found[split] = [line.split()[0] for line in lines if line.strip()]
            if found:
                return found
        return {"all": list(stems)}

    def _names(self) -> list[str] | None:
        if not (self.root / "SegmentationClass").is_dir():
            return None
        for name in _NAME_FILES:
            path = self.root / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                names = [n.partition(":")[0].strip() for n in lines if n.strip() and n[0] != "#"]
                return [n for n in names if n not in ("__ignore__",)][1:]  # the first is no object
        return list(VOC_NAMES)


def read_xml(path: Path) -> Element:
    """The root of an XML file without a document type.

    Raises:
        DataError: it cannot be read, is no XML, is too large, or declares a document type.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise DataError("declares a document type, which is not read", where=str(path))

    parser.StartDoctypeDeclHandler = refuse
    try:
        if path.stat().st_size > _MAX_XML_BYTES:
            raise DataError("is too large for an annotation", where=str(path))
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", where=str(path)) from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"is no XML ({error})", where=str(path)) from None
    return builder.close()


def _polygon(found: Element, where: str) -> Shape:
    """The polygons of an object."""
    name = (found.findtext("name") or "").strip()
    if not name:
        raise DataError("has no name", where=where)
    where = f"{where} ({name})"
    polygons = [_points(element, where) for element in found.findall("polygon")]
    if not polygons:
        raise DataError("has a box and no polygon", where=where, todo="Mask R-CNN needs masks")
    return Shape(category=name, polygons=polygons)


def _points(element: Element, where: str) -> list[float]:
    """x, y, x, y, ... of `<x1>..<y1>..` or of `<pt><x>..<y>..`."""
    numbered: dict[int, dict[str, str]] = {}
    for k, child in enumerate(element, start=1):
        match = _POINT.fullmatch(child.tag)
        if match:
            numbered.setdefault(int(match[2]), {})[match[1]] = child.text or ""
        elif child.tag in ("pt", "point"):
            numbered[k] = {a: child.findtext(a) or child.get(a) or "" for a in "xy"}
    try:
        found = [float(numbered[k][a]) for k in sorted(numbered) for a in "xy"]
    except (KeyError, ValueError):
        raise DataError("has a point that is no pair of numbers", where=where) from None
    if len(found) < 6:
        raise DataError("has fewer than 3 points", where=where)
    return found


def _number(tree: Element, name: str, where: str) -> float:
    try:
        return float(tree.findtext(name) or "")
    except ValueError:
        raise DataError(f"has no {name}", where=where) from None


def _name_at(values: npt.NDArray[Any], names: list[str], where: str) -> str:
    """The category that most pixels of an object have."""
    counts = np.bincount(values.ravel())
    counts[0] = 0
    counts[_BORDER : _BORDER + 1] = 0
    number = int(counts.argmax())
    if not counts[number] or number > len(names):
        raise DataError(
            f"is of class {number}, and {len(names)} are named" if number else "has no class",
            where=where, todo=f"write the names into {_NAME_FILES[0]}, background first",
        )  # fmt: skip
    return names[number - 1]


def _listed_name(listed: list[str], number: int, where: str) -> str:
    if not 1 <= number <= len(listed) or not listed[number - 1].strip():
        raise DataError("has no class in SegmentationClass or in the XML file", where=where)
    return listed[number - 1].strip()
