"""One worker's part of a training run: build, restore, drive the loop, log, save.

Without a process group it is the whole run in one process. Ray stands outside: progress goes out
and the wish to stop comes in through the two callables of `Channel`.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from raymrcnn.config import Recipe
from raymrcnn.data.loader import train_batches
from raymrcnn.device.accelerator import parse_dtype, row_of
from raymrcnn.device.numerics import peak_memory, seed_everything
from raymrcnn.device.on_ray import PROCESS_GROUP_TIMEOUT_S
from raymrcnn.device.stopwatch import Stopwatch
from raymrcnn.errors import OutputError
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.train.checkpoint import Checkpoint, load_newest
from raymrcnn.train.job import PreparedJob, fresh_model, initialise
from raymrcnn.train.loop import Step, StepOptions, require_finite, training_steps
from raymrcnn.train.metrics import Clock, MetricsWriter
from raymrcnn.train.optim import learning_rate
from raymrcnn.train.pace import Lap, Pace
from raymrcnn.train.saver import Saver
from raymrcnn.train.state import TrainState
from raymrcnn.train.validation import is_due, to_keep

_Told = TypeVar("_Told")


@dataclass(frozen=True, kw_only=True)
class Channel:
    """How a worker is heard and told to stop."""

    tell: Callable[[dict[str, Any]], None]  # a metrics record, or {"note": text}
    stop_asked: Callable[[], bool]
    # Called with the steps done, after each; with None where another work begins.
    at: Callable[[int | None], None] = lambda step: None


def train_worker(
    prepared: PreparedJob,
    device: torch.device,
    channel: Channel,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Train until the recipe's last step, or until asked to stop; save; return the steps done.

    Raises:
        RaymrcnnError: see `training_steps`, `prepare`, `save_checkpoint`.
    """
    job, recipe = prepared.job, prepared.job.recipe
    tell = channel.tell if rank == 0 else _silent
    seed_everything(recipe.seed)
    saved = load_newest(job.run_dir, lambda text: tell({"note": text}))
    model = fresh_model(recipe, len(prepared.dataset.index.categories))
    if saved is None:
        report = initialise(model, job)
        if report is not None:
            tell({"note": f"weights from {job.weights}: {report.summary()}"})
    model.train().to(device)
    if recipe.optim.compile:
        # The backbone alone: the heads' shapes change with every step.
        model.backbone.compile(dynamic=True)
    if recipe.optim.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainState(model, recipe.optim, device)
    if saved is not None:
        state.load_state_dict(saved.model, saved.optimizer)
    return _drive(prepared, model, state, saved, device, channel, rank, world_size)


