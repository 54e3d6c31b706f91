"""Processes with simulated cards, for the tests beside this file.

The process that pytest runs in never imports the simulator: other tests must not see a device
type "mlu" in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def build_module() -> ModuleType:
    """torch_mlu/build.py by itself: importing the package would register the backend here."""
    spec = importlib.util.spec_from_file_location("mlu_build", HERE / "torch_mlu/build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Card:
    """A process that runs functions of this file by name."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from fakes.cards import serve; serve()"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process with the cards died in {name}"
        fault = json.loads(line)
        if fault:
            pytest.fail(fault, pytrace=False)


def on_card(test: Callable[[], None]) -> Callable[[Card], None]:
    """Runs a test in the process with the cards."""

    def outside(card: Card) -> None:
        card.run(f"{test.__module__}:{test.__name__}")

    outside.__name__ = outside.__qualname__ = test.__name__
    outside.inside = test  # type: ignore[attr-defined]
    return outside


def serve() -> None:
    """Reads names of tests, runs them, answers with null or what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import torch_mlu  # noqa: F401

    for line in sys.stdin:
        fault = None
        try:
            module, name = line.strip().split(":")
            getattr(importlib.import_module(module), name).inside()
        except BaseException:
            fault = traceback.format_exc()
        answers.write(json.dumps(fault) + "\n")
        answers.flush()


def start(function: Callable[..., None], env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """Starts a process that calls a function of a test file."""
    call = f"import {function.__module__} as m, sys; m.{function.__name__}(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", call, *words],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for the end of a process, which must be a good one."""
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Variables that the C++ side sees as well."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def warned(call: Callable[[], Any]) -> list[str]:
    """What a call warns of falling back."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if "fall back to run on the CPU" in str(w.message)]
