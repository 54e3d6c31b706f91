"""Repeated images, several short sides, scale jitter and pasted objects: functions of the seed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raymrcnn.config import DataConfig
from raymrcnn.data.coco import open_split
from raymrcnn.data.copy_paste import paste_objects
from raymrcnn.data.dataset import TrainDataset, repeat_factors
from raymrcnn.data.loader import train_batches
from raymrcnn.data.order import (
    batches,
    drawn_donor,
    drawn_short_side,
    epoch_entries,
    epoch_size,
    epochs_of,
)
from raymrcnn.data.store import FolderImages
from raymrcnn.data.transforms import TrainTransform
from raymrcnn.errors import ConfigError
from raymrcnn.structures import Target

sweep = settings(deadline=None, max_examples=100)
Factors = npt.NDArray[np.float64]


@st.composite
def factors(draw: st.DrawFn) -> Factors:
    return np.array(draw(st.lists(st.floats(1.0, 9.0), min_size=1, max_size=50)))


@sweep
@given(factors(), st.integers(0, 2**31 - 1), st.integers(0, 4))
def test_each_epoch_has_the_same_size_and_each_image_its_share(
    repeats: Factors, seed: int, epoch: int
) -> None:
    num = len(repeats)
    entries = epoch_entries(seed, epoch, num, repeats)
    assert len(entries) == epoch_size(num, repeats) == round(repeats.sum())
    assert len(set(entries.tolist())) == len(entries)
    times = np.bincount(entries % num, minlength=num)
    scaled = repeats * len(entries) / repeats.sum()
    assert (times >= np.floor(scaled - 1e-6)).all()
    assert (times <= np.ceil(scaled + 1e-6)).all()
    copies = {(int(e) % num, int(e) // num) for e in entries}
    assert copies == {(k, c) for k in range(num) for c in range(times[k])}


def test_over_the_epochs_an_image_comes_as_often_as_it_should() -> None:
    repeats = np.array([1.0, 1.25, 2.5, 1.0, 3.25])
    total = sum(np.bincount(epoch_entries(3, e, 5, repeats) % 5, minlength=5) for e in range(400))
    assert np.abs(total / 400 - repeats).max() < 0.08


@sweep
@given(factors(), st.integers(0, 99), st.integers(1, 9), st.integers(0, 30))
def test_repeated_batches_may_start_anywhere_and_hold_whole_epochs(
    repeats: Factors, seed: int, batch_size: int, start: int
) -> None:
    groups = (np.arange(len(repeats)) % 2).astype(np.int8)
    size = epoch_size(len(repeats), repeats)
    steps = -(-2 * size // batch_size)
    found = list(itertools.islice(batches(seed, groups, batch_size, 0, repeats), steps + start))
    tail = next(batches(seed, groups, batch_size, start, repeats))
    assert tail[0] == start and np.array_equal(tail[1], found[start][1])
    stream = np.concatenate([batch for _, batch in found])
    epochs = np.concatenate([epochs_of(step, size, batch_size) for step, _ in found])
    for epoch in (0, 1):
        entries = epoch_entries(seed, epoch, len(repeats), repeats)
        assert sorted(stream[epochs == epoch].tolist()) == entries.tolist()


def test_draws_cover_all_choices_evenly_and_repeat() -> None:
    sides = [drawn_short_side(0, 0, k, 0, (640, 800, 960)) for k in range(3000)]
    assert {s: sides.count(s) for s in set(sides)}.keys() == {640, 800, 960}
    assert min(sides.count(s) for s in set(sides)) > 900
    assert sides == [drawn_short_side(0, 0, k, 0, (640, 800, 960)) for k in range(3000)]
    assert drawn_short_side(0, 0, 1, 0, ()) == 0
    donors = [drawn_donor(0, 0, k, 0, 0.25, 10) for k in range(4000)]
    assert 0.22 < sum(d is not None for d in donors) / 4000 < 0.28
    assert {d for d in donors if d is not None} == set(range(10))
    assert not any(drawn_donor(0, 0, k, 0, 0.0, 10) is not None for k in range(100))


@pytest.fixture
def long_tail(tmp_path: Path) -> Path:
    """12 images with category 1, the last with the rare category 2 too."""
    (tmp_path / "t").mkdir()
    (tmp_path / "annotations").mkdir()
    images, annotations = [], []
    for k in range(1, 13):
        noise = np.random.default_rng(k).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"t/{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 32, "height": 24})
        for category in (1, 2) if k == 12 else (1,):
            x = 2.0 + 12 * (category - 1)
            box = [x, 4.0, 10.0, 12.0]
            corners = [x, 4.0, x + 10, 4.0, x + 10, 16.0, x, 16.0]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": k, "category_id": category, "iscrowd": 0,
                 "area": 120.0, "bbox": box, "segmentation": [corners]}
            )  # fmt: skip
    categories = [{"id": 1, "name": "often"}, {"id": 2, "name": "rare"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations/instances_t.json").write_text(json.dumps(document))
    return tmp_path


def dataset(root: Path, **config: object) -> TrainDataset:
    made = DataConfig(**config)  # type: ignore[arg-type]
    return TrainDataset(open_split(root, "t"), FolderImages(root, "t"), made, 7)


def test_an_image_is_repeated_by_its_rarest_class(long_tail: Path) -> None:
    found = dataset(long_tail, repeat_threshold=0.75)
    factors = repeat_factors(found.index, found.images, 0.75)
    assert factors[:-1].tolist() == [1.0] * 11
    assert factors[-1] == pytest.approx((0.75 * 12) ** 0.5)  # in one of twelve: 3 times
    assert found.epoch_size == 14
    seen = [b.image_ids for b in itertools.islice(train_batches(found, 7, 2), 7)]
    ids = [k for batch in seen for k in batch]
    assert {k: ids.count(k) for k in ids} == {**dict.fromkeys(range(1, 12), 1), 12: 3}
    # Each time it is another picture.
    copies = [e for e in epoch_entries(7, 0, 12, found.repeats) if e % 12 == 11]
    seeds = {found.draw(int(e), 0).sampling_seed for e in copies}
    assert len(seeds) == 3


def test_workers_see_the_same_draws_with_every_option(long_tail: Path) -> None:
    options = {
        "short_sides": (20, 24, 28),
        "long_side": 64,
        "short_side": 24,
        "crop_size": 40,
        "scale_jitter": (0.5, 2.0),
        "copy_paste_prob": 0.7,
        "repeat_threshold": 0.75,
    }
    found = dataset(long_tail, **options)
    whole = list(itertools.islice(train_batches(found, 7, 4), 5))
    ranks = [list(itertools.islice(train_batches(found, 7, 4, r, 3), 5)) for r in range(3)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        images = [image for part in parts for image in part.images]
        assert all(torch.equal(a, b) for a, b in zip(images, batch.images, strict=True))
        sides = tuple(side for part in parts for side in part.plan.short_sides)
        assert sides == batch.plan.short_sides == tuple(s for *_, s in batch.plan.batch_sizes)
        sizes = [tuple(image.shape[-2:]) for image in batch.images]
        assert sizes == [(h, w) for h, w, _ in batch.plan.batch_sizes]
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert image.shape == (3, 40, 40) == (3, *target.masks.shape[1:])
            assert len(target.boxes) == len(target.labels) == len(target.masks)
    assert len({s for b in whole for s in b.plan.short_sides}) == 3
    late = next(iter(train_batches(found, 7, 4, start_step=4)))
    assert all(torch.equal(a, b) for a, b in zip(late.images, whole[4].images, strict=True))


def test_scale_jitter_scales_what_the_crop_takes() -> None:
    image = torch.full((3, 30, 60), 90, dtype=torch.uint8)
    target = Target(
        image_id=1,
        boxes=torch.tensor([[0.0, 0.0, 60.0, 30.0]]),
        labels=torch.tensor([1]),
        masks=torch.ones(1, 30, 60, dtype=torch.uint8),
    )
    transform = TrainTransform(scale_min=0.5, scale_max=0.5, crop_size=40)
    picture, found = transform(image, target, np.random.SeedSequence(1))
    # The longer side becomes 20: the whole image lies in the corner of the crop.
    assert picture.shape == (3, 40, 40)
    assert found.boxes.tolist() == [[0.0, 0.0, 20.0, 10.0]]
    assert int(found.masks.sum()) == 200


def test_pasted_objects_hide_what_is_below() -> None:
    def one(image_id: int, value: int, x1: int, x2: int) -> tuple[torch.Tensor, Target]:
        mask = torch.zeros(1, 8, 10, dtype=torch.uint8)
        mask[:, 2:6, x1:x2] = 1
        return torch.full((3, 8, 10), value, dtype=torch.uint8), Target(
            image_id=image_id,
            boxes=torch.tensor([[x1, 2.0, x2, 6.0]]),
            labels=torch.tensor([image_id]),
            masks=mask,
        )

    image, target = one(1, 10, 0, 6)
    donor_image, donor = one(2, 99, 4, 9)
    outcomes = set()
    for k in range(20):
        seed = np.random.SeedSequence(k)
        picture, found = paste_objects(image, target, donor_image, donor, seed)
        outcomes.add(len(found.labels))
        if len(found.labels) == 1:
            assert torch.equal(picture, image)
            continue
        assert found.image_id == 1
        assert found.labels.tolist() == [1, 2]
        assert found.boxes.tolist() == [[0.0, 2.0, 4.0, 6.0], [4.0, 2.0, 9.0, 6.0]]
        assert torch.equal(picture[0] == 99, donor.masks[0].bool())
        assert not (found.masks[0] & found.masks[1]).any()
    assert outcomes == {1, 2}
    picture, found = paste_objects(*one(1, 10, 5, 8), donor_image, donor, np.random.SeedSequence(3))
    assert found.labels.tolist() in ([2], [1])  # what is wholly hidden is gone


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale_jitter": (0.1, 2.0)}, "needs data.crop_size"),
        ({"copy_paste_prob": 0.5}, "needs data.crop_size"),
        ({"scale_jitter": (2.0, 0.1), "crop_size": 9}, "is not a smallest and a largest"),
        ({"short_sides": (800, 2000)}, "at most data.long_side=1333"),
        ({"repeat_threshold": 2.0}, "is not between 0 and 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DataConfig(**fields)  # type: ignore[arg-type]
