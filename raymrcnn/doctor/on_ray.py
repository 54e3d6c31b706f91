"""The same checks on every node of a cluster, and what only a cluster can have wrong.

Each node checks itself in a task that runs there. Refuses to repair anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn.device.accelerator import CPU, MLU
from raymrcnn.device.mlu_workers.on_ray import require_numbered_cards
from raymrcnn.device.on_ray import num_workers_possible, ray_session
from raymrcnn.doctor.findings import Finding, fail, ok, warn
from raymrcnn.doctor.host import host_findings
from raymrcnn.doctor.trial import trial_findings
from raymrcnn.errors import RaymrcnnError

MOST_SKEW_S = 1.0
CLOCK_TRIES = 5
NODE_LIMIT_S = 600.0


def cluster_findings(cluster: str, data: str | None, *, trial: bool) -> list[Finding]:
    """Of all living nodes, by their addresses, then of the whole.

    Args:
        cluster: see `ray_session`.
        data: a folder that every node must see; None: none.
        trial: whether cards are put to work.

    Raises:
        ClusterError: no cluster answers.
    """
    with ray_session(cluster, CPU, 0):
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [node for node in nodes if node["Alive"]]
        asked = [(node["NodeManagerAddress"], _ask(node, data, trial)) for node in alive]
        found: list[Finding] = []
        skew: dict[str, float] = {}
        for address, (clock, checks) in asked:
            found += _of_node(address, clock, checks, skew)
        return [*found, *_of_cluster(alive, skew)]


def _ask(node: dict[str, Any], data: str | None, trial: bool) -> tuple[Any, Any]:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    asks = _clock.options(scheduling_strategy=there)
    best = (float("inf"), 0.0)
    for _ in range(CLOCK_TRIES):  # the first waits for a process to start
        began = time.time()
        clock = ray.get(asks.remote(), timeout=NODE_LIMIT_S)
        ended = time.time()
        # Half of the way there and back is what the answer is old.
        best = min(best, (ended - began, clock - (began + ended) / 2))
    return best[1], _check.options(scheduling_strategy=there).remote(data, trial)


def _of_node(address: str, clock: float, checks: Any, skew: dict[str, float]) -> list[Finding]:
    skew[address] = clock
    try:
        found: list[Finding] = ray.get(checks, timeout=NODE_LIMIT_S)
    except ray.exceptions.RayError as error:
        last = (str(error).strip().splitlines() or ["no word"])[-1]
        found = [fail("node", f"does not answer: {last[:160]}", "look at its raylet's log")]
    return [replace(one, node=address) for one in found]


def _of_cluster(alive: list[dict[str, Any]], skew: dict[str, float]) -> Iterator[Finding]:
    spread = max(skew.values()) - min(skew.values())
    what = f"{len(alive)} nodes, within {spread:.2f} s"
    if spread > MOST_SKEW_S:
        yield warn("clocks", what, "let NTP set them: times in logs and TLS depend on it")
    else:
        yield ok("clocks", what)
    if num_workers_possible(MLU):
        try:
            require_numbered_cards()
            yield ok("unit instances", "the cards of each node are numbered")
        except RaymrcnnError as error:
            yield fail("unit instances", error.what, error.todo)


@ray.remote(num_cpus=0, max_retries=0)
def _clock() -> float:
    return time.time()


def _authentication() -> Finding:
    """Of the raylet that started this process, whose environment it has."""
    tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    spoken = "TLS between nodes" if tls else "no TLS between nodes"
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return ok("authentication", f"Ray asks for its token; {spoken}")
    return warn("authentication", f"whoever reaches Ray's ports runs code as its user; {spoken}",
                "start it by the scripts of cluster/, or with RAY_AUTH_MODE=token")  # fmt: skip


@ray.remote(num_cpus=0, max_retries=0)
def _check(data: str | None, trial: bool) -> list[Finding]:
    found = [*host_findings(), _authentication()]
    if trial:
        found += list(trial_findings())
    if data is not None:
        found.append(
            ok("data", f"{data} is here")
            if Path(data).exists()
            else fail("data", f"{data} is not here", "mount it under the same name, or give a URI")
        )
    return found
