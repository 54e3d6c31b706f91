"""What verification measures in arrays is what exact arithmetic and drawing give one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymrcnn.data.check.crossing import _long_crosses, crossing
from raymrcnn.data.check.masks import disagrees, measure_masks
from raymrcnn.data.coco import CocoIndex
from raymrcnn.masks import bitmap_to_rle, rle_to_bitmap, segmentation_to_rle

SIZE = 60


def crosses_by_hand(points: np.ndarray) -> bool:
    """Every side with every other, in whole thousandths of a pixel."""
    corners = [tuple(int(v) for v in p) for p in np.round((points - points[0]) * 1000)]
    num = len(corners)

    def place(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]) -> int:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    for i in range(num):
        for j in range(i + 1, num):
            a, b, c, d = corners[i], corners[(i + 1) % num], corners[j], corners[(j + 1) % num]
            if place(a, b, c) * place(a, b, d) < 0 and place(c, d, a) * place(c, d, b) < 0:
                return True
    return False


def outline(rng: np.random.Generator, kind: int) -> np.ndarray:
    num = int(rng.integers(3, 16))
    if kind == 0:  # on a coarse grid: sides touch, lie on each other, corners repeat
        return rng.integers(0, 6, (num, 2)).astype(np.float64)
    if kind == 1:
        return rng.uniform(-5, SIZE + 5, (num, 2)).round(2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, num))
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray((30 + rng.uniform(0.2, 25, (num, 1)) * rays).round(2))


def test_crossings_are_those_of_exact_arithmetic() -> None:
    rng = np.random.default_rng(0)
    outlines = [outline(rng, k % 3) for k in range(600)]
    ends = np.cumsum([0, *map(len, outlines)])
    expected = [crosses_by_hand(points) for points in outlines]
    assert 100 < sum(expected) < 500
    assert crossing(np.concatenate(outlines), ends).tolist() == expected
    grids = [np.round((points - points[0]) * 1000) for points in outlines]
    assert [_long_crosses(points) for points in grids] == expected


def test_long_outlines_are_compared_in_pieces() -> None:
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = 500 + 400 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    knot = circle.copy()
    knot[[1000, 1002]] = knot[[1002, 1000]]
    both = np.concatenate([circle, knot])
    assert crossing(both, np.array([0, 3000, 6000])).tolist() == [False, True]


def index_of(masks: list[Any], areas: list[float], path: Path) -> CocoIndex:
    document = {
        "images": [{"id": 1, "file_name": "a", "width": SIZE, "height": SIZE - 7}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": area,
             "segmentation": mask}
            for k, (mask, area) in enumerate(zip(masks, areas, strict=True), start=1)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return CocoIndex.open(path)


def test_no_area_that_disagrees_is_passed_over_for_not_being_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    masks: list[Any] = []
    for k in range(400):
        parts = [outline(rng, 1 + k % 2).ravel().tolist() for _ in range(1 + k % 5 // 4)]
        masks.append(parts)
    drawn = [rle_to_bitmap(segmentation_to_rle(m, SIZE - 7, SIZE), SIZE - 7, SIZE) for m in masks]
    pixels = np.array([bitmap.sum() for bitmap in drawn], np.float64)
    areas = pixels * rng.choice([0.3, 0.6, 1.0, 1.7, 3.0], len(pixels)) + rng.choice([0, 30, 40])
    found = measure_masks(index_of(masks, areas.tolist(), tmp_path / "a.json"))
    assert found.sound.all()
    counted = np.isfinite(found.pixels)
    assert counted.any()
    assert not counted.all()
    assert found.pixels[counted].tolist() == pixels[counted].tolist()
    assert not (disagrees(areas, pixels) & ~counted).any()
    assert counted[pixels == 0].all()


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_are_measured_as_their_bitmaps(compressed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    bitmaps = []
    for density in (0.001, 0.01, 0.3, 0.9):
        for _ in range(10):
            bitmap = (rng.random((SIZE - 7, SIZE)) < density).astype(np.uint8)
            bitmap[:, : rng.integers(SIZE - 1)] = 0
            bitmaps.append(bitmap)
    bitmaps += [np.zeros((SIZE - 7, SIZE), np.uint8), np.ones((SIZE - 7, SIZE), np.uint8)]
    masks = []
    for bitmap in bitmaps:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bitmap.ravel(order="F")])))
        counts = np.diff([0, *edges, bitmap.size]).tolist()
        text = bitmap_to_rle(bitmap)
        masks.append({"size": [SIZE - 7, SIZE], "counts": text if compressed else counts})
    found = measure_masks(index_of(masks, [1.0] * len(masks), tmp_path / "a.json"))
    assert found.pixels.tolist() == [bitmap.sum() for bitmap in bitmaps]
    for bitmap, extent in zip(bitmaps, found.extents.tolist(), strict=True):
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0] * 4
        assert extent == box
