"""A small whole data set, and sixty ways to damage it, each with what verification should find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raymrcnn.masks import bitmap_to_rle

WIDTH, HEIGHT = 48, 32
SPLIT, OTHER = "t", "v"


def square(x: float, y: float, side: float = 10) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def rectangle_rle(x: int, y: int, w: int, h: int, compressed: bool) -> dict[str, Any]:
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8)
    bitmap[y : y + h, x : x + w] = 1
    if compressed:
        return {"size": [HEIGHT, WIDTH], "counts": bitmap_to_rle(bitmap)}
    flat = np.concatenate([[0], bitmap.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, bitmap.size]).tolist()}


def thing(k: int, image_id: int, category_id: int, mask: Any, box: list[float]) -> dict[str, Any]:
    return {
        "id": k,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": box[2] * box[3],
        "bbox": box,
        "segmentation": mask,
        "drawn_by": f"person {k}",  # a field that is not read, and must be kept
    }


def picture(seed: int) -> Image.Image:
    """Smooth blotches: other seeds look different, also when they are small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def write_whole(root: Path) -> None:
    """Split t: images 1 to 5, annotations 1 to 7; split v: images 11 and 12."""
    two_parts = [square(2, 2, 6), square(12, 2, 6)]
    annotations = [
        thing(1, 1, 1, [square(4, 4)], [4, 4, 10, 10]),
        thing(2, 1, 2, two_parts, [2, 2, 16, 6]) | {"area": 72},
        thing(3, 2, 2, rectangle_rle(5, 6, 12, 9, compressed=True), [5, 6, 12, 9]),
        thing(4, 2, 1, rectangle_rle(20, 4, 20, 20, compressed=False), [20, 4, 20, 20])
        | {"iscrowd": 1},
        thing(5, 3, 3, [square(30, 10)], [30, 10, 10, 10]),
        thing(6, 4, 1, [square(1, 1, 20)], [1, 1, 20, 20]),
        thing(7, 4, 3, [square(26, 1, 20)], [26, 1, 20, 20]),
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(("cat", "dog", "cow"), start=1)]
    for split, ids in ((SPLIT, range(1, 6)), (OTHER, range(11, 13))):
        (root / split).mkdir(parents=True)
        for k in ids:
            picture(k).save(root / split / f"{k}.png")
        document = {
            "info": {"year": 2024},
            "images": [
                {"id": k, "file_name": f"{k}.png", "width": WIDTH, "height": HEIGHT, "license": 3}
                for k in ids
            ],
            "annotations": annotations if split == SPLIT else [],
            "categories": categories,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(document))


Found = set[tuple[str, int]]  # kind and id


@dataclass
class Damaged:
    """The data set under work."""

    root: Path
    document: dict[str, Any] = field(default_factory=dict)

    def image(self, k: int) -> dict[str, Any]:
        return next(entry for entry in self.document["images"] if entry["id"] == k)

    def annotation(self, k: int) -> dict[str, Any]:
        return next(entry for entry in self.document["annotations"] if entry["id"] == k)

    def file(self, k: int) -> Path:
        return self.root / SPLIT / f"{k}.png"


Damage = Callable[[Damaged], object]
DAMAGES: dict[str, tuple[Damage, Found]] = {}


def damage(name: str, *found: tuple[str, int]) -> Callable[[Damage], Damage]:
    def keep(function: Damage) -> Damage:
        assert name not in DAMAGES
        DAMAGES[name] = (function, set(found))
        return function

    return keep


def change(name: str, found: Found, k: int, **fields: Any) -> None:
    """A damage of fields of annotation k; ... removes a field."""

    def apply(data: Damaged) -> None:
        entry = data.annotation(k)
        for key, value in fields.items():
            if value is ...:
                del entry[key]
            else:
                entry[key] = value

    DAMAGES[name] = (apply, found)


def apply(name: str, whole: Path, root: Path) -> Found:
    """Copy the whole data set, damage the copy, and tell what should be found."""
    shutil.copytree(whole, root)
    path = root / f"annotations/instances_{SPLIT}.json"
    data = Damaged(root, json.loads(path.read_text()))
    function, found = DAMAGES[name]
    function(data)
    path.write_text(json.dumps(data.document))
    return found


# Files of images


@damage("no file", ("image-missing", 2))
def _(data: Damaged) -> None:
    data.file(2).unlink()


