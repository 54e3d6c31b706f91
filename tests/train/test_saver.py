"""Checkpoints from a thread: what was given counts, one at a time, errors come back."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raymrcnn.errors import OutputError
from raymrcnn.structures import ModelInfo
from raymrcnn.train import saver as module
from raymrcnn.train.checkpoint import committed_steps, load_newest
from raymrcnn.train.saver import Saver

INFO = ModelInfo(categories=())


def rest(value: float) -> dict[str, Any]:
    return {"optimizer": {"state": {0: {"momentum": torch.full((2,), value)}}, "betas": (0.9, 0.1)}}


def test_what_changes_after_the_call_does_not_reach_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    real = module.save_checkpoint
    monkeypatch.setattr(module, "save_checkpoint", lambda *a: (go.wait(10), real(*a)))
    weights, others = {"w": torch.ones(3)}, rest(1.0)
    saver = Saver(tmp_path, INFO, keep=3)
    saver.save(1, weights, others)  # returns while the thread has not begun to write
    weights["w"].fill_(7)
    others["optimizer"]["state"][0]["momentum"].fill_(7)
    go.set()
    saver.close()
    found = load_newest(tmp_path, lambda text: None)
    assert found is not None
    assert found.model["w"].tolist() == [1.0] * 3
    assert found.optimizer["optimizer"]["state"][0]["momentum"].tolist() == [1.0] * 2
    assert found.optimizer["optimizer"]["betas"] == (0.9, 0.1)


def test_one_is_written_at_a_time_and_waiting_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[int] = []

    def slow(run: Path, step: int, *others: Any) -> None:
        assert not at_work
        at_work.append(step)
        time.sleep(0.2)
        at_work.remove(step)

    monkeypatch.setattr(module, "save_checkpoint", slow)
    saver = Saver(tmp_path, INFO, keep=3)
    saver.save(1, {}, {})
    assert saver.lap() < 0.15
    saver.save(2, {}, {})
    assert saver.lap() >= 0.15
    saver.close()
    assert saver.lap() >= 0.15


def test_an_error_of_the_disk_comes_back_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OutputError("cannot write (No space left on device)", where=str(tmp_path))

    monkeypatch.setattr(module, "save_checkpoint", refuse)
    saver = Saver(tmp_path, INFO, keep=3)
    saver.look()
    saver.save(1, {}, {})
    while saver._error is None:
        time.sleep(0.01)
    with pytest.raises(OutputError, match="No space left on device"):
        saver.look()
    saver.close()  # told once
    saver.save(2, {}, {})
    with pytest.raises(OutputError, match="No space left on device"):
        saver.close()
    assert committed_steps(tmp_path) == []
