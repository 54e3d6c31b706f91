"""The nodes of the cluster: room for workers and for what scores beside them, and those to go."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import ray

from raymrcnn.device.accelerator import CPU, Accelerator
from raymrcnn.device.on_ray import num_workers_possible

NOTICE_LOOK_S = 1.0


def num_actors(accelerator: Accelerator, dead: int = 0) -> int:
    """One a card of the cluster but so many dead ones, and on CPUs one a machine."""
    possible = num_workers_possible(accelerator)
    return min(possible, _num_nodes()) if accelerator is CPU else possible - dead


def free_actors(accelerator: Accelerator, training: int, dead: int = 0) -> int:
    """How many actors there is room for beside so many workers, also while these start again."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    cores = int(free.get("CPU", 0)) - 1  # which Ray Data's own tasks take
    if accelerator is CPU:
        beside = num_workers_possible(accelerator) - training - 1
        return max(0, min(cores, beside, _num_nodes()))
    beside = num_workers_possible(accelerator) - dead - training
    return max(0, min(int(free.get(accelerator.ray_resource, 0)), beside, cores))


def nodes_labelled(labels: dict[str, str] | None) -> list[dict[str, Any]]:
    """The living nodes with these labels, as `ray.nodes()` tells them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    wanted = (labels or {}).items()
    return [node for node in nodes if node["Alive"] and wanted <= node["Labels"].items()]


def room(
    resources: dict[str, float],
    labels: dict[str, str] | None,
    leaving: Collection[str],
    without: Sequence[str] = (),
) -> int:
    """How many workers the nodes with these labels could hold.

    Args:
        resources: of a worker: a core, and a card if it takes one.
        labels: see `label_selector`.
        leaving: ids of nodes that are to go.
        without: for each card that is left out the id of its node.
    """

    def holds(node: dict[str, Any], name: str) -> float:
        left_out = 0 if name == CPU.ray_resource else without.count(node["NodeID"])
        return float(node["Resources"].get(name, 0.0)) - left_out

    return sum(
        min(int(holds(node, name) // each) for name, each in resources.items())
        for node in nodes_labelled(labels)
        if node["NodeID"] not in leaving
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
