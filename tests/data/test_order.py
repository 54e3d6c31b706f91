"""Every image once an epoch, whatever the numbers; the same for any start and world size."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.data.order import (
    aspect_groups,
    batches,
    epoch_order,
    epochs_of,
    global_batch,
    image_seed,
    rank_slice,
    sampling_seed,
)

Groups = npt.NDArray[np.int8]
sweep = settings(deadline=None, max_examples=150)


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, Groups, int]:
    num_images = draw(st.integers(1, 70))
    groups = draw(
        st.lists(st.integers(0, draw(st.integers(0, 3))), min_size=num_images, max_size=num_images)
    )
    return draw(st.integers(0, 2**31 - 1)), np.array(groups, np.int8), draw(st.integers(1, 20))


def first_batches(
    seed: int, groups: Groups, batch_size: int, num_steps: int, start: int = 0
) -> list[npt.NDArray[np.int64]]:
    found = list(itertools.islice(batches(seed, groups, batch_size, start), num_steps))
    assert [step for step, _ in found] == list(range(start, start + num_steps))
    return [batch for _, batch in found]


@sweep
@given(runs(), st.integers(0, 5))
def test_each_epoch_is_a_permutation(run: tuple[int, Groups, int], epoch: int) -> None:
    seed, groups, batch_size = run
    order = epoch_order(seed, epoch, groups, batch_size)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(groups)))


@sweep
@given(runs())
def test_the_batches_are_the_epochs_end_to_end(run: tuple[int, Groups, int]) -> None:
    seed, groups, batch_size = run
    num_steps = -(-4 * len(groups) // batch_size)
    stream = np.concatenate(first_batches(seed, groups, batch_size, num_steps))
    epochs = np.concatenate([epochs_of(s, len(groups), batch_size) for s in range(num_steps)])
    assert len(stream) == num_steps * batch_size
    for epoch in range(4):
        expected = epoch_order(seed, epoch, groups, batch_size)
        assert np.array_equal(stream[epochs == epoch], expected)


@sweep
@given(runs(), st.integers(0, 60))
def test_starting_anywhere_gives_the_tail_of_the_whole(
    run: tuple[int, Groups, int], start: int
) -> None:
    seed, groups, batch_size = run
    whole = first_batches(seed, groups, batch_size, start + 4)
    tail = first_batches(seed, groups, batch_size, 4, start)
    assert np.array_equal(np.stack(whole[start:]), np.stack(tail))
    assert np.array_equal(global_batch(seed, start, groups, batch_size), whole[start])


@sweep
@given(runs(), st.integers(0, 9), st.integers(1, 24))
def test_any_number_of_ranks_shares_out_the_same_global_batch(
    run: tuple[int, Groups, int], step: int, world_size: int
) -> None:
    seed, groups, batch_size = run
    batch = global_batch(seed, step, groups, batch_size)
    parts = [rank_slice(batch, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(parts), batch)
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


@sweep
@given(
    runs(),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8)), min_size=1, max_size=6),
)
def test_each_image_comes_once_an_epoch_through_cuts_and_changes_of_workers(
    run: tuple[int, Groups, int], parts_of_run: list[tuple[int, int]]
) -> None:
    seed, groups, batch_size = run
    seen: dict[int, list[int]] = {}
    step = 0
    for num_steps, world_size in parts_of_run:  # each begins anew at the step that was reached
        for rank in range(world_size):
            for k, batch in enumerate(first_batches(seed, groups, batch_size, num_steps, step)):
                epochs = epochs_of(step + k, len(groups), batch_size)
                mine = rank_slice(batch, rank, world_size).tolist()
                for epoch, image in zip(rank_slice(epochs, rank, world_size), mine, strict=True):
                    seen.setdefault(int(epoch), []).append(image)
        step += num_steps
    *whole, last = (seen[epoch] for epoch in sorted(seen))
    assert sum(map(len, seen.values())) == step * batch_size
    assert all(sorted(images) == list(range(len(groups))) for images in whole)
    assert len(last) == len(set(last))


def test_sampling_draws_anew_for_each_image_and_epoch_apart_from_augmentation() -> None:
    seeds = {sampling_seed(*key) for key in itertools.product(range(3), range(5), range(40))}
    assert len(seeds) == 600
    words = image_seed(1, 2, 3).generate_state(2)
    assert sampling_seed(1, 2, 3) != int(words[0]) << 32 | int(words[1])


@sweep
@given(runs())
def test_batches_within_an_epoch_hold_one_group(run: tuple[int, Groups, int]) -> None:
    seed, groups, batch_size = run
    num_steps = -(-4 * len(groups) // batch_size)
    mixed: dict[int, int] = {}
    for step, batch in enumerate(first_batches(seed, groups, batch_size, num_steps)):
        epochs = set(epochs_of(step, len(groups), batch_size).tolist())
        if len(epochs) == 1:
            mixed[min(epochs)] = mixed.get(min(epochs), 0) + (len(set(groups[batch])) > 1)
    assert all(n < len(set(groups.tolist())) for n in mixed.values())


def test_at_real_size_few_batches_are_mixed_and_their_order_is_shuffled() -> None:
    rng = np.random.default_rng(3)
    groups = (rng.random(5001) < 0.72).astype(np.int8)
    found = first_batches(1, groups, 16, 4 * 5001 // 16)
    mixed = sum(len(set(groups[batch])) > 1 for batch in found)
    # At most one within an epoch and one across each boundary.
    assert mixed <= 8
    kinds = np.array([groups[batch[0]] for batch in found])
    changes = np.count_nonzero(np.diff(kinds))
    assert changes > 0.3 * len(kinds)  # 2 * 0.72 * 0.28 = 0.40 expected of a shuffled order


def test_the_order_differs_between_epochs_and_seeds() -> None:
    groups = np.zeros(50, np.int8)
    orders = [epoch_order(s, e, groups, 1).tolist() for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(o) for o in orders}) == 4


def test_every_image_is_as_likely_at_every_place() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1], np.int8)
    places = np.array([np.argsort(epoch_order(seed, seed % 3, groups, 2)) for seed in range(4000)])
    means = places.mean(0)
    # Within a group no image is preferred: the mean place of each is within 4 standard errors.
    assert np.ptp(means[:3]) < 0.26
    assert np.ptp(means[3:]) < 0.26


def test_the_order_is_pinned() -> None:
    # A change here changes every run that is resumed.
    groups = np.array([0, 1, 1, 0, 1, 1, 1, 0], np.int8)
    assert epoch_order(5, 0, groups, 3).tolist() == [4, 5, 6, 7, 3, 0, 2, 1]
    assert epoch_order(5, 1, groups, 3).tolist() == [4, 6, 1, 5, 7, 0, 3, 2]


def test_numpys_global_generator_neither_matters_nor_moves() -> None:
    groups = np.zeros(9, np.int8)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    first = epoch_order(0, 0, groups, 2)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(2)
    assert np.array_equal(epoch_order(0, 0, groups, 2), first)


def test_a_single_image_fills_every_batch() -> None:
    groups = np.zeros(1, np.int8)
    assert [b.tolist() for b in first_batches(0, groups, 4, 3)] == [[0] * 4] * 3
    assert epochs_of(1, 1, 4).tolist() == [4, 5, 6, 7]


def test_wide_and_square_images_are_one_group() -> None:
    groups = aspect_groups([640, 480, 500], [480, 640, 500])
    assert groups.tolist() == [1, 0, 1]
    assert groups.dtype == np.int8


def test_an_image_draws_anew_each_epoch() -> None:
    states = {
        tuple(image_seed(*key).generate_state(2).tolist())
        for key in ((0, 0, 5), (0, 1, 5), (1, 0, 5), (0, 0, 6), (0, 5, 0))
    }
    assert len(states) == 5


def test_a_big_data_set_is_ordered_quickly() -> None:
    groups = (np.arange(118_000) % 7 > 1).astype(np.int8)
    stream = batches(0, groups, 16, start_step=1_000_000)
    step, batch = next(stream)
    assert step == 1_000_000
    assert len(set(batch.tolist())) == 16
