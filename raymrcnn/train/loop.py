"""The training loop: a generator that knows no Ray, no files and no logging.

Its driver decides when to log and to save. Every random choice inside a step (which anchors and
proposals are sampled) is drawn from a seed that is a function of the run's seed, the step and the
rank, so a resumed run needs no random state to repeat an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raymrcnn.data.loader import TrainBatch
from raymrcnn.device.numerics import seed_step
from raymrcnn.errors import RunError
from raymrcnn.structures import Target
from raymrcnn.train.optim import set_learning_rate


@dataclass(frozen=True, kw_only=True)
class Step:
    """One update, done."""

    index: int  # updates done since the start of the run, this one included
    epoch: int
    image_ids: tuple[int, ...]
    losses: dict[str, Tensor]  # scalars on the device, detached
    learning_rate: float
    data_wait_s: float  # spent waiting for this batch
    seconds: float  # from asking for the batch to the end of the update, on the host's clock


class NonFiniteLossError(RunError):
    """A loss became NaN or infinite: training stops, and what was saved before stays."""


def training_steps(
    model: nn.Module,
    batches: Iterator[TrainBatch],
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    *,
    start: int,
    stop: int,
    device: torch.device,
    seed: int = 0,
    rank: int = 0,
    clip_grad_norm: float = 0.0,
    check_every: int = 1,
) -> Iterator[Step]:
    """Train from step `start` (updates done) to `stop`, yielding after each update.

    Args:
        model: gives a dictionary of scalar losses for images and targets.
        batches: this rank's share of the global batches, from step `start` on.
        optimizer: over the model's parameters.
        lr_at: the learning rate of a step, counted from 0.
        start: updates done before.
        stop: updates done at the end.
        device: of the model.
        seed: of the run.
        rank: of this worker.
        clip_grad_norm: largest norm of the whole gradient; 0: not clipped.
        check_every: steps between looks at the losses; more than 1 spares an accelerator the
            wait. A non-finite loss is always found before the yield of such a step.

    Raises:
        NonFiniteLossError: with the step and the image ids.
    """
    unchecked: list[tuple[int, tuple[int, ...], Tensor]] = []
    for step in range(start, stop):
        began = time.perf_counter()
        batch = next(batches)
        data_wait_s = time.perf_counter() - began
        assert batch.step == step, f"batch of step {batch.step} in step {step}"
        images = [image.to(device, non_blocking=True) for image in batch.images]
        targets = [_on(device, target) for target in batch.targets]

        rate = lr_at(step)
        set_learning_rate(optimizer, rate)
        seed_step(seed, step, rank)
        losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()

        unchecked.append((step, batch.image_ids, total.detach()))
        if (step + 1) % check_every == 0 or step + 1 == stop:
            _require_finite(unchecked)
            unchecked.clear()

        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if clip_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
        optimizer.step()
        yield Step(
            index=step + 1,
            epoch=batch.epoch,
            image_ids=batch.image_ids,
            losses={name: loss.detach() for name, loss in losses.items()},
            learning_rate=rate,
            data_wait_s=data_wait_s,
            seconds=time.perf_counter() - began,
        )


def _on(device: torch.device, target: Target) -> Target:
    return Target(
        image_id=target.image_id,
        boxes=target.boxes.to(device, non_blocking=True),
        labels=target.labels.to(device, non_blocking=True),
        masks=target.masks.to(device, non_blocking=True),
    )


def _require_finite(steps: list[tuple[int, tuple[int, ...], Tensor]]) -> None:
    finite = torch.isfinite(torch.stack([total for _, _, total in steps])).tolist()
    for (step, image_ids, total), good in zip(steps, finite, strict=True):
        if not good:
            ids = ", ".join(map(str, image_ids[:16]))
            raise NonFiniteLossError(
                f"the loss is {total.item()} for images {ids}",
                where=f"step {step + 1}",
                todo="look at these images with `raymrcnn data verify`, or lower optim.base_lr",
            )
