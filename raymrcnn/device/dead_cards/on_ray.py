"""Cards that do no work, found by trying all that are free, and kept from others.

Ray counts the cards of a node and does not know which of them work: it would give a dead one to the
next who asks. Here an actor takes each free card and has it tried in a process beside it; one that
finds its card dead goes on holding it, as long as whoever asked keeps it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn.device.accelerator import CUDA, MLU, ROWS, Accelerator
from raymrcnn.device.mlu_workers.on_ray import show_card
from raymrcnn.device.trial import LIMIT_S, PAUSE_S, TRIES, card_fault
from raymrcnn.errors import RaymrcnnError

PLACE_S = 60.0  # a card that is not free by then is at work for others
LOOK_S = TRIES * (LIMIT_S + PAUSE_S)
_POLL_S = 0.5
_GONE = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)  # with their node


@dataclass(frozen=True, kw_only=True)
class DeadCard:
    """A card that does no work, and what holds it."""

    name: str  # as "mlu card 3"
    host: str
    node: str  # Ray's id of it
    fault: str
    holder: Any

    def __str__(self) -> str:
        return f"{self.name} of {self.host}"

    def held(self) -> bool:
        """Whether it still is: a node that is lost takes its actors along."""
        try:
            ray.get(self.holder.here.remote(), timeout=PLACE_S)
        except _GONE:
            return False
        except ray.exceptions.GetTimeoutError:  # its node is busy, or about to be lost
            pass
        return True

    def let_go(self) -> None:
        """Give the card back to Ray, if there still is one."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.holder)


def hold_dead_cards(
    accelerator: Accelerator,
    nodes: Sequence[dict[str, Any]],
    known: Sequence[DeadCard],
    stopped: Callable[[], bool],
) -> list[DeadCard]:
    """Try the free cards of some nodes, and hold those that do no work until they are let go.

    Args:
        accelerator: of the cards.
        nodes: as `ray.nodes()` tells them.
        known: those that are held already.
        stopped: whether nobody waits for it any more; then nothing is found.
    """
    taken = [card.node for card in known]
    holders = [
        actor
        for node in nodes
        for actor in _holders(accelerator, node, taken.count(node["NodeID"]))
    ]
    dead: list[DeadCard] = []
    try:
        here = {actor.here.remote(): actor for actor in holders}
        placed = [here[answer] for answer in _came(here, PLACE_S, stopped)]
        looks = {actor.look.remote(accelerator.name): actor for actor in placed}
        for answer in _came(looks, LOOK_S, stopped):
            with contextlib.suppress(*_GONE):
                found = ray.get(answer)
                if found is not None and not stopped():
                    dead.append(DeadCard(**found, holder=looks[answer]))
    finally:
        kept = [card.holder for card in dead]
        for actor in holders:
            if actor not in kept:
                ray.kill(actor)
    return dead


def _holders(accelerator: Accelerator, node: dict[str, Any], held: int) -> Iterator[Any]:
    """An actor for each card of a node but those held; for those that others have, they wait."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=0)(_Holder)
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    name = accelerator.ray_resource
    # Ray has an option of its own for CUDA's, and takes no other way.
    card: dict[str, Any] = {"num_gpus": 1} if accelerator is CUDA else {"resources": {name: 1}}
    for _ in range(int(node["Resources"].get(name, 0)) - held):
        yield actor.options(scheduling_strategy=there, **card).remote()


def _came(asked: dict[Any, Any], limit_s: float, stopped: Callable[[], bool]) -> set[Any]:
    """The answers that came: all, or those there are when the time is over or it was stopped."""
    answers, end = list(asked), time.monotonic() + limit_s
    ready: list[Any] = []
    while len(ready) < len(answers) and time.monotonic() < end and not stopped():
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=_POLL_S)
    return set(ready)


class _Holder:
    """A process that has one card."""

    def here(self) -> bool:
        """Answers once there is a card for it."""
        return True

    def look(self, name: str) -> dict[str, str] | None:
        """What a `DeadCard` is made of; None: the card works, or that cannot be told."""
        row = ROWS[name]
        if row is MLU:
            try:
                show_card()
            except RaymrcnnError:
                return None
        fault = card_fault(row, os.environ)
        if fault is None:
            return None
        return {
            "name": f"{name} card {os.environ.get(row.visible_devices_env) or '0'}",
            "host": socket.gethostname(),
            "node": ray.get_runtime_context().get_node_id(),
            "fault": fault,
        }
