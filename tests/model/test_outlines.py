"""Cells filled from outlines agree with bitmaps, whatever form the mask was given in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from raymrcnn.data.outlines import outlines_of
from raymrcnn.data.transforms import TrainTransform
from raymrcnn.errors import DataError
from raymrcnn.masks import bitmap_to_rle, polygons_to_bitmap
from raymrcnn.model import outlines as module
from raymrcnn.model.outlines import cells_inside
from raymrcnn.structures import Target

HEIGHT, WIDTH = 60, 80


def blob(seed: int, centre: tuple[float, float], radius: float, points: int = 40) -> list[float]:
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radii = radius * (0.7 + 0.3 * rng.random(points))
    x, y = centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)
    return np.stack((x, y), axis=1).ravel().tolist()


# A blob; two parts that overlap, whose union is meant; a triangle.
OBJECTS = [
    [blob(0, (30, 30), 18)],
    [blob(1, (50, 25), 12), blob(2, (58, 30), 12)],
    [[5.0, 5.0, 20.0, 8.0, 8.0, 40.0]],
]
BOXES = torch.tensor(
    [[10.0, 12, 50, 48], [40, 10, 75, 45], [5, 5, 20, 40], [0, 0, 80, 60], [33.3, 20.7, 44.4, 29.9]]
)
MATCHED = torch.tensor([0, 1, 2, 1, 0])
NAMES = ["annotation 1", "annotation 2", "annotation 3"]


def by_bitmap(side: int) -> torch.Tensor:
    bitmaps = np.stack([polygons_to_bitmap(one, HEIGHT, WIDTH) for one in OBJECTS])
    rois = torch.cat((MATCHED[:, None].float(), BOXES), dim=1)
    masks = torch.from_numpy(bitmaps)[:, None].float()
    return roi_align(masks, rois, (side, side), 1.0, -1, True)[:, 0]


def test_polygons_fill_the_cells_that_their_bitmap_covers() -> None:
    found = cells_inside(outlines_of(OBJECTS, NAMES, HEIGHT, WIDTH), BOXES, MATCHED, 28)
    soft = by_bitmap(28)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    # Only at the border, where the bitmap is soft, may the two differ.
    differ = (found != (soft >= 0.5).float()).float().mean((1, 2))
    assert differ.max() < 0.05
    clear = (soft < 0.02) | (soft > 0.98)
    assert torch.equal(found[clear], (soft[clear] > 0.5).float())


def test_runs_fill_exactly_their_pixels() -> None:
    bitmaps = [polygons_to_bitmap(one, HEIGHT, WIDTH) for one in OBJECTS]
    bitmaps[0][28:32, 25:35] = 0  # a hole
    given = [{"size": [HEIGHT, WIDTH], "counts": bitmap_to_rle(b)} for b in bitmaps]
    outlines = outlines_of(given, NAMES, HEIGHT, WIDTH)
    whole = torch.tensor([[0.0, 0, 60, 60]]).repeat(3, 1)  # cells of a pixel
    found = cells_inside(outlines, whole, torch.arange(3), 60)
    assert np.array_equal(found.numpy(), np.stack(bitmaps)[:, :, :60])


def test_a_part_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = outlines_of(OBJECTS, NAMES, HEIGHT, WIDTH)
    expected = cells_inside(outlines, BOXES, MATCHED, 28)
    monkeypatch.setattr(module, "_MAX_CROSSINGS", 1)
    assert torch.equal(cells_inside(outlines, BOXES, MATCHED, 28), expected)


def test_a_flip_mirrors_outlines() -> None:
    target = Target(
        image_id=1,
        boxes=torch.tensor([[10.0, 10, 50, 50]]),
        labels=torch.tensor([1]),
        masks=torch.zeros(1, 0, 0, dtype=torch.uint8),
        outlines=outlines_of(OBJECTS[:1], NAMES[:1], HEIGHT, WIDTH),
    )
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    _, flipped = TrainTransform(flip_prob=1.0)(image, target, np.random.SeedSequence(0))
    assert flipped.outlines is not None and target.outlines is not None
    zero = torch.zeros(1, dtype=torch.int64)
    before = cells_inside(target.outlines, target.boxes, zero, 28)
    after = cells_inside(flipped.outlines, flipped.boxes, zero, 28)
    assert (after != before.flip(2)).float().mean() < 0.002  # centres that lie on the outline
    assert flipped.boxes.tolist() == [[30.0, 10.0, 70.0, 50.0]]


def test_no_box_and_no_object_are_fine() -> None:
    outlines = outlines_of(OBJECTS, NAMES, HEIGHT, WIDTH)
    assert cells_inside(outlines, BOXES[:0], MATCHED[:0], 28).shape == (0, 28, 28)
    none = outlines_of([], [], HEIGHT, WIDTH)
    assert none.edges.shape == (0, 4)
    assert replace(none).object_of_part.dtype == torch.int64


def test_a_malformed_polygon_is_named() -> None:
    with pytest.raises(DataError, match="polygon 0 has 4 numbers") as caught:
        outlines_of([[[1.0, 2.0, 3.0, 4.0]]], ["annotation 17"], HEIGHT, WIDTH)
    assert caught.value.where == "annotation 17"
