"""A made-up data set in COCO's layout, small, exact, and easy to learn.

Shapes in saturated colours on gray, noisy ground. Pixels are painted through the very mask that is
annotated, so that what pycocotools decodes from an annotation is what can be seen of the object.
Every form that an annotation can have occurs: polygons, several polygons, run lengths compressed
and not, crowds, images without annotations, gaps in the category ids; PNG and JPEG files.

This module refuses to write into a folder that holds anything else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymrcnn.errors import ConfigError, OutputError
from raymrcnn.masks import bitmap_to_rle, polygons_to_bitmap
from raymrcnn.rundir import disk_errors, read_json, write_folder_atomic

MARKER = "synthetic.json"
FORMAT = 1  # counted up whenever the same arguments give other bytes

TRAIN, VAL = "train2017", "val2017"
CIRCLE, SQUARE, TRIANGLE = 2, 5, 9
CATEGORIES = {CIRCLE: "circle", SQUARE: "square", TRIANGLE: "triangle"}
COLOURS = {
    CIRCLE: ((225, 50, 45), (235, 120, 30), (215, 40, 140)),
    SQUARE: ((45, 85, 225), (35, 175, 225), (110, 55, 215)),
    TRIANGLE: ((40, 180, 60), (170, 215, 35), (235, 205, 40)),
}
MIN_SIZE_PX, MAX_SIZE_PX = 16, 80  # diameter of an object
MIN_VISIBLE = 0.5  # of an object that others lie on

_Bitmap = npt.NDArray[np.uint8]
_Polygons = list[list[float]]


@dataclass(frozen=True, kw_only=True)
class SyntheticSummary:
    """What `write_synthetic` wrote or found."""

    root: str
    num_train_images: int
    num_val_images: int
    num_annotations: int
    categories: dict[int, str]
    reused: bool  # the same data set lay there already

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dictionaries."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Object:
    category_id: int
    polygons: _Polygons
    mask: _Bitmap  # [height, width] 0 or 1, the part that is visible
    is_whole: bool  # nothing lies on it, so that its polygons are its mask


def write_synthetic(
    out: Path, num_images: int, seed: int = 0, *, min_side: int = 96, max_side: int = 160
) -> SyntheticSummary:
    """Write the splits train2017 and val2017, four images to one; the same bytes each time.

    Args:
        out: the root of the data set; created, or empty, or holding this data set already.
        num_images: over both splits; at least 2.
        seed: of everything in it.
        min_side: shortest side of an image, pixels.
        max_side: longest side, pixels.

    Raises:
        ConfigError: numbers that make no data set.
        OutputError: `out` holds something else, or cannot be written.
    """
    if num_images < 2:
        raise ConfigError(
            f"{num_images} images cannot be split into train and val",
            where="--images",
            todo="ask for at least 2",
        )
    if seed < 0:
        raise ConfigError(f"{seed} is negative", where="--seed")
    if not 2 * MIN_SIZE_PX <= min_side <= max_side:
        raise ConfigError(
            f"sides of {min_side} to {max_side} pixels are no range from {2 * MIN_SIZE_PX} on",
            where="min_side",
        )
    asked = {
        "writer": "raymrcnn data synth",
        "format": FORMAT,
        "num_images": num_images,
        "seed": seed,
        "min_side": min_side,
        "max_side": max_side,
    }
    found = _already_there(out, asked)
    if found is None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_folder_atomic(out, lambda folder: _write(folder, asked))
        found = read_json(out / MARKER)["holds"]
        reused = False
    else:
        reused = True
    return SyntheticSummary(root=str(out), categories=CATEGORIES, reused=reused, **found)


def _already_there(out: Path, asked: dict[str, Any]) -> dict[str, int] | None:
    """What the marker counts, if `out` holds the data set asked for, whole; None if to be written.

    Raises:
        OutputError: it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputError("is a file", where=str(out), todo="choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if not (out / MARKER).is_file():
        raise OutputError(
            "the folder is not empty, and its content was not made here",
            where=str(out),
            todo="choose another --out",
        )
    marker = read_json(out / MARKER)
    if marker.get("made_from") != asked:
        raise OutputError(
            "the folder holds a made-up data set of other size or seed",
            where=str(out),
            todo="remove it or choose another --out",
        )
    sizes: dict[str, int] = marker["file_bytes"]
    whole = all(
        (out / name).is_file() and (out / name).stat().st_size == size
        for name, size in sizes.items()
    )
    return dict(marker["holds"]) if whole else None


def _write(folder: Path, asked: dict[str, Any]) -> None:
    num_images = asked["num_images"]
    val = {k for k in range(num_images) if k % 5 == 4} or {num_images - 1}
    documents: dict[str, dict[str, Any]] = {
        split: {
            "info": {"description": "made-up shapes, raymrcnn data synth"},
            "images": [],
            "annotations": [],
            "categories": [{"id": k, "name": name} for k, name in CATEGORIES.items()],
        }
        for split in (TRAIN, VAL)
    }
    for split in documents:
        (folder / split).mkdir()
    (folder / "annotations").mkdir()
    for k in range(num_images):
        split = VAL if k in val else TRAIN
        rng = np.random.default_rng((asked["seed"], k))
        width, height = rng.integers(asked["min_side"], asked["max_side"] + 1, 2).tolist()
        pixels, annotations = _scene(rng, k, height, width)
        name = f"{k + 1:012d}.{'jpg' if k % 3 == 1 else 'png'}"
        Image.fromarray(pixels).save(folder / split / name, quality=95)
        document = documents[split]
        document["images"].append(
            {"id": k + 1, "file_name": name, "width": width, "height": height}
        )
        for n, annotation in enumerate(annotations):
            # Ids count from 1 (0 means "no match" to COCO's scorer) and are unique over both.
            document["annotations"].append(
                {"id": 100 * (k + 1) + n, "image_id": k + 1, **annotation}
            )
    for split, document in documents.items():
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
    _write_marker(folder, asked, documents)


def _write_marker(folder: Path, asked: dict[str, Any], documents: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    marker = {
        "made_from": asked,
        "holds": {
            "num_train_images": len(documents[TRAIN]["images"]),
            "num_val_images": len(documents[VAL]["images"]),
            "num_annotations": sum(len(d["annotations"]) for d in documents.values()),
        },
        "file_bytes": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _scene(
    rng: np.random.Generator, k: int, height: int, width: int
) -> tuple[_Bitmap, list[dict[str, Any]]]:
    """Pixels [height, width, 3] of image k and its annotations without their ids."""
    pixels = _ground(rng, height, width)
    if k % 25 == 19:
        return pixels.clip(0, 255).astype(np.uint8), []
    objects = _placed(rng, height, width)
    annotations = []
    for n, item in enumerate(objects):
        _paint(rng, pixels, item.category_id, item.mask)
        annotations.append(_annotation(item, form=(k + n) % 8))
    if k % 25 in (7, 14):
        crowd = _crowd(rng, objects, height, width)
        if crowd.any():
            _paint(rng, pixels, CIRCLE, crowd)
            annotations.append(_described(CIRCLE, crowd, _counts(crowd), iscrowd=1))
    return pixels.clip(0, 255).astype(np.uint8), annotations


def _placed(rng: np.random.Generator, height: int, width: int) -> list[_Object]:
    """One to five objects, of which later ones may hide a part of earlier ones."""
    objects: list[_Object] = []
    wanted = int(rng.integers(1, 6))
    for _ in range(4 * wanted):
        if len(objects) == wanted:
            break
        category_id = int(rng.choice(list(CATEGORIES)))
        largest = min(MAX_SIZE_PX, height // 2, width // 2)
        radius = rng.uniform(MIN_SIZE_PX, largest) / 2
        centre = rng.uniform((radius, radius), (width - radius, height - radius))
        polygons = _outline(rng, category_id, centre, radius)
        mask = polygons_to_bitmap(polygons, height, width)
        under = [
            _Object(
                category_id=item.category_id,
                polygons=item.polygons,
                mask=item.mask & (1 - mask),
                is_whole=item.is_whole and not (item.mask & mask).any(),
            )
            for item in objects
        ]
        enough = all(
            item.mask.sum() >= MIN_VISIBLE * polygons_to_bitmap(item.polygons, height, width).sum()
            for item in under
        )
        if enough:
            on_top = _Object(category_id=category_id, polygons=polygons, mask=mask, is_whole=True)
            objects = [*under, on_top]
    return objects


def _outline(
    rng: np.random.Generator, category_id: int, centre: npt.NDArray[np.float64], radius: float
) -> _Polygons:
    """Polygons x, y, x, y, ... to hundredths of a pixel, as COCO's are."""
    corners = {CIRCLE: 36, SQUARE: 4, TRIANGLE: 3}[category_id]
    turn = rng.uniform(0, 2 * np.pi)
    if category_id == SQUARE:
        turn = np.pi / 4 + rng.uniform(-0.25, 0.25)
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if category_id == SQUARE and rng.random() < 0.3:
        middle = (points + np.roll(points, -1, axis=0)) / 2
        halves = (
            [points[0], middle[0], middle[2], points[3]],
            [middle[0], points[1], points[2], middle[2]],
        )
        return [np.round(np.concatenate(half), 2).tolist() for half in halves]
    return [np.round(points.ravel(), 2).tolist()]


def _crowd(rng: np.random.Generator, objects: list[_Object], height: int, width: int) -> _Bitmap:
    """Many small circles close together, off all objects: one mask for all of them."""
    centre = rng.uniform((20, 20), (width - 20, height - 20))
    outlines = [
        _outline(rng, CIRCLE, centre + rng.normal(0, 11, 2), rng.uniform(3, 5))[0] for _ in range(9)
    ]
    mask = polygons_to_bitmap(outlines, height, width)
    for item in objects:
        mask = mask & (1 - item.mask)
    return mask


def _annotation(item: _Object, form: int) -> dict[str, Any]:
    """The mask as polygons where those are all of it, but for every eighth; else run lengths."""
    if item.is_whole and form != 0:
        return _described(item.category_id, item.mask, item.polygons)
    if form % 3 == 0:
        return _described(item.category_id, item.mask, _counts(item.mask))
    size = list(item.mask.shape)
    rle = {"size": size, "counts": bitmap_to_rle(item.mask)}
    return _described(item.category_id, item.mask, rle)


def _described(
    category_id: int, mask: _Bitmap, segmentation: Any, iscrowd: int = 0
) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "category_id": category_id,
        "iscrowd": iscrowd,
        "area": int(mask.sum()),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "segmentation": segmentation,
    }


def _counts(mask: _Bitmap) -> dict[str, Any]:
    """The run lengths of a mask, uncompressed: down the columns, beginning with zeros."""
    flat = np.concatenate([[0], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def _ground(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float64]:
    """Gray blotches and noise, [height, width, 3]; the channels differ little."""
    coarse = Image.fromarray(rng.integers(50, 200, (5, 5), np.uint8))
    gray = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    noise = rng.integers(-18, 19, (height, width, 1)) + rng.integers(-6, 7, (height, width, 3))
    return np.asarray(gray[:, :, None] + rng.integers(-6, 7, 3) + noise)


def _paint(
    rng: np.random.Generator, pixels: npt.NDArray[np.float64], category_id: int, mask: _Bitmap
) -> None:
    """Colour, a slope of light, and noise, in the pixels of the mask alone."""
    rows, columns = np.nonzero(mask)
    colour = np.array(COLOURS[category_id][int(rng.integers(3))], np.float64)
    slope = rng.uniform(-12, 12, 2) @ np.stack([rows / mask.shape[0], columns / mask.shape[1]])
    noise = rng.integers(-8, 9, (len(rows), 3))
    pixels[rows, columns] = colour + slope[:, None] + noise
