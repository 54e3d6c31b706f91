"""Augmentation keeps image, boxes and masks together, and draws from its seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.config import DataConfig
from raymrcnn.data.transforms import TrainTransform, build_train_transform
from raymrcnn.recipes import modelzoo_300
from raymrcnn.structures import Target

Rectangle = tuple[int, int, int, int]


def scene(height: int, width: int, rectangles: list[Rectangle]) -> tuple[torch.Tensor, Target]:
    """Rectangles (x1, y1, x2, y2), the k-th in gray 10 * (k + 1), hidden by the later ones."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[1] = 200
    for k, (x1, y1, x2, y2) in enumerate(rectangles):
        image[:, y1:y2, x1:x2] = 10 * (k + 1)
    masks = [image[0] == 10 * (k + 1) for k in range(len(rectangles))]
    return image, Target(
        image_id=1,
        boxes=torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(1, len(rectangles) + 1),
        masks=torch.stack(masks).to(torch.uint8)
        if masks
        else torch.zeros(0, height, width, dtype=torch.uint8),
    )


def seed(k: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((7, k))


def test_a_flip_mirrors_pixels_boxes_and_masks() -> None:
    image, target = scene(6, 10, [(1, 2, 4, 5)])
    flipped, found = TrainTransform(flip_prob=1.0)(image, target, seed(0))
    assert torch.equal(flipped, image.flip(2))
    assert torch.equal(found.masks, target.masks.flip(2))
    assert found.boxes.tolist() == [[6.0, 2.0, 9.0, 5.0]]
    assert found.labels.tolist() == [1]


def test_without_augmentation_nothing_changes() -> None:
    image, target = scene(6, 10, [(1, 2, 4, 5), (3, 3, 9, 6)])
    same, found = TrainTransform()(image, target, seed(0))
    assert torch.equal(same, image)
    assert torch.equal(found.boxes, target.boxes)
    assert torch.equal(found.masks, target.masks)
    assert all(type(x) is torch.Tensor for x in (same, found.boxes, found.masks, found.labels))


def test_the_flip_probability_is_that_of_the_config() -> None:
    image, target = scene(4, 5, [(0, 0, 2, 2)])
    transform = build_train_transform(DataConfig(flip_prob=0.25))
    flips = sum(bool(transform(image, target, seed(k))[1].boxes[0, 0] > 0) for k in range(600))
    assert 110 < flips < 190


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, list[Rectangle]]:
    height, width = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    rectangles = []
    for _ in range(draw(st.integers(0, 4))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
        rectangles.append((x1, y1, x2, y2))
    return height, width, rectangles


@settings(deadline=None, max_examples=100)
@given(scenes(), st.integers(1, 30), st.integers(1, 3), st.integers(0, 1000))
def test_after_a_crop_boxes_and_masks_still_fit_the_pixels(
    given_scene: tuple[int, int, list[Rectangle]], crop: int, scale: int, k: int
) -> None:
    image, target = scene(*given_scene)
    transform = TrainTransform(flip_prob=0.5, crop_size=crop, resize_to=0)
    cropped, found = transform(image, target, seed(k))
    assert cropped.shape == (3, crop, crop)
    assert found.masks.shape == (len(found.labels), crop, crop)
    assert found.boxes.shape == (len(found.labels), 4)
    visible = {int(v) // 10 for v in cropped[0].unique() if int(v) in (10, 20, 30, 40)}
    assert set(found.labels.tolist()) == visible  # what vanished is dropped, nothing else
    for box, label, mask in zip(found.boxes, found.labels, found.masks, strict=True):
        assert torch.equal(mask.bool(), cropped[0] == 10 * int(label))
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert box.tolist() == [int(v) for v in extent]
    resized, again = TrainTransform(flip_prob=0.5, crop_size=crop, resize_to=crop * scale)(
        image, target, seed(k)
    )
    assert resized.shape == (3, crop * scale, crop * scale)
    assert torch.allclose(again.boxes, found.boxes * scale)
    up = found.masks.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert torch.equal(again.masks, up)


def test_a_crop_larger_than_the_image_pads_right_and_below() -> None:
    image, target = scene(6, 10, [(1, 2, 4, 5)])
    padded, found = TrainTransform(crop_size=12)(image, target, seed(0))
    assert torch.equal(padded[:, :6, :10], image)
    assert padded[:, 11, 11].tolist() == [124, 116, 104]
    assert found.boxes.tolist() == target.boxes.tolist()
    assert found.masks[:, 6:].sum() == 0


def test_crops_fall_everywhere() -> None:
    image, target = scene(4, 6, [])
    image[0] = torch.arange(24).reshape(4, 6)
    corners = {
        int(TrainTransform(crop_size=3)(image, target, seed(k))[0][0, 0, 0]) for k in range(99)
    }
    assert corners == {0, 1, 2, 3, 6, 7, 8, 9}


def test_jitter_changes_colours_and_nothing_else() -> None:
    image, target = scene(8, 8, [(1, 1, 5, 5)])
    transform = TrainTransform(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    jittered, found = transform(image, target, seed(1))
    assert jittered.dtype == torch.uint8
    assert not torch.equal(jittered, image)
    assert torch.equal(found.masks, target.masks)
    assert torch.equal(found.boxes, target.boxes)


def test_brightness_stays_within_its_strength() -> None:
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    _, target = scene(2, 2, [])
    values = [
        int(TrainTransform(brightness=0.2)(image, target, seed(k))[0].max()) for k in range(300)
    ]
    assert 79 <= min(values) < 85
    assert 115 < max(values) <= 120


def test_the_same_seed_draws_alike_and_torchs_generator_never_matters() -> None:
    image, target = scene(40, 50, [(5, 5, 30, 30)])
    transform = TrainTransform(flip_prob=0.5, crop_size=16, brightness=0.3, hue=0.2)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, _ = transform(image, target, seed(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(transform(image, target, seed(4))[0], first)
    assert not torch.equal(transform(image, target, seed(5))[0], first)


@pytest.mark.parametrize("shape", [(200, 500), (640, 480)])
def test_the_model_zoo_recipe_gives_squares_of_300(shape: tuple[int, int]) -> None:
    image, target = scene(*shape, [(5, 5, 150, 150)])
    transform = build_train_transform(modelzoo_300().data)
    augmented, found = transform(image, target, seed(0))
    assert augmented.shape == (3, 300, 300)
    assert found.masks.shape[1:] == (300, 300)
    assert transform.hue == 0.05
