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

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int8]

_ORDER, _BATCHES, _IMAGE, _SAMPLING = range(4)  # streams of random numbers of one epoch


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


def global_batch(seed: int, step: int, groups: Groups, batch_size: int) -> Ints:
    """The images of one step over all workers, int64 [batch_size]; steps count from 0.

    `batches` gives the same for a run of steps without ordering an epoch anew for each.
    """
    return next(batches(seed, groups, batch_size, step))[1]


def batches(
    seed: int, groups: Groups, batch_size: int, start_step: int = 0
) -> Iterator[tuple[int, Ints]]:
    """Steps and their global batches from `start_step` on, without end."""
    num_images = len(groups)
    epoch, position = divmod(start_step * batch_size, num_images)
    pending = epoch_order(seed, epoch, groups, batch_size)[position:]
    step = start_step
    while True:
        parts = [pending]
        while (filled := sum(len(part) for part in parts)) < batch_size:
            epoch += 1
            parts.append(epoch_order(seed, epoch, groups, batch_size))
        stream = np.concatenate(parts) if len(parts) > 1 else parts[0]
        # One epoch's order is kept; slices of it are views.
        yield step, stream[:batch_size].copy()
        pending = stream[batch_size:]
        assert len(pending) == filled - batch_size
        step += 1


def epochs_of(step: int, num_images: int, batch_size: int) -> Ints:
    """The epoch that each image of a global batch belongs to, int64 [batch_size]."""
    first = step * batch_size
    return np.arange(first, first + batch_size, dtype=np.int64) // num_images


def rank_slice(batch: Ints, rank: int, world_size: int) -> Ints:
    """The part of a global batch (or of anything beside it) that one worker takes.

    Where the workers do not divide the batch, parts differ by one image at most.
    """
    assert 0 <= rank < world_size
    return batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size]


def image_seed(seed: int, epoch: int, image_id: int) -> np.random.SeedSequence:
    """What the augmentation of one image in one epoch is drawn from."""
    return np.random.SeedSequence((seed, epoch, _IMAGE, image_id))


def sampling_seed(seed: int, epoch: int, image_id: int) -> int:
    """What the model samples anchors and proposals of one image in one epoch by."""
    words = np.random.SeedSequence((seed, epoch, _SAMPLING, image_id)).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


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
