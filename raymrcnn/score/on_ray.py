"""Scoring on a cluster: each task matches a few files, the driver merges their small states.

Ground truth travels to each node once, through the object store; detections never do, they are
read where they are matched. The driver holds the states alone, some 800 bytes an image.
This module refuses to start Ray: the caller did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray

from raymrcnn.device.failures.on_ray import ray_errors
from raymrcnn.score.coco import Scores, merge
from raymrcnn.score.files import (
    Asked,
    Images,
    Place,
    State,
    match_parts,
    match_undetected,
    part_files,
    refuse_repeated,
    undetected,
)
from raymrcnn.score.truth import GroundTruth, Ints

_TASKS_PER_CPU = 4  # small enough tasks that no core waits long for the last one
_MOST_FILES = 16
_EARLY_FILES = 4  # matched in one task while a job goes on
_UNDETECTED_AT_ONCE = 4096


class EarlyMatching:
    """Matches parts of a job while others are still being made.

    What a task finds, an error too, is looked at in `match_predictions` alone, so that nothing here
    stops the job. Where the job has taken all CPUs the tasks wait for its end.

    Args:
        truth: the ground truth; it is pickled once.
        asked: how to match.
    """

    def __init__(self, truth: GroundTruth, asked: Asked = Asked()) -> None:  # noqa: B008 (frozen)
        self.truth_ref = ray.put(truth)
        self.paths: set[Place] = set()
        self.tasks: list[Any] = []
        self._asked = asked
        self._waiting: list[Place] = []

    def add(self, path: Place) -> None:
        """A part that is committed."""
        self._waiting.append(path)
        if len(self._waiting) >= _EARLY_FILES:
            self.start()

    def start(self) -> None:
        """Match the parts that were added since."""
        if self._waiting:
            task = _match_parts.remote(self._waiting, self.truth_ref, self._asked)
            self.tasks.append(task)
            self.paths.update(self._waiting)
            self._waiting = []


def score_predictions(
    folder: Place,
    truth: GroundTruth,
    *,
    images: Images = "all",
    asked: Asked = Asked(),  # noqa: B008 (frozen)
    early: EarlyMatching | None = None,
    max_tasks: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """The scores of a predictions folder; arguments and errors as of `match_predictions`."""
    states, _ = match_predictions(
        folder,
        truth,
        images=images,
        asked=asked,
        early=early,
        max_tasks=max_tasks,
        progress=progress,
    )
    return merge(states)


@ray_errors("scoring failed", "run the same command again")
def match_predictions(
    folder: Place,
    truth: GroundTruth,
    *,
    images: Images = "all",
    asked: Asked = Asked(),  # noqa: B008 (frozen)
    early: EarlyMatching | None = None,
    max_tasks: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[State], Ints]:
    """The states and image ids of a predictions folder, matched in Ray tasks of one CPU each.

    Args:
        folder: with `part-*.parquet`, a URI or at the same path on all nodes.
        truth: the ground truth; it is pickled once.
        images: which count: "all" of the ground truth, those "predicted" that have a row, or
            those of these ids (int64); without a row, an image has no detections.
        asked: how to match.
        early: what was matched before, in the same way.
        max_tasks: how many run at a time; by default one for each CPU of the cluster.
        progress: called with the number of files that are done, and of all.

    Raises:
        DataError: as `score_parts`.
        RunError: Ray or a task failed otherwise.
    """
    paths = part_files(folder)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    at_once = max_tasks or max(1, int(resources.get("CPU", 1)))
    early = early or EarlyMatching(truth, asked)
    early.start()
    truth_ref = early.truth_ref
    left = [path for path in paths if path not in early.paths]
    size = min(_MOST_FILES, max(1, len(left) // (_TASKS_PER_CPU * at_once)))
    groups = [left[i : i + size] for i in range(0, len(left), size)]

    states: list[State] = []
    found: list[Ints] = []
    done = 0
    calls = ((group, truth_ref, asked) for group in groups)
    for state, ids, num_files in _run(_match_parts, calls, at_once, early.tasks):
        states.append(state)
        found.append(ids)
        done += num_files
        if progress:
            progress(done, len(paths))
    predicted = np.concatenate(found)
    refuse_repeated(predicted, str(folder))
    rows = undetected(truth, predicted, images)
    pieces = [rows[i : i + _UNDETECTED_AT_ONCE] for i in range(0, len(rows), _UNDETECTED_AT_ONCE)]
    empty = ((piece, truth_ref, asked) for piece in pieces)
    states.extend(_run(_match_undetected, empty, at_once))
    return states, np.concatenate([predicted, truth.image_ids[rows]])


@ray.remote(num_cpus=1)
def _match_parts(
    paths: Sequence[Place], truth: GroundTruth, asked: Asked
) -> tuple[State, Ints, int]:
    _one_thread()
    state, ids = match_parts(paths, truth, asked)
    return state, ids, len(paths)


@ray.remote(num_cpus=1)
def _match_undetected(rows: Ints, truth: GroundTruth, asked: Asked) -> State:
    _one_thread()
    return match_undetected(rows, truth, asked)


def _one_thread() -> None:
    """Keep the matcher to the one CPU that its task asked for."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")


def _run(
    function: Any, calls: Iterable[tuple[Any, ...]], at_once: int, started: Sequence[Any] = ()
) -> Iterator[Any]:
    """Results of remote calls as they come, never more than `at_once` under way.

    Those that were `started` before come among them.
    """
    waiting = iter(calls)
    running: list[Any] = list(started)
    try:
        while True:
            while len(running) < at_once and (arguments := next(waiting, None)) is not None:
                running.append(function.remote(*arguments))
            if not running:
                return
            (ready, *_), running = ray.wait(running, num_returns=1)
            yield ray.get(ready)
    finally:
        for call in running:
            ray.cancel(call)
