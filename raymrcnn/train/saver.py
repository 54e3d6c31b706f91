"""Checkpoints written from a thread: training waits for a copy of its state, not for the disk.

One is written at a time: who saves faster than the disk takes it waits for the one before. An error
of the disk is raised where training next looks, and at the latest at the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from raymrcnn.storage import Place
from raymrcnn.structures import ModelInfo
from raymrcnn.train.checkpoint import save_checkpoint


class Saver:
    """Writes the checkpoints of one run.

    Args:
        run: the run folder.
        info: of the model, for each checkpoint.
        keep: checkpoints that stay.
        also: tells the steps of others that stay.
        before: brings what else must be there before a checkpoint counts.
    """

    def __init__(
        self,
        run: Place,
        info: ModelInfo,
        keep: int,
        also: Callable[[], Collection[int]] = lambda: (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._info, self._keep, self._also = run, info, keep, also
        self._before = before
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._waited_s = 0.0

    def save(self, step: int, weights: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Have the state of a step written; what is given may change when this returns.

        Raises:
            OutputError: the disk refused an earlier one.
        """
        began = time.perf_counter()
        self._join()
        copied = {name: _on_host(tensor) for name, tensor in weights.items()}
        arguments = (step, copied, _copy(rest))
        # Not a daemon: a process that ends in order has written what it began.
        self._thread = threading.Thread(target=self._write, args=arguments, name="raymrcnn-saver")
        self._thread.start()
        self._waited_s += time.perf_counter() - began

    def look(self) -> None:
        """Raise what a write has failed with; waits for nothing.

        Raises:
            OutputError: the disk refused.
        """
        if self._error is not None:
            self._join()

    def lap(self) -> float:
        """Seconds that training waited for checkpoints since the last call."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def close(self) -> None:
        """Wait for the last one; raises as `look`."""
        began = time.perf_counter()
        self._join()
        self._waited_s += time.perf_counter() - began

    def _write(self, step: int, weights: dict[str, Tensor], rest: dict[str, Any]) -> None:
        try:
            also = self._also()
            save_checkpoint(
                self._run, step, weights, rest, self._info, self._keep, also, self._before
            )
        except BaseException as error:  # raised again in the thread that trains
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _on_host(tensor: Tensor) -> Tensor:
    """A copy, also of what is on the host already: training goes on changing it."""
    return tensor.detach().to("cpu", copy=True)


def _copy(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return _on_host(item)
    if isinstance(item, Mapping):
        return {key: _copy(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(_copy(value) for value in item)
    return item
