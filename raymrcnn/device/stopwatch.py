"""How long a part of each step takes on a device, without waiting for the device."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Times one stretch of each step.

    An accelerator works behind the host, so moments are marked in its queue and read later, when it
    has passed them.

    Args:
        device: that does the work.
    """

    def __init__(self, device: torch.device) -> None:
        module = getattr(torch, device.type, None)
        self._event: Any = getattr(module, "Event", None) if device.type != "cpu" else None
        self._began: Any = None
        self._marks: list[tuple[Any, Any]] = []
        self._seconds, self._steps = 0.0, 0

    def start(self) -> None:
        """Mark the begin of a step's stretch."""
        self._began = self._now()

    def stop(self) -> None:
        """Mark its end; of several in one step the first counts."""
        if self._began is not None:
            began, self._began = self._began, None
            if self._event is not None:
                self._marks.append((began, self._now()))
            else:
                self._seconds += time.perf_counter() - began
                self._steps += 1

    def lap(self) -> float:
        """Mean seconds of the stretches since the last lap; 0.0 where there is none.

        Call it when losses of the last step were fetched: nothing is waited for.
        """
        for began, ended in self._marks:
            if ended.query():
                self._seconds += began.elapsed_time(ended) / 1000
                self._steps += 1
        mean = self._seconds / max(self._steps, 1)
        self._marks, self._seconds, self._steps = [], 0.0, 0
        return mean

    def _now(self) -> Any:
        if self._event is None:
            return time.perf_counter()
        event = self._event(enable_timing=True)
        event.record()
        return event
