"""Looks at the images of a large split in Ray tasks of one CPU each, wherever there is one.

Each task reads and decodes a piece of the split; only what is kept of a picture comes back, and the
pieces in their order, so that what is found does not depend on the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from raymrcnn.data.check.pictures import ListedImage, Look, chunks, look_at
from raymrcnn.data.store import ImageStore
from raymrcnn.device.accelerator import CPU
from raymrcnn.device.on_ray import num_workers_possible, ray_session

_AT_ONCE = 128  # images a task
_AHEAD = 2  # tasks in hand for each CPU


def look_at_all_on_ray(
    images: ImageStore,
    listed: Sequence[ListedImage],
    decode: bool,
    cluster: str | None,
    num_workers: int,
    progress: Callable[[int], object],
) -> list[Look]:
    """As `look_at_all`, on a cluster or in processes of this machine.

    Args:
        images: where the files are; all nodes must see them.
        listed: the images.
        decode: decode each; without, they are only looked for.
        cluster: "auto" or HOST:PORT; None: this machine alone.
        num_workers: tasks at a time; 0: one for each CPU.
        progress: told the number of images that are done.

    Raises:
        ClusterError: no cluster answers there, or it is too small.
    """
    looks: dict[int, list[Look]] = {}
    with ray_session(cluster, CPU, max(1, num_workers)):
        at_once = (num_workers or num_workers_possible(CPU)) * _AHEAD
        store = ray.put(images)
        task = _look_at.options(num_cpus=1)
        running: dict[Any, int] = {}
        done = 0
        for k, part in enumerate(chunks(listed, _AT_ONCE)):
            if len(running) >= at_once:
                done += _take(running, looks)
                progress(done)
            running[task.remote(store, part, decode)] = k
        while running:
            done += _take(running, looks)
            progress(done)
    return [look for k in sorted(looks) for look in looks[k]]


def _take(running: dict[Any, int], looks: dict[int, list[Look]]) -> int:
    """Wait for a task; returns the number of its images."""
    (ready, *_), _ = ray.wait(list(running), num_returns=1)
    found: list[Look] = ray.get(ready)
    looks[running.pop(ready)] = found
    return len(found)


@ray.remote
def _look_at(images: ImageStore, part: Sequence[ListedImage], decode: bool) -> list[Look]:
    return look_at(images, part, decode)
