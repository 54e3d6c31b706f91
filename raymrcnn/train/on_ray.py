"""A training run on Ray Train: one worker a card; progress to, and the wish to stop from, a board.

Ray starts, joins and restarts the workers. What a run is and how far it got stands in its own
folder: Ray's snapshot of a run lives in a folder of its own a start, and is never read again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn import storage
from raymrcnn.device.accelerator import ROWS
from raymrcnn.device.choice.on_ray import label_selector
from raymrcnn.device.on_ray import (
    CardError,
    card_errors,
    quiet_loggers,
    ray_session,
    torch_config,
    worker_device,
    worker_resources,
)
from raymrcnn.errors import OutputError, RaymrcnnError
from raymrcnn.train.board import BEAT_S, Beat, Board
from raymrcnn.train.checkpoint import prune
from raymrcnn.train.dead_cards.on_ray import DeadCards
from raymrcnn.train.failures.on_ray import WorkerError, cluster_errors, explained
from raymrcnn.train.job import Failures, PreparedJob
from raymrcnn.train.metrics import join_scores
from raymrcnn.train.nodes.on_ray import Notices, free_actors, num_actors
from raymrcnn.train.validation import Validate, Validation, to_keep
from raymrcnn.train.worker import Channel, train_worker

POLL_S = 0.2
WATCH_S = 2.0  # between looks for what hangs
GROW_LOOK_S = 10.0  # between looks for room
# How long room has to stand before it is used: Ray Train's own count of nodes may be 20 s old, and
# a group begun earlier would have no more workers than the one before.
SETTLED_S = 20.0
VALIDATION_LOOK_S = 1.0  # between looks for checkpoints to score
NEVER_S = 1e9
RAY_FOLDER = ".ray"  # Ray's own, of one start: never read


def run_training(
    prepared: PreparedJob,
    *,
    cluster: str | None,
    on_news: Callable[[dict[str, Any]], None],
    stop: threading.Event,
    failures: Failures = Failures(),  # noqa: B008 (frozen)
    validate: Validate | None = None,
) -> int:
    """Train on Ray and return the steps done: fewer than the recipe's after `stop` was set.

    A run that may have fewer workers goes on with those that are left when some are lost, from the
    newest checkpoint; when cards come it saves, and goes on with more. Cards that do no work are
    left out.

    Args:
        prepared: the run.
        cluster: see `ray_session`.
        on_news: called in this thread with each metrics record, and with {"note": text}.
        stop: set by the caller to have the run saved and ended.
        failures: what it lives through.
        validate: scores a checkpoint; needed where the recipe wants that.

    Raises:
        RaymrcnnError: of a worker, as it was raised there, or a RunError for its death.
    """
    job, done, tried = prepared.job, prepared.start, 0
    last, every = job.recipe.optim.max_iter, job.recipe.validate.every
    fewest = job.min_workers or job.workers
    accelerator = ROWS[job.accelerator]
    left: set[str] = set()
    dead = DeadCards(job, failures)
    # Ray is started here for the most, and joined wherever the fewest fit.
    number = fewest if ray.is_initialized() else job.workers
    with ray_session(cluster, accelerator, number, spare=1 if every else 0):
        validation = Validation(
            run=job.run_dir, every=every, last=last, validate=validate, on_news=on_news
        )
        try:
            while done < last and not stop.is_set():
                start = _Start(prepared, failures, tried, validation, left, dead)
                try:
                    done, tried = start.run(on_news, stop), start.grown_to
                except (CardError, WorkerError) as error:
                    with cluster_errors():
                        dead.survive(error, on_news, stop)
                    continue
                dead.count_anew()
                # What had no room beside training has it now.
                validation.run_due(num_actors(accelerator, dead.count()), stop.is_set)
            validation.run_due(num_actors(accelerator, dead.count()), stop.is_set)
        finally:
            validation.close()
            dead.close()
            if every:
                join_scores(job.run_dir)
                prune(job.run_dir, job.recipe.checkpoint.keep, to_keep(job.run_dir, every, last))
        return done


class _Start:
    """One group of workers after another, until the run is done, stopped, or could have more.

    Args:
        prepared: the run.
        failures: what it lives through.
        tried: workers that there was room for at the last start; for as many it is not tried again.
        validation: of its checkpoints.
        left: ids of nodes that are to go and were left; is added to.
        dead: the cards that the run goes on without.
    """

    def __init__(
        self,
        prepared: PreparedJob,
        failures: Failures,
        tried: int,
        validation: Validation,
        left: set[str],
        dead: DeadCards,
    ) -> None:
        self._job, self._failures, self._validation = prepared.job, failures, validation
        self._left, self._dead, self._notices = left, dead, Notices()
        self.grown_to, self._next_look, self._next_validation = tried, 0.0, 0.0
        self._room = (0, 0.0)  # workers that there is room for, and since when
        accelerator = ROWS[self._job.accelerator]
        # Beside the driver: on another host it would be lost with that host, and the run with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here)
        self._board: Any = actor.remote()
        fewest, most = self._job.min_workers, dead.most_workers()
        prepared = replace(prepared, left_out=dead.names())
        self._trainer = TorchTrainer(
            _worker,
            train_loop_config={"prepared": ray.put(prepared), "board": self._board},
            torch_config=torch_config(accelerator),
            scaling_config=ScalingConfig(  # type: ignore[call-arg]  # typed as Train V1's
                num_workers=most if fewest is None else (fewest, most),  # type: ignore[arg-type]
                # Ray would end a healthy group without a word; here it saves first.
                elastic_resize_monitor_interval_s=NEVER_S,
                resources_per_worker=worker_resources(accelerator),
                label_selector=label_selector(accelerator, self._job.card_model),
            ),
            run_config=RunConfig(
                name=f"start-{uuid.uuid4().hex[:12]}",
                **_ray_storage(storage.below(self._job.run_dir, RAY_FOLDER)),
                failure_config=FailureConfig(max_failures=dead.deaths_left_to_ray()),
            ),
        )

    def run(self, on_news: Callable[[dict[str, Any]], None], stop: threading.Event) -> int:
        """Run, and return the steps done.

        Raises:
            RaymrcnnError: of a worker, or for its death, or the cluster's.
        """
        try:
            with cluster_errors():
                return self._follow(on_news, stop)
        finally:
            self._notices.close()
            with contextlib.suppress(OutputError):
                storage.remove_below(str(storage.below(self._job.run_dir, RAY_FOLDER)))

    def _follow(self, on_news: Callable[[dict[str, Any]], None], stop: threading.Event) -> int:
        errors: list[BaseException] = []

        def fit() -> None:
            try:
                self._trainer.fit()
            except BaseException as error:
                errors.append(error)

        # In a thread: Ray then leaves Ctrl-C to the caller, who saves before ending.
        thread = threading.Thread(target=fit, name="raymrcnn-fit", daemon=True)
        thread.start()
        asked, looked = False, time.monotonic()
        while True:
            alive = thread.is_alive()
            news, fatal, done = ray.get(self._board.read.remote())
            for item in news:
                on_news(item)
            if fatal is not None:
                raise fatal  # Ray would try again what cannot succeed
            if not alive:
                break
            if not asked and (
                stop.is_set()
                or self._must_leave(on_news, stop)
                or self._could_grow(on_news)
                or self._must_wait(on_news)
            ):
                asked = True
                ray.get(self._board.stop.remote())
            if time.monotonic() - looked > WATCH_S:
                looked = time.monotonic()
                self._end_what_hangs(on_news)
            time.sleep(POLL_S)
        if errors:
            raise explained(errors[0]) from errors[0]
        assert done is not None, "a run that ended well says how far it got"
        return int(done)

    def _end_what_hangs(self, on_news: Callable[[dict[str, Any]], None]) -> None:
        limit = self._failures.hang_timeout_s
        for beat in ray.get(self._board.hung.remote(limit)):
            who = f"worker {beat.rank} on {beat.host}"
            on_news({"note": f"{who} hangs at step {beat.step}, {limit:g} s long: it is ended"})
            there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
            _end.options(scheduling_strategy=there).remote(beat.pid)

    def _could_grow(self, on_news: Callable[[dict[str, Any]], None]) -> bool:
        """Whether there is room for more workers than are at work, and was not at the start."""
        if self._job.min_workers is None or time.monotonic() < self._next_look:
            return False
        if self._validation.busy:  # on what there may be room for
            return False
        self._next_look = time.monotonic() + GROW_LOOK_S
        working: int = ray.get(self._board.workers.remote())
        number = min(self._dead.room(self._notices.now()), self._job.workers)
        # Where some are lost, others may come again.
        self.grown_to = min(self.grown_to, number)
        if not 0 < working < number or number <= self.grown_to:
            self._room = (0, 0.0)
            return False
        if number != self._room[0]:
            self._room = (number, time.monotonic())
        if time.monotonic() - self._room[1] < SETTLED_S:
            return False
        self.grown_to = number
        on_news(
            {"note": f"room for {number} workers, not {working} alone: saved, to go on with all"}
        )
        return True

    def _must_leave(self, on_news: Callable[[dict[str, Any]], None], stop: threading.Event) -> bool:
        """Whether a node that workers are on is to go; where it is the driver's, the run stops."""
        leaving = self._notices.now()
        new = leaving.keys() - self._left
        if not new:
            return False
        beats: list[Beat] = ray.get(self._board.beats.remote())
        hosts = {beat.node: beat.host for beat in beats if beat.node in new}
        for node, host in hosts.items():
            left_s = leaving[node]
            when = "" if left_s is None else f" in {max(left_s, 0):.0f} s"
            on_news({"note": f"{host} is to go{when}: saved, to go on elsewhere"})
        here = ray.get_runtime_context().get_node_id()
        if here in new:
            on_news({"note": "the machine of this command is to go: saved; run it again elsewhere"})
            stop.set()
        self._left |= hosts.keys() | ({here} & new)
        return bool(hosts)

    def _must_wait(self, on_news: Callable[[dict[str, Any]], None]) -> bool:
        """Have what is due scored beside training; True where nothing is free for that."""
        if time.monotonic() < self._next_validation:
            return False
        afar = isinstance(self._job.run_dir, str)  # each look is some requests
        self._next_validation = time.monotonic() + VALIDATION_LOOK_S * (10 if afar else 1)
        self._validation.look()
        if self._validation.busy:
            return False
        due = self._validation.due()
        if not due or due[0] == self._job.recipe.optim.max_iter:  # which training is done with
            return False
        free = free_actors(ROWS[self._job.accelerator], self._job.workers, self._dead.count())
        if free:
            self._validation.begin(due[0], free)
            return False
        on_news({"note": f"nothing is free to score step {due[0]}: training waits for it"})
        return True


