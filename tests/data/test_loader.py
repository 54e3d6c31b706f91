"""Batches: the same whoever makes them, for any worker count and start; errors stay themselves."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from raymrcnn.config import DataConfig
from raymrcnn.data.loader import TrainBatch, TrainDataset, train_batches
from raymrcnn.data.order import global_batch
from raymrcnn.data.store import FolderImages
from raymrcnn.errors import DataError, RunError

from .test_dataset import annotation, data_set

AUGMENTED = DataConfig(crop_size=8, resize_to=8, jitter_brightness=0.3, jitter_hue=0.1)


@pytest.fixture
def dataset(tmp_path: Path) -> TrainDataset:
    annotations = [annotation(k, k) for k in range(1, 8)]
    return TrainDataset(
        data_set(tmp_path, annotations, 7), FolderImages(tmp_path, "t"), AUGMENTED, seed=3
    )


def first(batches: Iterator[TrainBatch], count: int) -> list[TrainBatch]:
    with closing(batches):  # type: ignore[type-var]
        return list(itertools.islice(batches, count))


def contents(batches: list[TrainBatch]) -> list[object]:
    return [
        (
            batch.step,
            batch.epoch,
            batch.image_ids,
            [image.tolist() for image in batch.images],
            [(t.boxes.tolist(), t.labels.tolist(), t.masks.tolist()) for t in batch.targets],
        )
        for batch in batches
    ]


def test_batches_follow_the_order_without_end(dataset: TrainDataset) -> None:
    batches = first(train_batches(dataset, 5, 4), 6)
    assert [batch.step for batch in batches] == list(range(6))
    assert [batch.epoch for batch in batches] == [0, 0, 1, 1, 2, 2]
    for batch in batches:
        rows = dataset.images[global_batch(5, batch.step, dataset.groups, 4)]
        assert batch.image_ids == tuple(dataset.index.image_ids[rows].tolist())
        assert [t.image_id for t in batch.targets] == list(batch.image_ids)
        assert all(i.shape == (3, 8, 8) and i.dtype == torch.uint8 for i in batch.images)


def test_starting_later_gives_the_same_bits(dataset: TrainDataset) -> None:
    whole = contents(first(train_batches(dataset, 5, 3), 7))
    assert contents(first(train_batches(dataset, 5, 3, start_step=4), 3)) == whole[4:]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_workers_together_get_the_global_batch(dataset: TrainDataset, world_size: int) -> None:
    whole = first(train_batches(dataset, 5, 4), 3)
    ranks = [first(train_batches(dataset, 5, 4, r, world_size), 3) for r in range(world_size)]
    for step in range(3):
        joined = [image for rank in ranks for image in rank[step].images]
        assert all(torch.equal(a, b) for a, b in zip(joined, whole[step].images, strict=True))
        ids = [k for rank in ranks for k in rank[step].image_ids]
        assert tuple(ids) == whole[step].image_ids
        seeds = [seed for rank in ranks for seed in rank[step].plan.seeds]
        assert tuple(seeds) == whole[step].plan.seeds
        # Each knows the sizes of all, and so pads as one worker would.
        assert {rank[step].plan.batch_sizes for rank in ranks} == {whole[step].plan.batch_sizes}
        sizes = [(*image.shape[-2:], 0) for image in whole[step].images]
        assert list(whole[step].plan.batch_sizes) == sizes


def test_an_image_is_augmented_anew_each_epoch(dataset: TrainDataset) -> None:
    sights = {dataset[0, epoch][0].numpy().tobytes() for epoch in range(4)}
    assert len(sights) == 4
    assert torch.equal(dataset[0, 2][0], dataset[0, 2][0])


def test_processes_make_the_same_bits_as_the_thread(dataset: TrainDataset) -> None:
    state = torch.random.get_rng_state()
    by_thread = first(train_batches(dataset, 5, 3, 0, 1, 1), 6)
    by_processes = first(train_batches(dataset, 5, 3, 0, 1, 1, num_workers=2), 6)
    assert contents(by_processes) == contents(by_thread)
    # Loading takes no draw from the generator that the model's sampling uses.
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_arrives_as_its_own_error(dataset: TrainDataset, num_workers: int) -> None:
    victim = dataset.make.images.root / "t/4.png"
    victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"4.png: the image cannot be decoded") as caught:
        first(train_batches(dataset, 5, 4, num_workers=num_workers), 4)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_killed_process_gives_one_line(dataset: TrainDataset) -> None:
    batches = train_batches(dataset, 5, 4, num_workers=1)
    next(batches)
    os.kill(worker_pid(), signal.SIGKILL)
    with pytest.raises(RunError, match=r"data.loader_workers: a process that loads images died"):
        list(itertools.islice(batches, 100))


def worker_pid() -> int:
    import multiprocessing

    (child,) = multiprocessing.active_children()
    assert child.pid
    return child.pid


def test_the_thread_ends_with_its_batches(dataset: TrainDataset) -> None:
    batches = train_batches(dataset, 5, 4)
    next(batches)
    assert any(t.name == "raymrcnn-loader" for t in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(t.name == "raymrcnn-loader" for t in threading.enumerate())


def test_the_thread_stays_only_a_few_batches_ahead(dataset: TrainDataset) -> None:
    made = []
    job = dataset.job
    dataset.job = lambda draw: (made.append(draw), job(draw))[1]  # type: ignore[method-assign]
    batches = train_batches(dataset, 5, 2, prefetch=2)
    next(batches)
    threading.Event().wait(0.5)
    assert len(made) <= 2 * (1 + 2 + 1)
    batches.close()  # type: ignore[attr-defined]


def test_a_job_is_small_beside_its_index(dataset: TrainDataset) -> None:
    import pickle

    assert len(pickle.dumps(dataset.job(dataset.draw(0, 0)))) < 2000
    assert len(pickle.dumps(dataset.make)) < 2000
