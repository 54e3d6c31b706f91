"""Sizes and bytes after a resize are those of the program whose rule it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raymrcnn.model.resize import (
    SIZE_RULES,
    nearest_size,
    pillow_resize,
    resampled_bytes,
    short_first_size,
)

SIDES = st.integers(1, 90)


def pillows(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    """Rows first, then columns, in every version of Pillow."""
    rows = Image.fromarray(pixels).resize((size[1], len(pixels)), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize(size[::-1], Image.Resampling.BILINEAR))


@settings(max_examples=150, deadline=None)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_bytes_are_pillows(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*old, 3), np.uint8)
    expected = pillows(pixels, new)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    for found in (pillow_resize(image, new), resampled_bytes(image, new)):
        np.testing.assert_array_equal(found.numpy().transpose(1, 2, 0), expected)


@pytest.mark.parametrize(("old", "new"), [((480, 640), (800, 1067)), ((1200, 333), (400, 111))])
def test_bytes_of_whole_photographs_are_pillows(old: tuple[int, int], new: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    pixels[: old[0] // 2] = np.where(pixels[: old[0] // 2] > 127, 255, 0)  # sums that reach 255
    expected = pillows(pixels, new)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    for found in (pillow_resize(image, new), resampled_bytes(image, new)):
        np.testing.assert_array_equal(found.numpy().transpose(1, 2, 0), expected)


def test_maskrcnn_benchmark_truncates_where_detectron2_rounds() -> None:
    assert short_first_size(480, 640, 800, 1333) == (800, 1066)
    assert nearest_size(480, 640, 800, 1333) == (800, 1067)


def test_a_long_side_can_come_out_a_pixel_too_long() -> None:
    assert short_first_size(320, 1000, 800, 1333) == (427, 1334)
    assert nearest_size(320, 1000, 800, 1333) == (427, 1333)


@settings(max_examples=200, deadline=None)
@given(
    rule=st.sampled_from(sorted(SIZE_RULES)),
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
def test_every_rule_keeps_shape_and_limits(rule: str, size: tuple[int, int]) -> None:
    height, width = SIZE_RULES[rule](*size, 800, 1333)
    assert min(height, width) >= 1
    assert min(height, width) <= 800
    assert SIZE_RULES[rule](*size[::-1], 800, 1333) == (width, height)
    # A pixel of the short side is worth as many of the long one as it is longer.
    shape = size[1] / size[0]
    slack = 1 + max(shape, 1 / shape)
    assert max(height, width) <= 1333 + (slack if rule == "short_first" else 0)
    assert abs(width - height * shape) <= slack or min(height, width) == 1
