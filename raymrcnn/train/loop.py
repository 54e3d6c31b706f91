"""The training loop: a generator that knows no Ray, no files and no logging.

Its driver decides when to log and to save. Nothing random is drawn here: augmentation and sampling
are functions of the seeds in the batches, so a resumed run needs no random state to repeat an
uninterrupted one. A step is that of the global batch: losses are divided by what all workers
counted, so any number of workers gives what one would.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from raymrcnn.data.loader import TrainBatch
from raymrcnn.device.numerics import autocast, found_inf
from raymrcnn.device.stopwatch import Stopwatch
from raymrcnn.errors import RunError
from raymrcnn.model.losses import LOSSES, divided
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.structures import BatchPlan, Outlines, Target
from raymrcnn.train.optim import set_learning_rate
from raymrcnn.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Step:
    """One update, done."""

    index: int  # updates done since the start of the run, this one included
    epoch: int
    image_ids: tuple[int, ...]  # of the global batch
    losses: dict[str, Tensor]  # scalars on the device, of the global batch
    learning_rate: float
    skipped: bool  # left out, because something was not finite
    data_wait_s: float  # spent waiting for this batch
    seconds: float  # from asking for the batch to the end of the update, on the host's clock


class NonFiniteLossError(RunError):
    """A loss or gradient became NaN or infinite: training stops; what was saved before stays."""


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed.

    Args:
        dtype: of the autocast forward pass.
        accumulate: pieces that a worker's share of the batch is taken in, to spare memory.
        clip_grad_norm: largest norm of the whole gradient; 0: not clipped.
        skip_bad: leave out a step with a loss or gradient that is not finite, instead of ending;
            each step then waits for the device.
        max_bad_steps: steps of the run that may be left out.
        check_every: steps between looks at the losses where nothing is left out; more than 1
            spares an accelerator the wait. A bad loss is always found before the yield of such
            a step.
    """

    dtype: torch.dtype = torch.float32
    accumulate: int = 1
    clip_grad_norm: float = 0.0
    skip_bad: bool = False
    max_bad_steps: int = 0
    check_every: int = 1


_DEFAULTS = StepOptions()


def training_steps(
    model: nn.Module,
    batches: Iterator[TrainBatch],
    state: TrainState,
    lr_at: Callable[[int], float],
    *,
    start: int,
    stop: int,
    device: torch.device,
    options: StepOptions = _DEFAULTS,
    watch: Stopwatch | None = None,
) -> Iterator[Step]:
    """Train from step `start` (updates done) to `stop`, yielding after each update.

    With a process group, all its ranks take each step together, and leave out the same.

    Args:
        model: gives `LossSums` for images, targets and plan; wrapped where there is a group.
        batches: this rank's share of the global batches, from step `start` on.
        state: of the model: optimizer, loss scale, average.
        lr_at: the learning rate of a step, counted from 0.
        start: updates done before.
        stop: updates done at the end.
        device: of the model.
        options: how a step is computed.
        watch: times each step up to the first exchange with other ranks, after which none is alone.

    Raises:
        NonFiniteLossError: with the step and the image ids.
    """
    watch = watch or Stopwatch(torch.device("cpu"))
    unchecked: list[tuple[int, tuple[int, ...], Tensor]] = []
    for step in range(start, stop):
        began = time.perf_counter()
        watch.start()
        batch = next(batches)
        data_wait_s = time.perf_counter() - began
        assert batch.step == step, f"batch of step {batch.step} in step {step}"

        rate = lr_at(step)
        set_learning_rate(state.optimizer, rate)
        model.zero_grad(set_to_none=True)
        losses = _backward(model, batch, state.scaler, options, device, watch)
        unchecked.append((step, batch.batch_ids, losses.sum()))
        if not options.skip_bad and ((step + 1) % options.check_every == 0 or step + 1 == stop):
            _require_finite(unchecked)
            unchecked.clear()

        skipped = not _update(state, step, losses, options)
        if skipped and state.num_bad_steps > options.max_bad_steps:
            raise _non_finite(
                *unchecked[-1], f"; {options.max_bad_steps} steps were left out before"
            )
        if options.skip_bad:
            unchecked.clear()
        yield Step(
            index=step + 1,
            epoch=batch.epoch,
            image_ids=batch.batch_ids,
            losses=dict(zip(LOSSES, losses.unbind(), strict=True)),
            learning_rate=rate,
            skipped=skipped,
            data_wait_s=data_wait_s,
            seconds=time.perf_counter() - began,
        )


def require_finite(step: Step, losses: Mapping[str, float]) -> None:
    """Refuse fetched losses of a step that spoilt the weights.

    Raises:
        NonFiniteLossError: one of them is not finite.
    """
    total = sum(losses.values())
    if not math.isfinite(total):
        raise _non_finite(step.index - 1, step.image_ids, torch.tensor(total))


