from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from raymrcnn.masks import bitmap_to_rle
from raymrcnn.report.outline import rle_path, simplify
from raymrcnn.tracing import loops

SIDES = st.integers(1, 9)


def filled(borders: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside an odd number of borders, tested at their centres."""
    y, x = np.indices(shape) + 0.5
    odd = np.zeros(shape, bool)
    for border in borders:
        for (x1, y1), (x2, y2) in zip(border, np.roll(border, -1, axis=0), strict=True):
            if y1 != y2:
                crossed = (np.minimum(y1, y2) <= y) & (y < np.maximum(y1, y2)) & (x < x1)
                assert x1 == x2
                odd ^= crossed
    return odd.astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 1)))
def test_borders_enclose_exactly_the_mask(bitmap: np.ndarray) -> None:
    assert np.array_equal(filled(loops(bitmap), bitmap.shape), bitmap)


def test_border_of_a_rectangle_is_its_corners() -> None:
    bitmap = np.zeros((6, 8), np.uint8)
    bitmap[1:4, 2:6] = 1
    (border,) = loops(bitmap)
    assert sorted(border.tolist()) == [[2, 1], [2, 4], [6, 1], [6, 4]]


def test_simplified_disc_covers_nearly_the_same_pixels() -> None:
    y, x = np.indices((200, 200))
    disc = ((y - 100) ** 2 + (x - 100) ** 2 < 80**2).astype(np.uint8)
    (border,) = loops(disc)
    points = simplify(border, 0.8)
    assert len(points) < len(border) / 2
    image = Image.new("L", (200, 200))
    ImageDraw.Draw(image).polygon([tuple(p) for p in points], fill=1)
    again = np.asarray(image)
    assert (again & disc).sum() / (again | disc).sum() > 0.97


def test_path_is_in_units_of_the_drawing() -> None:
    bitmap = np.zeros((40, 60), np.uint8)
    bitmap[10:30, 20:50] = 1
    path = rle_path(bitmap_to_rle(bitmap), 40, 60, 0.5)
    assert path.startswith("M") and path.endswith("Z")
    numbers = [float(w) for w in path.strip("MZ").replace("L", " ").split()]
    assert (min(numbers[::2]), max(numbers[::2])) == (10.0, 25.0)
    assert (min(numbers[1::2]), max(numbers[1::2])) == (5.0, 15.0)


def test_mask_of_a_large_image_is_traced_small() -> None:
    bitmap = np.zeros((3000, 2000), np.uint8)
    bitmap[300:2700, 200:1800] = 1
    path = rle_path(bitmap_to_rle(bitmap), 3000, 2000, 0.16)
    numbers = [float(w) for w in path.strip("MZ").replace("L", " ").split()]
    assert max(numbers[::2]) == pytest.approx(288, abs=1)
    assert max(numbers[1::2]) == pytest.approx(432, abs=1)


def test_empty_mask_has_no_path() -> None:
    assert rle_path(bitmap_to_rle(np.zeros((5, 5), np.uint8)), 5, 5, 1.0) == ""


def test_a_ragged_mask_is_drawn_coarser_and_then_in_part() -> None:
    noise = (np.random.default_rng(0).random((700, 700)) < 0.5).astype(np.uint8)
    noise[100:400, 100:400] = 1
    rle = bitmap_to_rle(noise)
    whole = rle_path(rle, 700, 700, 1.0, 200_000)
    short = rle_path(rle, 700, 700, 1.0, 5_000)
    assert len(whole) > 10_000
    assert 0 < len(short) <= 5_000
    assert rle_path(rle, 700, 700, 1.0, 0) == ""