@damage("a folder instead of a file", ("image-missing", 5))
def _(data: Damaged) -> None:
    data.file(5).unlink()
    data.file(5).mkdir()


@damage("an empty file", ("image-undecodable", 3))
def _(data: Damaged) -> None:
    data.file(3).write_bytes(b"")


@damage("a file cut short", ("image-undecodable", 1))
def _(data: Damaged) -> None:
    data.file(1).write_bytes(data.file(1).read_bytes()[:-40])


@damage("text instead of an image", ("image-undecodable", 4))
def _(data: Damaged) -> None:
    data.file(4).write_text("<html>404</html>")


@damage("an image of floating-point pixels", ("image-undecodable", 4))
def _(data: Damaged) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.float32)
    data.image(4)["file_name"] = "4.tiff"
    Image.fromarray(pixels).save(data.root / SPLIT / "4.tiff")


@damage("an image of another size", ("image-size", 1))
def _(data: Damaged) -> None:
    picture(1).resize((WIDTH * 2, HEIGHT * 2)).save(data.file(1))


@damage("an unannotated image of another size", ("image-size", 5))
def _(data: Damaged) -> None:
    picture(5).resize((HEIGHT, WIDTH)).save(data.file(5))


@damage("width and height interchanged", ("image-size", 3))
def _(data: Damaged) -> None:
    data.image(3).update(width=HEIGHT, height=WIDTH)
    data.annotation(5).update(bbox=[10, 30, 10, 10], segmentation=[square(10, 30)])


@damage("annotated as stored, turned by EXIF", ("image-turned", 3))
def _(data: Damaged) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).save(data.file(3), exif=exif)


@damage("annotated upright, the size of the stored pixels", ("image-size", 3))
def _(data: Damaged) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).resize((WIDTH + 2, HEIGHT)).save(data.file(3), exif=exif)


@damage("a name with ..", ("image-outside-root", 2))
def _(data: Damaged) -> None:
    data.image(2)["file_name"] = "../../../../etc/passwd"


@damage("an absolute name", ("image-outside-root", 2))
def _(data: Damaged) -> None:
    data.image(2)["file_name"] = str(data.file(2))


@damage("an empty name", ("image-outside-root", 2))
def _(data: Damaged) -> None:
    data.image(2)["file_name"] = ""


@damage("one file under two ids", ("image-file-shared", 4))
def _(data: Damaged) -> None:
    data.image(4)["file_name"] = "3.png"


@damage("the same bytes under two names", ("image-copy", 4))
def _(data: Damaged) -> None:
    shutil.copy(data.file(3), data.file(4))


@damage("an image of the other split", ("image-in-other-split", 4))
def _(data: Damaged) -> None:
    shutil.copy(data.root / OTHER / "12.png", data.file(4))


@damage("an image of the other split, compressed again", ("image-near-duplicate", 4))
def _(data: Damaged) -> None:
    data.image(4)["file_name"] = "4.jpg"
    picture(12).save(data.root / SPLIT / "4.jpg", quality=60)


@damage("an image of the other split, brighter", ("image-near-duplicate", 2))
def _(data: Damaged) -> None:
    picture(11).point(lambda v: min(255, int(v * 1.1))).save(data.file(2))


