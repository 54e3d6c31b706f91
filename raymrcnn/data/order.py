"""Which image is trained on when: a pure function of the seed and the step.

Epochs follow one another in one endless stream of images, and step s takes the batch_size images
from position s * batch_size on, so that every image comes once an epoch whatever the numbers. A
rank takes its slice of the global batch: neither the number of workers nor a restart changes
what a step sees. Nothing here reads, keeps state, or knows processes.

Within an epoch the batches hold one group of images each (wide or tall, so that little is wasted
on padding); what does not fill a whole batch of its group comes first and last in the epoch, where
it shares batches with the epochs beside it, or makes up a mixed batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int8]
Factors = npt.NDArray[np.float64]

# Streams of random numbers of one epoch.
_ORDER, _BATCHES, _IMAGE, _SAMPLING, _REPEATS, _SHORT_SIDE, _DONOR = range(7)


def aspect_groups(widths: npt.ArrayLike, heights: npt.ArrayLike) -> Groups:
    """int8 [num_images]: 1 for images at least as wide as tall, else 0."""
    return (np.asarray(widths) >= np.asarray(heights)).astype(np.int8)


def epoch_order(seed: int, epoch: int, groups: Groups, batch_size: int) -> Ints:
    """The order of one epoch.

    Args:
        seed: of the run, not negative.
        epoch: 0, 1, ...
        groups: int8 [num_images], the group of each image; at least one image.
        batch_size: images a step, over all workers.

    Returns:
        int64 [num_images]: a permutation, laid out so that every batch that begins and ends
        inside the epoch holds one group, but for at most one batch fewer than there are groups.
    """
    num_images = len(groups)
    assert num_images > 0 and batch_size > 0 and seed >= 0 and epoch >= 0
    head = min(-epoch * num_images % batch_size, num_images)  # completes the batch before
    num_whole = (num_images - head) // batch_size
    shuffled = _permutation(seed, epoch, _ORDER, num_images)
    pure, rest = _by_group(shuffled, groups, batch_size, num_images - num_whole * batch_size)
    # The rest begins with one group and ends with another. Every other epoch turns it round, so
    # that the batch across the boundary tends to meet its own group on the other side.
    if epoch % 2:
        rest.reverse()
    loose = np.concatenate([*rest, np.empty(0, np.int64)])
    between = loose[head : len(loose) - (num_images - head) % batch_size]
    whole = np.concatenate([*pure, between]).reshape(num_whole, batch_size)
    whole = whole[_permutation(seed, epoch, _BATCHES, num_whole)]
    return np.concatenate([loose[:head], whole.ravel(), loose[head + len(between) :]])


def epoch_size(num_images: int, repeats: Factors | None = None) -> int:
    """How many entries each epoch has: the images, or as many as their repeats add up to."""
    return num_images if repeats is None else round(float(repeats.sum()))


def epoch_entries(seed: int, epoch: int, num_images: int, repeats: Factors | None = None) -> Ints:
    """The images of one epoch in a fixed order, int64 [epoch_size].

    Entry e is image e % num_images, for the (e // num_images + 1)-th time. An image that is to be
    repeated r times comes floor(r) or ceil(r) times in each epoch, r times in the mean.

    Args:
        seed: of the run.
        epoch: 0, 1, ...
        num_images: of the data set.
        repeats: float64 [num_images], how often each image is to come; None: once.
    """
    if repeats is None:
        return np.arange(num_images, dtype=np.int64)
    size = epoch_size(num_images, repeats)
    # Places at equal distances on a line on which each image is as long as it is often.
    images = _permutation(seed, epoch, _REPEATS, num_images)
    ends = np.cumsum(repeats[images] * (size / repeats.sum()))
    ends[-1] = size
    offset = int(np.random.SeedSequence((seed, epoch, _REPEATS)).generate_state(1)[0]) / 2**32
    places = np.floor(ends + offset).astype(np.int64)
    counts = places - np.concatenate(([0], places[:-1]))
    copy = np.arange(size) - np.repeat(places - counts, counts)
    return np.sort(np.repeat(images, counts) + copy * num_images)


def global_batch(
    seed: int, step: int, groups: Groups, batch_size: int, repeats: Factors | None = None
) -> Ints:
    """The entries of one step over all workers, int64 [batch_size]; steps count from 0.

    `batches` gives the same for a run of steps without ordering an epoch anew for each.
    """
    return next(batches(seed, groups, batch_size, step, repeats))[1]


def batches(
    seed: int,
    groups: Groups,
    batch_size: int,
    start_step: int = 0,
    repeats: Factors | None = None,
) -> Iterator[tuple[int, Ints]]:
    """Steps and the entries of their global batches from `start_step` on, without end.

    Without repeats an entry is an image; else see `epoch_entries`.
    """

    def ordered(epoch: int) -> Ints:
        entries = epoch_entries(seed, epoch, len(groups), repeats)
        return entries[epoch_order(seed, epoch, groups[entries % len(groups)], batch_size)]

    epoch, position = divmod(start_step * batch_size, epoch_size(len(groups), repeats))
    pending = ordered(epoch)[position:]
    step = start_step
    while True:
        parts = [pending]
        while (filled := sum(len(part) for part in parts)) < batch_size:
            epoch += 1
            parts.append(ordered(epoch))
        stream = np.concatenate(parts) if len(parts) > 1 else parts[0]
        # One epoch's order is kept; slices of it are views.
        yield step, stream[:batch_size].copy()
        pending = stream[batch_size:]
        assert len(pending) == filled - batch_size
        step += 1


def epochs_of(step: int, size: int, batch_size: int) -> Ints:
    """The epoch that each entry of a global batch belongs to, int64 [batch_size]."""
    first = step * batch_size
    return np.arange(first, first + batch_size, dtype=np.int64) // size


def rank_slice(batch: Ints, rank: int, world_size: int) -> Ints:
    """The part of a global batch (or of anything beside it) that one worker takes.

    Where the workers do not divide the batch, parts differ by one image at most.
    """
    assert 0 <= rank < world_size
    return batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size]


def image_seed(seed: int, epoch: int, image_id: int, copy: int = 0) -> np.random.SeedSequence:
    """What the augmentation of one image in one epoch is drawn from; copies count from 0."""
    return _image_stream(_IMAGE, seed, epoch, image_id, copy)


def sampling_seed(seed: int, epoch: int, image_id: int, copy: int = 0) -> int:
    """What the model samples anchors and proposals of one image in one epoch by."""
    words = _image_stream(_SAMPLING, seed, epoch, image_id, copy).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


def drawn_short_side(seed: int, epoch: int, image_id: int, copy: int, sides: Sequence[int]) -> int:
    """One of `sides`; 0, which stands for the model's own, where there is none."""
    if not sides:
        return 0
    word = _image_stream(_SHORT_SIDE, seed, epoch, image_id, copy).generate_state(1)[0]
    return sides[int(word) * len(sides) >> 32]


def drawn_donor(
    seed: int, epoch: int, image_id: int, copy: int, probability: float, num_images: int
) -> int | None:
    """The image, 0 to num_images - 1, that objects are pasted from; None: nothing is pasted."""
    words = _image_stream(_DONOR, seed, epoch, image_id, copy).generate_state(2)
    if int(words[0]) >= probability * 2**32:
        return None
    return int(words[1]) * num_images >> 32


def _image_stream(
    stream: int, seed: int, epoch: int, image_id: int, copy: int
) -> np.random.SeedSequence:
    return np.random.SeedSequence((seed, epoch, stream, image_id, *((copy,) if copy else ())))


def _by_group(
    shuffled: Ints, groups: Groups, batch_size: int, num_loose: int
) -> tuple[list[Ints], list[Ints]]:
    """Batches of one group each, and the other images: at least `num_loose`, group by group."""
    pure: list[Ints] = []
    rest: list[Ints] = []
    of = groups[shuffled]
    for group in np.unique(groups):
        members = shuffled[of == group]
        whole = len(members) - len(members) % batch_size
        pure += list(members[:whole].reshape(-1, batch_size))
        rest.append(members[whole:])
    while sum(len(part) for part in rest) < num_loose:
        # Head and tail together need more than what is over: one batch more is split up.
        batch = pure.pop()
        place = next(k for k, group in enumerate(np.unique(groups)) if group == groups[batch[0]])
        rest[place] = np.concatenate([rest[place], batch])
    return pure, rest


def _permutation(seed: int, epoch: int, stream: int, size: int) -> Ints:
    """A random order of 0 to size - 1.

    Made from the raw bits of the generator, which numpy keeps the same over its versions, unlike
    `Generator.permutation` (NEP 19): nodes with different numpy agree.
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch, stream)))
    return np.argsort(bits.random_raw(size), kind="stable").astype(np.int64)