def _ray_storage(folder: storage.Place) -> dict[str, Any]:
    """Where Ray Train writes what it must write."""
    if not isinstance(folder, str):
        return {"storage_path": str(folder)}
    system, path = storage.open_uri(folder)
    return {"storage_path": path, "storage_filesystem": system}


@ray.remote(num_cpus=0, max_retries=0)
def _end(pid: int) -> None:
    """End a process of this node; Ray Train notices, and starts its group again."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker process."""
    quiet_loggers()
    board, prepared = config["board"], config["prepared"]
    if isinstance(prepared, ray.ObjectRef):
        prepared = ray.get(prepared)
    context = get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        fatal = ray.get(board.begin.remote(world_size))
        if fatal is not None:
            raise fatal
        if prepared.job.min_workers is not None:
            unit = "worker" if world_size == 1 else "workers"
            board.tell.remote({"note": f"at work: {world_size} {unit}"})
    accelerator = ROWS[prepared.job.accelerator]
    device = worker_device(accelerator, context.get_local_world_size())
    stop = _polled(board)
    try:
        with card_errors(accelerator), _beating(board, rank) as at:
            done = train_worker(
                prepared,
                device,
                Channel(tell=board.tell.remote, stop_asked=lambda: next(stop), at=at),
                rank=rank,
                world_size=world_size,
            )
    except CardError:
        raise  # Ray starts the workers again, as long as `max_failures` allows
    except RaymrcnnError as error:
        ray.get(board.fail.remote(error))
        raise
    if rank == 0:
        ray.get(board.finish.remote(done))


@contextlib.contextmanager
def _beating(board: Any, rank: int) -> Iterator[Callable[[int | None], None]]:
    """Tell the board each second how far this worker is; yields what takes the steps done."""
    beat = Beat(
        rank=rank,
        host=socket.gethostname(),
        node=ray.get_runtime_context().get_node_id(),
        pid=os.getpid(),
        step=None,
    )
    over = threading.Event()

    def at(step: int | None) -> None:
        nonlocal beat
        beat = replace(beat, step=step)

    def beats() -> None:
        while not over.wait(BEAT_S):
            board.beat.remote(beat)

    thread = threading.Thread(target=beats, name="raymrcnn-beat", daemon=True)
    thread.start()
    try:
        yield at
    finally:
        over.set()
        thread.join()


def _polled(board: Any) -> Iterator[bool]:
    """The board's wish to stop, asked again when the last answer has come; never waits for it."""
    answer = board.stop_asked.remote()
    while True:
        ready, _ = ray.wait([answer], timeout=0)
        if ready:
            if ray.get(answer):
                while True:
                    yield True
            answer = board.stop_asked.remote()
        yield False