def _update(state: TrainState, step: int, losses: Tensor, options: StepOptions) -> bool:
    """Move the weights by the gradient that they hold; False: left out, as it is not finite.

    Every rank holds the same losses and the same gradient, so all decide alike.
    """
    scaler, optimizer = state.scaler, state.optimizer
    if options.skip_bad and not bool(torch.isfinite(losses.sum())):
        state.num_bad_steps += 1
        return False
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
        state.num_scaler_skips += found_inf(scaler, optimizer) > 0
    # Under float16 a gradient that overflowed is no fault: the scaler leaves it out itself.
    look = options.skip_bad and not scaler.is_enabled()
    if options.clip_grad_norm or look:
        limit = options.clip_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(
            state.model.parameters(), limit, foreach=state.updates_together
        )
        if look and not bool(torch.isfinite(norm)):
            state.num_bad_steps += 1
            return False
    scaler.step(optimizer)
    scaler.update()
    state.average(step)
    return True


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some of a worker's images of one step, on the device."""

    images: list[Tensor]
    targets: list[Target]
    plan: BatchPlan


def _pieces(batch: TrainBatch, number: int, device: torch.device) -> Iterator[_Piece]:
    """A batch in pieces of about the same size; moved to the device one by one."""
    for k in range(number):
        first, end = (len(batch.images) * i // number for i in (k, k + 1))
        plan = replace(
            batch.plan,
            seeds=batch.plan.seeds[first:end],
            short_sides=batch.plan.short_sides[first:end],
        )
        yield _Piece(
            images=[image.to(device, non_blocking=True) for image in batch.images[first:end]],
            targets=[_on(device, target) for target in batch.targets[first:end]],
            plan=plan,
        )


def _backward(
    model: nn.Module,
    batch: TrainBatch,
    scaler: GradScaler,
    options: StepOptions,
    device: torch.device,
    watch: Stopwatch,
) -> Tensor:
    """Leave the gradient of the global batch in the parameters; returns its losses [5]."""
    accumulate, dtype = options.accumulate, options.dtype
    parallel = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
    num_ranks = dist.get_world_size() if parallel else 1
    counts = None
    if accumulate > 1:
        # The first piece's losses are divided by what the last one counts too, so the pieces are
        # counted beforehand: a forward pass up to the sampling, without a graph.
        network = parallel.module if parallel else model
        assert isinstance(network, MaskRCNN)
        with torch.no_grad(), autocast(device, dtype):
            counted = [
                network.sample_counts(piece.images, piece.targets, piece.plan)
                for piece in _pieces(batch, accumulate, device)
            ]
        watch.stop()
        (counts,) = _over_ranks(num_ranks, torch.stack(counted).sum(0))
    sums: list[Tensor] = []
    for k, piece in enumerate(_pieces(batch, accumulate, device), 1):
        # Gradients are exchanged once a step, with the last piece.
        with parallel.no_sync() if parallel and k < accumulate else contextlib.nullcontext():
            with autocast(device, dtype):
                found = model(piece.images, piece.targets, piece.plan)
            sums.append(found.sums.detach())
            if counts is None:
                watch.stop()
                total, counts = _over_ranks(num_ranks, sums[0], found.counts)
                sums = [total]
            # The mean over ranks, which DistributedDataParallel takes, is to be the sum.
            loss = divided(found.sums, counts).sum() * num_ranks
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if accumulate > 1:
        sums = _over_ranks(num_ranks, torch.stack(sums).sum(0))
    assert counts is not None
    return divided(sums[0], counts)


def _over_ranks(num_ranks: int, *parts: Tensor) -> list[Tensor]:
    """The sum over all ranks of each, in one exchange; with one rank, they themselves."""
    if num_ranks == 1:
        return list(parts)
    whole = torch.cat(parts)
    dist.all_reduce(whole)
    return list(torch.split_with_sizes(whole, [len(part) for part in parts]))


def _on(device: torch.device, target: Target) -> Target:
    def moved(name: str, of: Any = target) -> Tensor:
        tensor: Tensor = getattr(of, name).to(device, non_blocking=True)
        return tensor

    outlines = target.outlines
    if outlines is not None:
        names = (field.name for field in fields(outlines))
        outlines = Outlines(**{name: moved(name, outlines) for name in names})
    return replace(
        target,
        boxes=moved("boxes"),
        labels=moved("labels"),
        masks=moved("masks"),
        outlines=outlines,
    )


def _require_finite(steps: list[tuple[int, tuple[int, ...], Tensor]]) -> None:
    finite = torch.isfinite(torch.stack([total for _, _, total in steps])).tolist()
    for step, good in zip(steps, finite, strict=True):
        if not good:
            raise _non_finite(*step)


def _non_finite(
    step: int, image_ids: tuple[int, ...], total: Tensor, before: str = ""
) -> NonFiniteLossError:
    loss = total.item()
    what = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
    return NonFiniteLossError(
        f"{what} for images {', '.join(map(str, image_ids[:16]))}{before}",
        where=f"step {step + 1}",
        todo="look at these images with `raymrcnn data verify`, or lower optim.base_lr",
    )