def _drive(
    prepared: PreparedJob,
    model: MaskRCNN,
    state: TrainState,
    saved: Checkpoint | None,
    device: torch.device,
    channel: Channel,
    rank: int,
    world_size: int,
) -> int:
    job, recipe = prepared.job, prepared.job.recipe
    start = saved.step if saved else 0
    watch = Stopwatch(device)
    parallel = _data_parallel(model, device) if world_size > 1 else model
    batches = train_batches(
        prepared.dataset,
        recipe.seed,
        recipe.optim.batch_size,
        rank,
        world_size,
        start,
        recipe.data.loader_workers,
    )
    steps = training_steps(
        parallel,
        batches,
        state,
        lambda step: learning_rate(recipe.optim, step),
        start=start,
        stop=recipe.optim.max_iter,
        device=device,
        options=_options(recipe, device),
        watch=watch,
    )
    agreed = _Agreement(world_size)
    pace = Pace(agreed.all_of(socket.gethostname())) if world_size > 1 else None
    writer = MetricsWriter(job.run_dir, start, prepared.left_out) if rank == 0 else None
    due = partial(is_due, every=recipe.validate.every, last=recipe.optim.max_iter)
    stays = partial(to_keep, job.run_dir, recipe.validate.every, recipe.optim.max_iter)
    before = writer.publish if writer else _nothing
    saver = Saver(job.run_dir, prepared.info, recipe.checkpoint.keep, stays, before)
    clock = Clock(seconds_before=writer.seconds_before if writer else 0.0)
    done = start
    shown: Step | None = None  # the last that was not left out
    skipped: list[dict[str, Any]] = []  # since the last record
    try:
        for step in steps:
            done = step.index
            channel.at(done)
            clock.tick(step.data_wait_s)
            stopping = agreed.any(channel.stop_asked() if rank == 0 else False)
            last = done == recipe.optim.max_iter or stopping
            if step.skipped:
                skipped.append({"step": done, "images": step.image_ids})
                if rank == 0:
                    channel.tell({"note": f"step {done} left out: its loss is not finite"})
            else:
                shown = step
            if shown is not None and (done % recipe.log_every == 0 or due(done) or last):
                losses = {name: loss.item() for name, loss in shown.losses.items()}
                require_finite(shown, losses)
                figures = clock.lap(recipe.optim.batch_size)
                own = Lap(own_s=watch.lap(), data_wait_s=figures["data_wait_s"])
                laps = agreed.all_of(own) if pace is not None else []
                if writer is not None:
                    record = _record(step, losses, figures, prepared.dataset.epoch_size, recipe)
                    record |= {"checkpoint_wait_s": saver.lap(), **state.counts()}
                    record |= {"workers": world_size, "peak_memory_bytes": peak_memory(device)}
                    record |= {"left_out": skipped} if skipped else {}
                    if pace is not None:
                        compared, news = pace.take(laps)
                        record |= compared
                        if news is not None:
                            channel.tell({"note": news})
                    writer.write(record)
                    channel.tell(record)
                skipped = []
            if rank == 0 and (done % recipe.checkpoint.every == 0 or due(done) or last):
                channel.at(None)  # it may wait for a slow disk
                saver.save(done, state.usable_weights(), state.state_dict())
                channel.at(done)
            saver.look()
            if last:
                break
        channel.at(None)
        saver.close()
    except BaseException:
        with contextlib.suppress(OutputError):  # what went wrong first matters
            saver.close()
        raise
    finally:
        batches.close()  # type: ignore[attr-defined]  # a generator: ends its threads or processes
        if writer is not None:
            writer.close()
    return done


def _data_parallel(model: MaskRCNN, device: torch.device) -> nn.Module:
    # Every loss has a graph to every trainable parameter, whatever the batch holds, so no search
    # for unused parameters is needed; and the only buffers are statistics that never change.
    ids = None if device.type == "cpu" else [device]
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def _options(recipe: Recipe, device: torch.device) -> StepOptions:
    optim = recipe.optim
    return StepOptions(
        dtype=parse_dtype(optim.precision, row_of(device), "optim.precision"),
        accumulate=optim.accumulate,
        clip_grad_norm=optim.clip_grad_norm,
        skip_bad=optim.on_bad_loss == "skip",
        max_bad_steps=optim.max_bad_steps,
        check_every=_check_every(recipe, device),
    )


def _check_every(recipe: Recipe, device: torch.device) -> int:
    """On the CPU each step; elsewhere as often as the losses are fetched anyway.

    Divides the steps between checkpoints, so that none holds what a non-finite loss has spoilt.
    """
    if device.type == "cpu":
        return 1
    between = math.gcd(recipe.checkpoint.every, recipe.validate.every)
    return next(n for n in range(recipe.log_every, 0, -1) if between % n == 0)


class _Agreement:
    """What the ranks tell each other over the hosts' network, so that no device waits."""

    def __init__(self, world_size: int) -> None:
        # A peer that hangs is noticed here first: every rank asks each step.
        limit = datetime.timedelta(seconds=PROCESS_GROUP_TIMEOUT_S)
        self._group = dist.new_group(backend="gloo", timeout=limit) if world_size > 1 else None

    def all_of(self, mine: _Told) -> list[_Told]:
        """What each rank says, by rank."""
        if self._group is None:
            return [mine]
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, mine, group=self._group)
        return told

    def any(self, mine: bool) -> bool:
        """A yes of any rank is the yes of all."""
        if self._group is None:
            return mine
        flag = torch.tensor([int(mine)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())


def _record(
    step: Step,
    losses: dict[str, float],
    figures: dict[str, float],
    epoch_size: int,
    recipe: Recipe,
) -> dict[str, Any]:
    return {
        "step": step.index,
        "epoch": step.index * recipe.optim.batch_size / epoch_size,
        "lr": step.learning_rate,
        "loss": sum(losses.values()),
        **losses,
        **figures,
    }


def _silent(record: dict[str, Any]) -> None:
    """What a rank other than 0 tells."""


def _nothing() -> None:
    """What a rank other than 0 brings before a checkpoint."""
