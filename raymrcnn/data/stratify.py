"""Which split each image goes to, so that every category is spread over all of them.

Pure functions: the same images, fractions and seed give the same answer, whatever the order of the
annotation file.

Source: iterative stratification, Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1, with two
additions: units are groups of images that must stay together, and the sizes of the splits are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]
_LARGE = 8  # a group is large from this part of the smallest split on


def draw_key(seed: int, name: object) -> int:
    """A number for a thing, random by the seed and the same wherever the thing stands."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def split_sizes(total: int, fractions: Sequence[float]) -> list[int]:
    """Images in each split: the fractions, rounded so that they add up (largest remainders)."""
    exact = [total * fraction for fraction in fractions]
    sizes = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda f: (sizes[f] - exact[f], f))
    for f in order[: total - sum(sizes)]:
        sizes[f] += 1
    return sizes


def stratify(
    counts: npt.NDArray[Any], sizes: Sequence[int], fractions: Sequence[float], keys: Sequence[int]
) -> _Ints:
    """The split of each unit.

    A category that as many units have as there are splits comes into each, unless rarer ones have
    used the units up. Groups that are large beside the smallest split go first.

    Args:
        counts: integers [num_units, num_categories], images of a unit that have a category.
        sizes: images of each unit.
        fractions: of all images, a split each; they add up to 1.
        keys: a number each unit, that decides between equals.

    Returns:
        int64 [num_units], numbers of splits.
    """
    job = _Assignment(counts, sizes, fractions)
    order = np.array(sorted(range(len(sizes)), key=lambda u: (-sizes[u], keys[u])), np.int64)
    has = counts[order] > 0  # in the order of assignment
    large = np.asarray(sizes)[order] * _LARGE > max(_LARGE, job.room[job.room > 0].min())
    for place in np.flatnonzero(large).tolist():
        job.assign(int(order[place]), job.room)
    open_ = ~large
    left = has[open_].sum(axis=0)
    while left.any():
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for place in np.flatnonzero(has[:, rarest] & open_).tolist():
            unit = int(order[place])
            job.assign(unit, job.wanted[rarest])
            open_[place] = False
            left -= has[place]
    for place in np.flatnonzero(open_).tolist():  # without objects
        job.assign(int(order[place]), job.room)
    return job.splits


def _wanted(
    total: int, shares: npt.NDArray[np.float64], used: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Images of one category for each split: by the shares, but one each where there are enough."""
    wanted = total * shares
    if total < np.count_nonzero(used):
        return wanted
    pinned = np.zeros(len(shares), bool)
    while (low := used & ~pinned & (wanted < 1)).any():
        pinned |= low
        rest = ~pinned & used
        wanted = np.where(
            pinned, 1.0, shares * (total - pinned.sum()) / max(shares[rest].sum(), 1e-9)
        )
    return wanted


class _Assignment:
    """How many images of each category, and of all, each split still wants."""

    def __init__(
        self, counts: npt.NDArray[Any], sizes: Sequence[int], fractions: Sequence[float]
    ) -> None:
        self._counts, self._sizes = counts, sizes
        self.room = np.array(split_sizes(sum(sizes), fractions), np.float64)
        shares = np.asarray(fractions)
        self.wanted = np.array(  # [num_categories, num_splits]
            [_wanted(int(n), shares, self.room > 0) for n in counts.sum(axis=0)], np.float64
        ).reshape(-1, len(shares))
        self.splits = np.full(len(sizes), -1, np.int64)

    def assign(self, unit: int, wanted: npt.NDArray[np.float64]) -> None:
        """Give a unit to the split that wants it most, among those that it fits into."""
        size = self._sizes[unit]
        fits = self.room >= size
        if not fits.any():  # a group that is larger than what is left anywhere
            fits = self.room == self.room.max()
        best = np.flatnonzero(fits & (wanted >= wanted[fits].max() - 1e-9))
        chosen = int(best[self.room[best].argmax()])
        self.splits[unit] = chosen
        self.room[chosen] -= size
        self.wanted[:, chosen] -= self._counts[unit]
