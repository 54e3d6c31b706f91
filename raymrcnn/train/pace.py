"""Which worker is slow: it works on while the others wait for it.

In a step all workers end together, so their steps' times say nothing; what differs is how long each
takes from the begin of a step to its first exchange with the others.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

SLOW = 1.5  # times the others': it is named
AGAIN = 1.2  # below that it no longer is
LAPS = 3  # looked at together: one lap may have had the large images
LEAST_S = 0.005  # more than the others: less is no matter


@dataclass(frozen=True, kw_only=True)
class Lap:
    """What a worker took a step, since the last look."""

    own_s: float  # to the first exchange with others
    data_wait_s: float  # of it, for data


@dataclass
class Pace:
    """Compares the workers of one group.

    Args:
        hosts: of the workers, by rank.
    """

    hosts: Sequence[str]
    _laps: deque[Sequence[Lap]] = field(default_factory=lambda: deque(maxlen=LAPS))
    _named: int | None = None

    def take(self, laps: Sequence[Lap]) -> tuple[dict[str, float], str | None]:
        """Take the laps of all ranks; returns what a record says of it, and what to tell people."""
        self._laps.append(laps)
        own = [
            statistics.median(at[rank].own_s for at in self._laps)
            for rank in range(len(self.hosts))
        ]
        rank, times = slowest(own)
        record = {"slowest_worker": float(rank), "slowest_times": round(times, 3)}
        return record, self._told(rank, times, own, laps)

    def _told(self, rank: int, times: float, own: list[float], laps: Sequence[Lap]) -> str | None:
        if len(self._laps) < LAPS:
            return None
        before = self._named
        if before is not None and (rank != before or times < AGAIN):
            self._named = None
        others = statistics.median(own[:rank] + own[rank + 1 :])
        if self._named is None and times >= SLOW and own[rank] - others >= LEAST_S:
            self._named = rank
            return (
                f"{self._who(rank)} takes {times:.1f} times the others' time: {own[rank]:.2f} s a "
                f"step to their {others:.2f} s, {laps[rank].data_wait_s:.2f} s of it waiting for "
                "data"
            )
        if before is not None and self._named is None:
            return f"{self._who(before)} is no longer slow"
        return None

    def _who(self, rank: int) -> str:
        return f"worker {rank} on {self.hosts[rank]}"


def slowest(own_s: Sequence[float]) -> tuple[int, float]:
    """The rank that takes longest, and how many times the median of the others."""
    rank = max(range(len(own_s)), key=own_s.__getitem__)
    others = [*own_s[:rank], *own_s[rank + 1 :]]
    return rank, own_s[rank] / max(statistics.median(others), 1e-9)