@damage("an image of the other split, half the size", ("image-near-duplicate", 5))
def _(data: Damaged) -> None:
    data.image(5).update(width=WIDTH // 2, height=HEIGHT // 2)
    picture(12).resize((WIDTH // 2, HEIGHT // 2)).save(data.file(5))


# Entries of images


@damage("an image id twice, the same file", ("duplicate-image", 2))
def _(data: Damaged) -> None:
    data.document["images"].append(dict(data.image(2)))


@damage("an image id twice, another file", ("duplicate-image", 1))
def _(data: Damaged) -> None:
    data.document["images"].append({**data.image(2), "id": 1})
    data.document["images"].remove(data.image(2))
    for k in (3, 4):
        data.document["annotations"].remove(data.annotation(k))


@damage("an unannotated image id twice", ("duplicate-image", 5))
def _(data: Damaged) -> None:
    picture(6).save(data.file(6))
    data.document["images"].append({**data.image(5), "file_name": "6.png"})


@damage("an image without a width", ("image-malformed", 3), ("unknown-image", 5))
def _(data: Damaged) -> None:
    del data.image(3)["width"]


@damage("an image of height 0", ("image-malformed", 3), ("unknown-image", 5))
def _(data: Damaged) -> None:
    data.image(3)["height"] = 0


@damage("an image without a name", ("image-malformed", 5))
def _(data: Damaged) -> None:
    del data.image(5)["file_name"]


@damage("an image id that is text", ("image-malformed", -1), ("unknown-image", 5))
def _(data: Damaged) -> None:
    data.image(3)["id"] = "three"


@damage("an image width of NaN", ("number-not-finite", 5))
def _(data: Damaged) -> None:
    data.image(5)["width"] = float("nan")


# Categories


@damage("a category id twice", ("duplicate-category", 2))
def _(data: Damaged) -> None:
    data.document["categories"].append({"id": 2, "name": "horse"})


@damage("a category name twice", ("category-name-twice", 3))
def _(data: Damaged) -> None:
    data.document["categories"][2]["name"] = "cat"


@damage("an unused category", ("category-unused", 4))
def _(data: Damaged) -> None:
    data.document["categories"].append({"id": 4, "name": "horse"})


@damage("a gap in the category ids", ("category-gap", 7))
def _(data: Damaged) -> None:
    data.document["categories"][2]["id"] = 7
    for k in (5, 7):
        data.annotation(k)["category_id"] = 7


@damage(
    "a category without a name",
    ("category-malformed", 3),
    ("unknown-category", 5),
    ("unknown-category", 7),
)
def _(data: Damaged) -> None:
    del data.document["categories"][2]["name"]


# Ids and references of annotations


@damage("an annotation id twice", ("duplicate-annotation", 1))
def _(data: Damaged) -> None:
    data.annotation(5)["id"] = 1


change("an annotation id of 0", {("annotation-id-0", 0)}, 5, id=0)
change("an image that is not listed", {("unknown-image", 5)}, 5, image_id=44)
change("a category that is not listed", {("unknown-category", 2)}, 2, category_id=44)
change("no image id", {("annotation-malformed", 5)}, 5, image_id=...)
change("no id", {("annotation-malformed", -1)}, 6, id=...)
change("an id that is text", {("annotation-malformed", -1)}, 6, id="six")
change("an image id that is text with digits", {("annotation-malformed", 6)}, 6, image_id="4")


@damage("the same object twice", ("duplicate-object", 8))
def _(data: Damaged) -> None:
    data.document["annotations"].append({**data.annotation(5), "id": 8})


@damage("the same run lengths twice", ("duplicate-object", 8))
def _(data: Damaged) -> None:
    data.document["annotations"].append({**data.annotation(3), "id": 8})


# Boxes

change("no box", {("annotation-malformed", 1)}, 1, bbox=...)
change("a box of three numbers", {("annotation-malformed", 1)}, 1, bbox=[4, 4, 10])
change("a box with NaN", {("number-not-finite", 3)}, 3, bbox=[5, 6, float("nan"), 9])
change("a box with infinity", {("number-not-finite", 3)}, 3, bbox=[5, 6, float("inf"), 9])
change("a box without width", {("box-degenerate", 1)}, 1, bbox=[4, 4, 0, 10])
change("a box of negative height", {("box-degenerate", 1)}, 1, bbox=[4, 14, 10, -10])
change("a box thinner than a pixel", {("box-degenerate", 1), ("box-mismatch", 1)}, 1,
       bbox=[4, 4, 0.5, 10])  # fmt: skip
change("a box outside the image", {("box-outside", 7)}, 7, bbox=[60, 1, 20, 20])
change("a box that stands out", {("box-outside", 7), ("box-mismatch", 7)}, 7,
       bbox=[20, 1, 40, 20])  # fmt: skip
change("a box of corners instead of sides", {("box-mismatch", 5)}, 5, bbox=[30, 10, 18, 20])
change("a box moved", {("box-mismatch", 3)}, 3, bbox=[12, 6, 12, 9])

# Areas

change("no area", {("area-missing", 5)}, 5, area=...)
change("an area of NaN", {("number-not-finite", 5), ("area-missing", 5)}, 5, area=float("nan"))
change("an area of 0", {("area-zero", 5)}, 5, area=0)
change("a negative area", {("area-zero", 6)}, 6, area=-400)
change("an area too large", {("area-mismatch", 6)}, 6, area=1536)
change("an area too small", {("area-mismatch", 4)}, 4, area=20)

# Polygons

change("no mask", {("mask-missing", 5)}, 5, segmentation=None)
change("no polygon", {("polygon-empty", 5)}, 5, segmentation=[])
change("an empty polygon", {("polygon-empty", 5)}, 5, segmentation=[square(30, 10), []])
change("a polygon of two points", {("polygon-short", 5)}, 5, segmentation=[[30, 10, 40, 20]])
change("one of two polygons too short", {("polygon-short", 2)}, 2,
       segmentation=[square(2, 2, 6), [12, 2, 18, 8]])  # fmt: skip
change("an x without its y", {("polygon-odd", 5)}, 5, segmentation=[square(30, 10)[:-1]])
change("a polygon that crosses itself", {("polygon-crossing", 6)}, 6, area=200,
       segmentation=[[1, 1, 21, 21, 21, 1, 1, 21]])  # fmt: skip
change("a polygon part that encloses nothing", {("polygon-flat", 2)}, 2, area=36,
       bbox=[2, 2, 16, 6], segmentation=[square(2, 2, 6), [12, 2, 18, 8, 15, 5]])  # fmt: skip
change("a polygon out of the image", {("polygon-outside", 7)}, 7,
       segmentation=[[26, 1, 52, 1, 52, 21, 26, 21]], bbox=[26, 1, 22, 20], area=440)  # fmt: skip
change("a polygon that covers no pixel", {("mask-blank", 5), ("box-degenerate", 5)}, 5,
       segmentation=[[30.1, 10.1, 30.3, 10.1, 30.2, 10.2]], area=0.01,
       bbox=[30.1, 10.1, 0.2, 0.1])  # fmt: skip
change("a point of NaN", {("number-not-finite", 5)}, 5,
       segmentation=[[30, 10, float("nan"), 10, 40, 20, 30, 20]])  # fmt: skip
change("a polygon that is not in a list", {("annotation-malformed", 5)}, 5,
       segmentation=square(30, 10))  # fmt: skip
change("points as pairs", {("annotation-malformed", 5)}, 5,
       segmentation=[[[30, 10], [40, 10], [40, 20], [30, 20]]])  # fmt: skip
change("a polygon of text", {("annotation-malformed", 5)}, 5, segmentation=[["30", "10"] * 3])

# Run lengths

change("runs of another size", {("rle-size", 3)}, 3,
       segmentation={"size": [WIDTH, HEIGHT],
                     "counts": [100, 36, WIDTH * HEIGHT - 136]})  # fmt: skip
change("runs that are too few", {("rle-malformed", 3)}, 3,
       segmentation={"size": [HEIGHT, WIDTH], "counts": [100, 36]})  # fmt: skip
change("no runs", {("rle-malformed", 3)}, 3, segmentation={"size": [HEIGHT, WIDTH], "counts": []})
change("a negative run", {("annotation-malformed", 3)}, 3,
       segmentation={"size": [HEIGHT, WIDTH], "counts": [-5, 5, WIDTH * HEIGHT]})  # fmt: skip
change("a compressed string of other characters", {("rle-malformed", 3)}, 3,
       segmentation={"size": [HEIGHT, WIDTH], "counts": "zz~~"})  # fmt: skip
change("a compressed string cut short", {("rle-malformed", 3)}, 3,
       segmentation={"size": [HEIGHT, WIDTH],
                     "counts": rectangle_rle(5, 6, 12, 9, True)["counts"][:-2]})  # fmt: skip
change("runs of zeros alone", {("mask-blank", 3)}, 3,
       segmentation={"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]})  # fmt: skip
change("runs without a size", {("annotation-malformed", 3)}, 3, segmentation={"counts": [5]})

# Crowd flags

change("a crowd of polygons", {("crowd-polygons", 5)}, 5, iscrowd=1)
change("a crowd flag of 2", {("crowd-flag", 4)}, 4, iscrowd=2)
change("a crowd flag of text", {("annotation-malformed", 4)}, 4, iscrowd="yes")


@damage("a crowd that is not flagged, where all others are", ("crowd-unset", 4))
def _(data: Damaged) -> None:
    crowd = data.annotation(4)
    crowd.update(bbox=[2, 4, 15, 20], area=300)
    crowd["segmentation"] = rectangle_rle(2, 4, 15, 20, compressed=False)
    for k in range(10):
        mask = rectangle_rle(18 + k, 4, 20, 20, compressed=False)
        box = [18 + k, 4, 20, 20]
        data.document["annotations"].append(
            {**crowd, "id": 50 + k, "segmentation": mask, "bbox": box}
        )
    crowd["iscrowd"] = 0
