"""Sampling is a function of the seed and the place: balanced, fair, and the same however cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.model.sampling import KEY_BITS, batch_keys, other_keys, sample_balanced, sampling_keys

sweep = settings(deadline=None, max_examples=100)
HOST = torch.device("cpu")


@sweep
@given(st.integers(0, 2**64 - 1), st.integers(0, 5000), st.integers(0, 5000))
def test_keys_are_distinct_whole_and_do_not_depend_on_the_size(
    seed: int, size: int, more: int
) -> None:
    keys = sampling_keys(seed, size)
    assert keys.dtype == np.float32
    assert len(set(keys.tolist())) == size
    assert np.array_equal(keys, keys.astype(np.int64))
    assert size == 0 or 0 <= keys.min() <= keys.max() < 2**KEY_BITS
    assert np.array_equal(sampling_keys(seed, size + more)[:size], keys)


def test_the_other_keys_are_distinct_too() -> None:
    keys = batch_keys([3], 50_000, HOST)
    other = other_keys(keys)
    assert len(other.unique()) == 50_000
    assert other.min() >= 0 and other.max() < 2**KEY_BITS
    first, second = (set(k[0].argsort()[:5000].tolist()) for k in (keys, other))
    assert len(first & second) == 0


@sweep
@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    st.integers(1, 40),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32),
)
def test_quotas_are_kept_and_filled(
    labels: list[int], num: int, fraction: float, seed: int
) -> None:
    quota = int(num * fraction)
    of = torch.tensor([labels])
    sample = sample_balanced(of, batch_keys([seed], len(labels), HOST), num, quota)
    positives = sample.positives[sample.is_positive].tolist()
    negatives = sample.negatives[sample.is_negative].tolist()
    assert len(positives) == min(quota, sum(k >= 1 for k in labels)) == len(set(positives))
    assert all(labels[k] >= 1 for k in positives)
    assert len(negatives) == min(num - len(positives), sum(k == 0 for k in labels))
    assert len(negatives) == len(set(negatives))
    assert all(labels[k] == 0 for k in negatives)
    assert sample.counts().tolist() == [len(positives) + len(negatives)]


def test_an_image_draws_the_same_alone_and_in_a_batch() -> None:
    labels = torch.randint(-1, 2, (3, 4000), generator=torch.Generator().manual_seed(0))
    whole = sample_balanced(labels, batch_keys([5, 6, 7], 4000, HOST), 256, 128)
    alone = sample_balanced(labels[1:2], batch_keys([6], 4000, HOST), 256, 128)
    assert torch.equal(whole.positives[1:2], alone.positives)
    assert torch.equal(whole.negatives[1:2], alone.negatives)


def test_every_candidate_and_every_pair_is_as_likely() -> None:
    size, chosen, trials = 400, 100, 3000
    taken = np.zeros((trials, size))
    for seed in range(trials):
        taken[seed, np.argsort(sampling_keys(seed, size))[:chosen]] = 1
    share = chosen / size
    error = np.sqrt(share * (1 - share) / trials)
    assert np.abs(taken.mean(0) - share).max() < 5 * error
    together = taken.T @ taken / trials
    expected = share * (chosen - 1) / (size - 1)
    off = together[~np.eye(size, dtype=bool)] - expected
    assert np.abs(off).max() < 6 * np.sqrt(expected * (1 - expected) / trials)


def test_the_global_generator_neither_matters_nor_moves() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    keys = batch_keys([9], 100, HOST)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(batch_keys([9], 100, HOST), keys)


def test_the_keys_are_pinned() -> None:
    # A change here changes every run that is resumed.
    assert sampling_keys(5, 4).astype(int).tolist() == [11964667, 5944655, 9682026, 4986986]


@pytest.mark.parametrize("num", [1, 300])
def test_fewer_candidates_than_asked_for_are_enough(num: int) -> None:
    sample = sample_balanced(torch.tensor([[1, 0]]), batch_keys([0], 2, HOST), num, num)
    assert int(sample.counts()) == min(num, 2)
