"""What is drawn over photographs: where, in which colour, and at which size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageChops

from raymrcnn.masks import bitmap_to_rle
from raymrcnn.overlay import LARGEST_SIDE_PX, LEAST_SIDE_PX, colour, draw_detections
from raymrcnn.structures import Detections

NAMES = {1: "person", 2: "Männchen", 3: "人", 4: "x" * 300}


def found(
    height: int, width: int, *boxes: tuple[int, int, int, int], scores: tuple[float, ...] = ()
) -> Detections:
    rles = []
    for x1, y1, x2, y2 in boxes:
        mask = np.zeros((height, width), np.uint8)
        mask[y1:y2, x1:x2] = 1
        rles.append(bitmap_to_rle(mask))
    return Detections(
        image_id=1,
        file_name="a.jpg",
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * len(boxes), np.float32),
        category_ids=np.arange(1, len(boxes) + 1),
        rles=rles,
    )


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (10, 14), (480, 640), (3000, 4000), (1, 2000), (900, 3)]
)
def test_drawings_have_a_readable_size_and_the_shape_of_the_image(height: int, width: int) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    drawn = draw_detections(pixels, found(height, width, (0, 0, width, height)), NAMES)
    assert LEAST_SIDE_PX <= max(drawn.size) <= LARGEST_SIDE_PX
    scale = max(drawn.size) / max(height, width)
    assert drawn.size == (max(1, round(width * scale)), max(1, round(height * scale)))
    assert np.asarray(drawn).any()


def test_a_mask_is_coloured_where_it_is_and_nowhere_else() -> None:
    pixels = np.full((960, 960, 3), 100, np.uint8)
    one = found(960, 960, (300, 400, 500, 700))
    drawn = np.asarray(draw_detections(pixels, one, NAMES)).astype(int)
    expected = 100 + 0.45 * (np.array(colour(1)) - 100)
    np.testing.assert_allclose(drawn[550, 400], expected, atol=1)
    outside = np.ones((960, 960), bool)
    outside[300:702, 295:505] = False  # the label stands above the box
    assert (drawn[outside] == 100).all()
    upper, lower = drawn[400:550, 300:500], drawn[550:700, 300:500]
    assert abs(upper[10:-10, 10:-10].mean() - lower[10:-10, 10:-10].mean()) < 2


def test_detections_below_the_least_score_are_left_out() -> None:
    pixels = np.zeros((50, 50, 3), np.uint8)
    both = found(50, 50, (1, 1, 20, 20), (25, 25, 45, 45), scores=(0.9, 0.4))
    first = found(50, 50, (1, 1, 20, 20))
    drawn = draw_detections(pixels, both, NAMES, min_score=0.5)
    assert not ImageChops.difference(drawn, draw_detections(pixels, first, NAMES)).getbbox()
    none = draw_detections(pixels, both, NAMES, min_score=0.95)
    assert not np.asarray(none).any()


def test_labels_of_any_script_and_length_are_drawn_inside_the_image() -> None:
    pixels = np.zeros((300, 300, 3), np.uint8)
    four = found(
        300, 300, (0, 0, 50, 50), (250, 0, 300, 50), (0, 250, 50, 300), (250, 250, 300, 300)
    )
    assert np.asarray(draw_detections(pixels, four, NAMES)).any()
    nameless = draw_detections(pixels, four, {})
    assert np.asarray(nameless).any()


def test_neighbouring_categories_have_colours_apart() -> None:
    colours = np.array([colour(k) for k in range(1, 91)]).astype(int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60
    assert len({tuple(c) for c in colours.tolist()}) == 90
