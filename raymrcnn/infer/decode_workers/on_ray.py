"""Actors that only fetch and decode, on any machine, for those that have the cards."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import ray
import torch

from raymrcnn.data.fetch import Fetcher
from raymrcnn.device.accelerator import Accelerator
from raymrcnn.device.on_ray import quiet_loggers, worker_resources
from raymrcnn.errors import DataError
from raymrcnn.infer.job import InferJob
from raymrcnn.infer.labeler import Decoder
from raymrcnn.structures import ImageRef


class RemoteDecoder:
    """An image to pixels by the next of the decode actors; called from many threads."""

    def __init__(self, actors: list[Any]) -> None:
        self._next = itertools.cycle(actors)

    def __call__(self, ref: ImageRef) -> torch.Tensor:
        """Have an image decoded.

        Raises:
            DataError: it cannot be read, is no image, or ends each process that decodes it.
        """
        pixels, error = ray.get(next(self._next).decode.remote(ref))
        if error:
            raise DataError(error)
        return torch.from_numpy(np.array(pixels))  # what lies in the object store is read-only


class _DecodeActor:
    """A process that only fetches and decodes."""

    def __init__(self, store: Any, tries: Any) -> None:
        quiet_loggers()
        torch.set_num_threads(1)
        self._decode = Decoder(Fetcher(store))
        # Asked for each image from the first death on, and not before: that is a message an image.
        self._tries = tries if ray.get_runtime_context().was_current_actor_reconstructed else None

    def decode(self, ref: ImageRef) -> tuple[Any, str]:
        """The pixels, or None and the reason."""
        if self._tries and not ray.get(self._tries.begin.remote(f"image {ref.image_id}")):
            return None, "each process that decodes it ends"
        try:
            return self._decode(ref).numpy(), ""
        except DataError as error:
            return None, error.what


def start_decoders(job: InferJob, store: Any, accelerator: Accelerator, tries: Any) -> list[Any]:
    """The decode actors of a job; none where it asks for none.

    Args:
        job: what to do.
        store: a reference to the store of the data set's images, or to None, which the caller has
            to hold on to: an actor that is started again reads it once more.
        accelerator: of the actors with the cards.
        tries: the actor of `Tries`.
    """
    number = job.decode_workers
    if not number:
        return []
    # What is left beside the cards, and a core for Ray Data's own tasks, which would starve else.
    totals: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    of_cards = worker_resources(accelerator)["CPU"] * job.workers
    left = max(0.0, totals.get("CPU", 0) - of_cards - 1)
    actor = ray.remote(_DecodeActor).options(
        num_cpus=int(min(1.0, left / number) * 100) / 100,
        scheduling_strategy="SPREAD",
        max_restarts=-1,
        max_task_retries=-1,  # an image that ends each process is found out by `tries`
    )
    return [actor.remote(store, tries) for _ in range(number)]
