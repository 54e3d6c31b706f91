"""A data set of a user's own, written from what is in memory and read back as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import raymrcnn
from raymrcnn.data.coco import open_split
from raymrcnn.data.images import decode_image, resolve_image
from raymrcnn.errors import DataError, OutputError
from raymrcnn.masks import rle_to_bitmap, segmentation_to_rle

CATEGORIES = ["nut", "date"]


def pixels(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)


def mask() -> np.ndarray[Any, Any]:
    found = np.zeros((40, 60), bool)
    found[5:15, 20:50] = True
    return found


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    Image.fromarray(pixels(1)).save(tmp_path / "A.PNG")
    triangle = [[1.0, 1.0, 30.0, 1.0, 1.0, 30.0]]

    def samples() -> Iterator[Any]:
        yield pixels(), [("date", mask()), ("nut", triangle)]
        yield tmp_path / "A.PNG", []
        yield Image.fromarray(pixels(2)), [("nut", mask().astype(np.uint8))]

    root = tmp_path / "own"
    path = raymrcnn.write_dataset(root, "train", samples(), CATEGORIES)
    assert path == root / "annotations/instances_train.json"
    index = open_split(root, "train")
    assert (index.num_images, index.num_annotations) == (3, 3)
    assert [c.name for c in index.categories] == CATEGORIES
    first = index.annotations_of(0)
    assert first.boxes[0].tolist() == [20, 5, 30, 10]
    rle = segmentation_to_rle(index.segmentation(0), 40, 60)
    np.testing.assert_array_equal(rle_to_bitmap(rle, 40, 60), mask())
    for i, seed in enumerate((0, 1, 2)):
        image = decode_image(resolve_image(root, "train", index.file_name(i)))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels(seed))
    assert index.faults() == []
    raymrcnn.write_dataset(root, "val", samples(), CATEGORIES)  # beside the other
    with pytest.raises(OutputError, match="the split train is there already"):
        raymrcnn.write_dataset(root, "train", samples(), CATEGORIES)


@pytest.mark.parametrize(
    ("image", "objects", "said"),
    [
        (pixels(), [("fig", mask())], "image 1, object 1: 'fig' is none of the categories"),
        (pixels(), [("nut", mask().T)], "object 1: a mask of 60x40 in an image of 40x60"),
        (pixels(), [("nut", mask() & False)], "image 1, object 1: the mask is empty"),
        (pixels(), [("nut", [[1.0, 2.0]])], "image 1, object 1"),
        (pixels().astype(float), [], "image 1: pixels of type float64"),
        ("/nowhere.png", [], "/nowhere.png: cannot read the image"),
    ],
)
def test_a_malformed_sample_is_named_and_nothing_is_left(
    tmp_path: Path, image: Any, objects: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        raymrcnn.write_dataset(tmp_path, "train", [(image, objects)], CATEGORIES)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not (tmp_path / "train").exists()


def test_categories_must_differ(tmp_path: Path) -> None:
    for categories in ([], ["a", "a"]):
        with pytest.raises(DataError, match="categories"):
            raymrcnn.write_dataset(tmp_path, "train", [], categories)
