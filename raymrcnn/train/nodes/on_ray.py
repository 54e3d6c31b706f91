"""The nodes of the cluster: room for workers and for what scores beside them, and those to go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from typing import Any

import ray

from raymrcnn.device.accelerator import CPU, Accelerator
from raymrcnn.device.on_ray import num_workers_possible

NOTICE_LOOK_S = 1.0


def num_actors(accelerator: Accelerator) -> int:
    """One a card of the cluster, and on CPUs one a machine."""
    possible = num_workers_possible(accelerator)
    return min(possible, _num_nodes()) if accelerator is CPU else possible


def free_actors(accelerator: Accelerator, training: int) -> int:
    """How many actors there is room for beside so many workers, also while these start again."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    cores = int(free.get("CPU", 0)) - 1  # which Ray Data's own tasks take
    if accelerator is CPU:
        beside = num_workers_possible(accelerator) - training - 1
        return max(0, min(cores, beside, _num_nodes()))
    beside = num_workers_possible(accelerator) - training
    return max(0, min(int(free.get(accelerator.ray_resource, 0)), beside, cores))


def room(
    resources: dict[str, float], labels: dict[str, str] | None, leaving: Collection[str]
) -> int:
    """How many workers the nodes with these labels could hold, but those that are to go."""
    wanted = (labels or {}).items()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(
        min(int(node["Resources"].get(name, 0.0) // each) for name, each in resources.items())
        for node in nodes
        if node["Alive"] and node["NodeID"] not in leaving and wanted <= node["Labels"].items()
    )


class Notices:
    """The nodes that are to go, looked for in a thread: a head that died keeps who asks waiting."""

    def __init__(self) -> None:
        self._found: dict[str, float | None] = {}
        self._over = threading.Event()
        threading.Thread(target=self._look, name="raymrcnn-notices", daemon=True).start()

    def now(self) -> dict[str, float | None]:
        """Seconds until each node goes, by its id; None: not known."""
        return self._found

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(NOTICE_LOOK_S):
            # A cluster that is lost is noticed where work is asked of it.
            with contextlib.suppress(Exception):
                self._found = draining()


def draining() -> dict[str, float | None]:
    """See `Notices`."""
    # As Ray Train looks for them, from a thread too; there is no public call.
    from ray._private.state import state

    found: dict[str, int] = state.get_draining_nodes()
    now_ms = time.time() * 1000
    return {
        node: (deadline_ms - now_ms) / 1000 if deadline_ms else None
        for node, deadline_ms in found.items()
    }


def _num_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
