"""YOLO segmentation: a text file an image, a line `class x y x y ...` an object, in parts of 1.

`data.yaml` names the classes and the folders of the splits; `images/` in a path becomes `labels/`.
An object is one outline: objects of several parts and with holes are joined by cuts of no width. A
missing or an empty text file is an image without objects. There are no crowds.

Source: the format as ultralytics documents it ("Instance Segmentation Datasets Overview").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raymrcnn.data.foreign.outline import one_outline
from raymrcnn.data.foreign.records import (
    IMAGE_SUFFIXES,
    Labelled,
    Shape,
    Written,
    name_below,
    sizes_of,
    write_beside,
)
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.migrate.files import read_yaml

SPLITS = ("train", "val", "test")
# Decimals of a pixel that coordinates are rounded to, so that 12.1 comes back as 12.1: which pixels
# a polygon covers can hang on that. Ten digits are written for it.
_DIGITS = 5
_OUTSIDE = 0.01  # part of the width that a point may lie outside


class YoloFolder:
    """The data set of a `data.yaml`.

    Args:
        root: its folder, or the file.

    Raises:
        DataError: no such file, or it does not say what it should.
    """

    def __init__(self, root: Path) -> None:
        self.file = data_file(root)
        if self.file is None:
            for path in _candidates(root):
                read_yaml(path)  # says what is wrong with it
            raise DataError("no data.yaml with names and splits", where=str(root))
        document = read_yaml(self.file)
        self.categories = _names(document["names"], self.file)
        self._folders: list[Path] = []
        self.splits: dict[str, list[Path]] = {}
        for split in SPLITS:
            if document.get(split):
                self.splits[split] = self._images(document, split)

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder holds a `data.yaml`."""
        return data_file(root) is not None

    def read(self, item: Path) -> Labelled:
        """One image; see `records.Source`."""
        (width, height), _ = sizes_of(item)
        labels = _labels_of(item)
        try:
            lines = labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read ({error})", where=str(labels)) from None
        shapes = [
            self._shape(line.split(), width, height, f"{labels}:{n}")
            for n, line in enumerate(lines, start=1)
            if line.strip()
        ]
        name = name_below(item, self._folders)
        return Labelled(source=item, name=name, width=width, height=height, shapes=shapes)

    def _shape(self, words: list[str], width: int, height: int, where: str) -> Shape:
        try:
            number, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise DataError("is no line of numbers", where=where) from None
        if not 0 <= number < len(self.categories):
            raise DataError(
                f"is of class {number}, and data.yaml names {len(self.categories)}", where=where
            )
        if len(values) == 4:
            raise DataError("has a box and no outline", where=where,
                            todo="Mask R-CNN needs masks")  # fmt: skip
        if len(values) < 6 or len(values) % 2:
            raise DataError(f"has {len(values)} numbers, not 6 or more and even", where=where)
        if not all(math.isfinite(v) and -_OUTSIDE <= v <= 1 + _OUTSIDE for v in values):
            raise DataError("has a number outside 0 to 1", where=where)
        sides = (width, height)
        polygon = [round(min(max(v, 0.0), 1.0) * sides[k % 2], _DIGITS)
                   for k, v in enumerate(values)]  # fmt: skip
        return Shape(category=self.categories[number], polygons=[polygon])

    def _images(self, document: Mapping[str, Any], split: str) -> list[Path]:
        assert self.file is not None
        given = document[split]
        found: list[Path] = []
        for entry in given if isinstance(given, list) else [given]:
            place = self._place(document, str(entry), split)
            if place.is_dir():
                self._folders.append(place)
                found += [p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
            else:
                found += _listed(place)
        return sorted(dict.fromkeys(found))

    def _place(self, document: Mapping[str, Any], entry: str, split: str) -> Path:
        """The folder or list of a split; some programs write `../train/images` and mean less."""
        assert self.file is not None
        here = self.file.parent
        bases = [here / str(document.get("path") or "."), here]
        names = [entry, entry.removeprefix("../")]
        places = [base / name for name in names for base in bases]
        for place in places:
            if place.exists():
                return place
        raise DataError(f"no folder {entry!r} for {split}", where=str(self.file))


def data_file(root: Path) -> Path | None:
    """The YAML file that names classes and splits; None where there is none."""
    if root.is_file():
        return root if root.suffix in (".yaml", ".yml") else None
    for path in _candidates(root):
        try:
            document = read_yaml(path)
        except ConfigError:
            continue
        if isinstance(document, dict) and "names" in document and set(SPLITS) & set(document):
            return path
    return None


def _candidates(root: Path) -> list[Path]:
    return sorted([*root.glob("*.yaml"), *root.glob("*.yml")])


def write_data_file(path: Path, splits: Sequence[str], names: Sequence[str]) -> None:
    """Write `data.yaml`: train, val and test for splits whose names begin so, else their names.

    The only split is train whatever its name, as a file without one is not read.
    """
    keys: dict[str, str] = {}
    for split in splits:
        short = next((s for s in SPLITS if split.startswith(s)), "")
        short = short or ("train" if len(splits) == 1 else split)
        keys[short if short not in keys else split] = split
    lines = [f"{json.dumps(key)}: {json.dumps('images/' + split)}" for key, split in keys.items()]
    lines += ["names:", *(f"  {k}: {json.dumps(n, ensure_ascii=False)}"
                          for k, n in enumerate(names))]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_labels(folder: Path, numbers: Mapping[str, int], image: Labelled) -> Written:
    """Write the lines of one image; crowds are left out.

    Args:
        folder: of the labels of the split.
        numbers: of the classes, by name.
        image: what is in it.

    Raises:
        DataError: an object has no outline, or another image has a file of this name.
    """
    lines = []
    shapes = [shape for shape in image.shapes if not shape.crowd]
    for shape in shapes:
        outline = one_outline(shape, image.width, image.height, image.name)
        if not len(outline):
            raise DataError(f"an object ({shape.category}) has no pixel", where=image.name)
        parts = outline / (image.width, image.height)
        values = " ".join(f"{v:.10g}" for v in parts.clip(0, 1).ravel().tolist())
        lines.append(f"{numbers[shape.category]} {values}\n")
    write_beside(folder, image.name, ".txt", "".join(lines))
    return Written(objects=len(shapes), crowds_left_out=len(image.shapes) - len(shapes))


def _names(given: Any, file: Path) -> list[str]:
    if isinstance(given, dict) and sorted(given) == list(range(len(given))):
        given = [given[k] for k in range(len(given))]
    if not isinstance(given, list) or not given or len({str(n) for n in given}) != len(given):
        raise DataError("names are no list of different names, 0, 1, 2, ...", where=str(file))
    return [str(name) for name in given]


def _labels_of(image: Path) -> Path:
    """`images` nearest to the file becomes `labels`; without one, the text file lies beside it."""
    parts = list(image.parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            parts[k] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _listed(file: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the list ({error})", where=str(file)) from None
    return [file.parent / line for line in lines if line]
