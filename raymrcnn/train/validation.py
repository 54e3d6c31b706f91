"""Scores of checkpoints while training goes on: which are due, what they got, which is the best.

`validation.json` in the run folder holds what was scored; a checkpoint that is due and not in it
is kept, whatever else is pruned, and scored by this start or by the next. How one is scored is
handed in from above: this module knows neither inference nor Ray.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, RaymrcnnError
from raymrcnn.storage import Place
from raymrcnn.train.checkpoint import committed_steps

MAX_TRIES = 3  # of one checkpoint, in one start of a run
CANCEL_S = 20.0


class Cancelled(Exception):
    """What a scoring raises once it saw that it is no longer wanted."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A checkpoint to be scored."""

    checkpoint: Place
    predictions: Place  # folder, which may hold what an earlier try did
    workers: int
    cancelled: Callable[[], bool]  # to be asked now and then; then raise `Cancelled`


# Returns scores.json's document: {"bbox": {"AP": ...}, "segm": {...}, ...}.
Validate = Callable[[Wanted], dict[str, Any]]


def is_due(step: int, every: int, last: int) -> bool:
    """Whether the checkpoint of a step is to be scored; the last one always is."""
    return every > 0 and (step % every == 0 or step == last)


def validated(run: Place) -> dict[int, dict[str, Any]]:
    """What was scored: by step, the summaries by kind, images and seconds; {} where nothing was.

    Raises:
        DataError: validation.json is damaged.
    """
    path = storage.below(run, rundir.VALIDATION_JSON)
    if not storage.exists(path):
        return {}
    document = storage.read_json(path)
    try:
        return {int(step): dict(record) for step, record in document["steps"].items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        raise DataError(
            "is not what a run wrote",
            where=str(path),
            todo="delete it: checkpoints are scored anew",
        ) from None


def steps_due(run: Place, every: int, last: int) -> list[int]:
    """Steps of committed checkpoints that are to be scored and are not, oldest first."""
    if not every:
        return []
    scored = validated(run)
    return [s for s in committed_steps(run) if is_due(s, every, last) and s not in scored]


def to_keep(run: Place, every: int, last: int) -> set[int]:
    """Steps of checkpoints that stay whatever their age: those due and not scored, and the best."""
    waiting, best = set(steps_due(run, every, last)), best_step(validated(run))
    return waiting if best is None else waiting | {best}


def best_step(scored: dict[int, dict[str, Any]]) -> int | None:
    """The step of the highest mask AP, the earliest of equals; None where none has one."""
    aps = {step: quality(record) for step, record in scored.items()}
    known = {step: ap for step, ap in aps.items() if ap is not None}
    return min(known, key=lambda step: (-known[step], step)) if known else None


def quality(record: dict[str, Any]) -> float | None:
    """Mask AP of a record, 0 to 1; None where it has none."""
    ap = record.get("segm", {}).get("AP")
    return ap if isinstance(ap, float) and ap >= 0 else None


@dataclass
class Validation:
    """The scoring of one run's checkpoints, one at a time, in a thread.

    Args:
        run: the run folder.
        every: steps between scored checkpoints; 0: none is.
        last: the step that the run ends with.
        validate: scores one.
        on_news: called with {"note": text} and {"step": step, "validation": record}.
    """

    run: Place
    every: int
    last: int
    validate: Validate | None
    on_news: Callable[[dict[str, Any]], None]
    _thread: threading.Thread | None = None
    _step: int = 0
    _outcome: list[Any] = field(default_factory=list)
    _tries: dict[int, int] = field(default_factory=dict)
    _cancel: threading.Event = field(default_factory=threading.Event)

    def due(self) -> list[int]:
        """Steps of committed checkpoints that wait to be scored, oldest first."""
        due = steps_due(self.run, self.every, self.last)
        return [step for step in due if step != self._running()]

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being scored."""
        return self._thread is not None

    def begin(self, step: int, workers: int) -> None:
        """Start to score a checkpoint."""
        assert self._thread is None, "one at a time"
        name = rundir.step_name(step)
        wanted = Wanted(
            checkpoint=storage.below(self.run, rundir.CHECKPOINTS, name),
            predictions=storage.below(self.run, rundir.VALIDATION, name),
            workers=workers,
            cancelled=self._cancel.is_set,
        )
        self._step, self._outcome = step, []
        self._thread = threading.Thread(
            target=self._score, args=(wanted,), name="raymrcnn-validation", daemon=True
        )
        self._thread.start()

    def look(self) -> None:
        """Take what a scoring ended with, if it has ended.

        Raises:
            OutputError: the disk refuses.
        """
        if self._thread is None or self._thread.is_alive():
            return
        self._thread.join()
        self._thread, step = None, self._step
        (outcome,) = self._outcome
        if isinstance(outcome, dict):
            self._record(step, outcome)
        elif not self._cancel.is_set():
            self._failed(step, outcome)

    def run_due(self, workers: int, cancelled: Callable[[], bool]) -> None:
        """Score all that are due, and wait for it; ends early once `cancelled`."""
        while not cancelled():
            self.look()
            if not self.busy:
                due = self.due()
                if not due:
                    return
                self.begin(due[0], workers)
            time.sleep(0.1)
        self.close()

    def close(self) -> None:
        """End a scoring; what it did stays in its folder, for the next start."""
        self._cancel.set()
        if self._thread is not None:
            self._thread.join(CANCEL_S)
            if not self._thread.is_alive():
                self.look()
            self._thread = None  # else it ends with the session that it works in

    def _running(self) -> int | None:
        return self._step if self._thread is not None else None

    def _score(self, wanted: Wanted) -> None:
        began = time.perf_counter()
        try:
            assert self.validate is not None, "a recipe that wants scores comes with what scores"
            document = self.validate(wanted)
            self._outcome = [{**document, "seconds": round(time.perf_counter() - began, 3)}]
        except BaseException as error:  # told in the driver's thread
            self._outcome = [error]

    def _failed(self, step: int, error: BaseException) -> None:
        tries = self._tries[step] = self._tries.get(step, 0) + 1
        kind = "" if isinstance(error, RaymrcnnError) else f"{type(error).__name__}: "
        line = kind + (str(error).strip().splitlines() or [""])[0][:300]
        if tries < MAX_TRIES:
            self.on_news({"note": f"step {step} was not scored ({line}): tried again"})
            return
        self.on_news({"note": f"step {step} is not scored: {line}"})
        self._record(step, {"error": line})

    def _record(self, step: int, record: dict[str, Any]) -> None:
        scored = validated(self.run) | {step: record}
        best = best_step(scored)
        if best is not None:  # first: a checkpoint in validation.json alone may be pruned
            name = rundir.step_name(best)
            where = storage.below(self.run, rundir.BEST)
            storage.write_text(where, f"{rundir.CHECKPOINTS}/{name}\n")
        document = {"best": best, "steps": {str(s): scored[s] for s in sorted(scored)}}
        storage.write_json(storage.below(self.run, rundir.VALIDATION_JSON), document)
        self._prune(best, max(scored))
        if "error" not in record:
            self.on_news({"step": step, "validation": record, "best": best == step})

    def _prune(self, best: int | None, newest: int) -> None:
        """Leave of older predictions what is small: their scores and their drawn images."""
        stay = {rundir.step_name(s) for s in (best, newest, self._running()) if s is not None}
        small = (rundir.SCORES, rundir.OVERLAYS, rundir.LOCK)
        folder = storage.below(self.run, rundir.VALIDATION)
        with contextlib.suppress(OSError, RaymrcnnError):  # room, not truth
            for name in storage.files_below(str(folder)):
                step, _, rest = name.partition("/")
                if step not in stay and rest.partition("/")[0] not in small:
                    storage.remove(str(storage.below(folder, name)))
