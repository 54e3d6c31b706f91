"""A training run on Ray Train: one worker a card; progress to, and the wish to stop from, a board.

Ray starts, joins and restarts the workers. What a run is and how far it got stands in its own
folder: Ray's snapshot of a run lives in a folder of its own a start, and is never read again.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn.device.accelerator import ROWS
from raymrcnn.device.choice.on_ray import label_selector
from raymrcnn.device.on_ray import (
    CardError,
    card_errors,
    quiet_loggers,
    ray_session,
    told_error,
    torch_config,
    worker_device,
    worker_resources,
)
from raymrcnn.errors import RaymrcnnError, RunError
from raymrcnn.train.job import PreparedJob
from raymrcnn.train.worker import Channel, train_worker

POLL_S = 0.2
RAY_FOLDER = ".ray"


class Board:
    """What workers tell and the driver reads; and the wish to stop, the other way."""

    # ruff: noqa: D102 (each method is its name)

    def __init__(self) -> None:
        self._news: list[dict[str, Any]] = []
        self._fatal: RaymrcnnError | None = None
        self._stop = False
        self._done: int | None = None

    def tell(self, item: dict[str, Any]) -> None:
        self._news.append(item)

    def fail(self, error: RaymrcnnError) -> None:
        self._fatal = self._fatal or error

    def finish(self, done: int) -> None:
        self._done = done

    def stop(self) -> None:
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop

    def read(self) -> tuple[list[dict[str, Any]], RaymrcnnError | None, int | None]:
        news, self._news = self._news, []
        return news, self._fatal, self._done


def run_training(
    prepared: PreparedJob,
    *,
    cluster: str | None,
    on_news: Callable[[dict[str, Any]], None],
    stop: threading.Event,
    max_failures: int = 3,
) -> int:
    """Train on Ray and return the steps done: fewer than the recipe's after `stop` was set.

    Args:
        prepared: the run.
        cluster: see `ray_session`.
        on_news: called in this thread with each metrics record, and with {"note": text}.
        stop: set by the caller to have the run saved and ended.
        max_failures: worker deaths after which the run goes on from its newest checkpoint.

    Raises:
        RaymrcnnError: of a worker, as it was raised there, or a RunError for its death.
    """
    job = prepared.job
    accelerator = ROWS[job.accelerator]
    with ray_session(cluster, accelerator, job.workers):
        # Beside the driver: on another host it would be lost with that host, and the run with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
        storage = job.run_dir / RAY_FOLDER
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"prepared": ray.put(prepared), "board": board},
            torch_config=torch_config(accelerator),
            scaling_config=ScalingConfig(  # type: ignore[call-arg]  # typed as Train V1's
                num_workers=job.workers,
                resources_per_worker=worker_resources(accelerator),
                label_selector=label_selector(accelerator, job.card_model),
            ),
            run_config=RunConfig(
                name=f"start-{uuid.uuid4().hex[:12]}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            return _follow(trainer, board, on_news, stop)
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _follow(
    trainer: TorchTrainer,
    board: Any,
    on_news: Callable[[dict[str, Any]], None],
    stop: threading.Event,
) -> int:
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    # In a thread: Ray then leaves Ctrl-C to the caller, who saves before ending.
    thread = threading.Thread(target=fit, name="raymrcnn-fit", daemon=True)
    thread.start()
    asked = False
    done: int | None = None
    while True:
        alive = thread.is_alive()
        news, fatal, done = ray.get(board.read.remote())
        for item in news:
            on_news(item)
        if fatal is not None:
            raise fatal  # Ray would try again what cannot succeed
        if not alive:
            break
        if stop.is_set() and not asked:
            asked = True
            ray.get(board.stop.remote())
        time.sleep(POLL_S)
    if failures:
        raise _explained(failures[0]) from failures[0]
    assert done is not None, "a run that ended well says how far it got"
    return done


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker process."""
    quiet_loggers()
    board, prepared = config["board"], config["prepared"]
    if isinstance(prepared, ray.ObjectRef):
        prepared = ray.get(prepared)
    context = get_context()
    accelerator = ROWS[prepared.job.accelerator]
    device = worker_device(accelerator, context.get_local_world_size())
    stop = _polled(board)
    try:
        with card_errors(accelerator):
            done = train_worker(
                prepared,
                device,
                Channel(tell=board.tell.remote, stop_asked=lambda: next(stop)),
                rank=context.get_world_rank(),
                world_size=context.get_world_size(),
            )
    except CardError:
        raise  # Ray starts the workers again, as long as `max_failures` allows
    except RaymrcnnError as error:
        ray.get(board.fail.remote(error))
        raise
    if context.get_world_rank() == 0:
        ray.get(board.finish.remote(done))


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


def _explained(error: BaseException) -> RaymrcnnError:
    """One line for what Ray Train raised."""
    workers = getattr(error, "worker_failures", {})
    # Of several workers one tells what went wrong, and the others that they lost a peer.
    for failure in (*workers.values(), error):
        told = told_error(failure)
        if told is not None:
            return told
    for rank, failure in sorted(workers.items()):
        lines = [line for line in str(failure).splitlines() if line.strip()]
        return RunError(
            f"worker {rank} failed: {lines[-1].strip() if lines else type(failure).__name__}",
            todo=f"run the same command again to go on; Ray's logs: {_log_folder()}",
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunError(
        f"Ray Train failed: {lines[-1].strip() if lines else type(error).__name__}",
        todo=f"run the same command again to go on; Ray's logs: {_log_folder()}",
    )


def _log_folder() -> str:
    return os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
