"""What the workers of a run tell and its driver reads, and the wish to stop, the other way.

Lives in an actor beside the driver; knows neither Ray nor the network. Every worker beats once a
second and says how many steps it has done, so that one that hangs can be named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymrcnn.errors import RaymrcnnError

BEAT_S = 1.0
SILENT_S = 5 * BEAT_S  # a process that beats no more is stopped, or cut off


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A worker's word of itself."""

    rank: int
    host: str
    node: str  # Ray's id of it
    pid: int
    step: int | None  # done since the run began; None: not at work on steps


@dataclass(frozen=True)
class _Heard:
    beat: Beat
    at: float  # when it came
    moved: float  # when its step was last another


class Board:
    """The news of one start of a run.

    Args:
        clock: seconds.
    """

    # ruff: noqa: D102 (each method is its name)

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._news: list[dict[str, Any]] = []
        self._fatal: RaymrcnnError | None = None
        self._stop = False
        self._done: int | None = None
        self._workers = 0
        self._heard: dict[int, _Heard] = {}

    def begin(self, workers: int) -> RaymrcnnError | None:
        """A group of workers starts; returns the error that no other group would mend."""
        self._workers, self._heard = workers, {}
        return self._fatal

    def tell(self, item: dict[str, Any]) -> None:
        self._news.append(item)

    def beat(self, beat: Beat) -> None:
        now, before = self._clock(), self._heard.get(beat.rank)
        still = before is not None and before.beat == beat
        self._heard[beat.rank] = _Heard(beat, now, before.moved if before and still else now)

    def fail(self, error: RaymrcnnError) -> None:
        self._fatal = self._fatal or error

    def finish(self, done: int) -> None:
        self._done = done

    def stop(self) -> None:
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop

    def workers(self) -> int:
        """Of the group at work; 0 before the first."""
        return self._workers

    def beats(self) -> list[Beat]:
        """The last of each worker of the group."""
        return [heard.beat for heard in self._heard.values()]

    def read(self) -> tuple[list[dict[str, Any]], RaymrcnnError | None, int | None]:
        news, self._news = self._news, []
        return news, self._fatal, self._done

    def hung(self, limit_s: float) -> list[Beat]:
        """The workers that hold up the others: none has done a step for so long.

        Those whose processes are silent; else those that are behind; else all. A group is watched
        once each of its workers has done a step: the first may take long.
        """
        heard = list(self._heard.values())
        if len(heard) < max(self._workers, 1) or any(h.beat.step is None for h in heard):
            return []
        now = self._clock()
        if now - max(h.moved for h in heard) <= limit_s:
            return []
        self._heard = {}  # told once
        silent = [h.beat for h in heard if now - h.at > SILENT_S]
        least = min(h.beat.step or 0 for h in heard)
        return silent or [h.beat for h in heard if h.beat.step == least]
