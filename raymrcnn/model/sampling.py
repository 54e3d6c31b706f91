"""Which anchors and proposals a training step learns from: a function of a seed an image.

Each candidate of an image gets a key, which depends on the image's seed and on its own place alone,
and the smallest keys of each kind win. Keys are made on the host and never tie, so the same seed
chooses the same candidates on every device and however the batch is shared out. Nothing here
draws from a global generator, or waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

KEY_BITS = 24  # whole numbers that float32 holds exactly
_NEVER = float(1 << KEY_BITS)  # larger than every key
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Candidates chosen in each image of a batch, in arrays of a fixed size."""

    positives: Tensor  # [batch, at most the quota of positives] int64: places
    is_positive: Tensor  # bool of that shape: which of these were chosen
    negatives: Tensor  # [batch, at most all samples] int64
    is_negative: Tensor  # bool of that shape

    def counts(self) -> Tensor:
        """How many were chosen in each image, int64 [batch]."""
        return self.is_positive.sum(1) + self.is_negative.sum(1)


def sampling_keys(seed: int, size: int) -> npt.NDArray[np.float32]:
    """Distinct whole numbers in random order, float32 [size]; the first ones do not depend on size.

    A counter goes through rounds of steps that are one to one on 24 bits (times an odd number, plus
    a number, upper half onto lower), with the numbers drawn from the seed.
    """
    assert 0 <= size <= 1 << KEY_BITS
    words = np.random.SeedSequence(seed).generate_state(2 * _ROUNDS, np.uint32)
    keys = np.arange(size, dtype=np.uint32)
    for multiplier, addend in words.reshape(_ROUNDS, 2):
        keys *= multiplier | np.uint32(1)
        keys += addend
        keys &= np.uint32((1 << KEY_BITS) - 1)
        keys ^= keys >> np.uint32(KEY_BITS // 2)
    return keys.astype(np.float32)


def batch_keys(seeds: Sequence[int], size: int, device: torch.device) -> Tensor:
    """`sampling_keys` of each image, float32 [batch, size] on a device."""
    keys = np.stack([sampling_keys(seed, size) for seed in seeds])
    return torch.from_numpy(keys).to(device, non_blocking=True)


def other_keys(keys: Tensor) -> Tensor:
    """Keys for a second choice among the same candidates: the same circle, begun elsewhere."""
    return torch.where(keys < _NEVER / 2, keys + _NEVER / 2, keys - _NEVER / 2)


def sample_balanced(labels: Tensor, keys: Tensor, num: int, max_positives: int) -> Sample:
    """Choose up to `max_positives` positives, and negatives until there are `num`, in each image.

    Args:
        labels: [batch, candidates]: 1 or more positive, 0 negative, less ignored.
        keys: float32 of that shape.
        num: candidates to choose in an image.
        max_positives: of these.
    """
    size = labels.shape[1]
    never = keys.new_full((), _NEVER)
    best, positives = torch.where(labels >= 1, keys, never).topk(
        min(max_positives, size), dim=1, largest=False
    )
    is_positive = best < _NEVER
    best, negatives = torch.where(labels == 0, keys, never).topk(
        min(num, size), dim=1, largest=False
    )
    place = torch.arange(negatives.shape[1], device=keys.device)
    is_negative = (best < _NEVER) & (place < num - is_positive.sum(1, keepdim=True))
    return Sample(
        positives=positives, is_positive=is_positive, negatives=negatives, is_negative=is_negative
    )
