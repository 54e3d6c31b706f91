"""How often a piece of a job was begun; lives in an actor beside the driver, and knows no Ray.

Ray gives an actor that died its work again, for ever, as it may have died with its node. Here what
ends each process that works on it is found out.
"""

from __future__ import annotations

from collections import Counter

MOST_TRIES = 5  # of a block, or of an image by decode workers


class Tries:
    """Counts for all actors of a job."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, work: str) -> bool:
        """Count one more try of a piece of work; whether it may be made."""
        self._begun[work] += 1
        return self._begun[work] <= MOST_TRIES
