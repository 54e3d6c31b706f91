"""MLU cards under Ray, which knows nothing of them: unit ids, the card of a worker, CNCL.

Ray numbers the units of a custom resource only where its raylet was started with the resource's
name in RAY_custom_unit_instance_resources; otherwise it tells every worker unit 0. A cluster
started without is refused: its workers would all take the same card.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.train.torch import TorchConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymrcnn.device import mlu
from raymrcnn.device.accelerator import MLU
from raymrcnn.device.on_ray import card_errors
from raymrcnn.device.trial import answered
from raymrcnn.errors import ClusterError

RESOURCE = "MLU"
UNIT_INSTANCES = "RAY_custom_unit_instance_resources"
PROBE_TIMEOUT_S = 60.0

_TorchBackend: Any = TorchConfig().backend_cls


@dataclass
class MLUConfig(TorchConfig):
    """A process group over CNCL, each worker on the card that Ray gave it."""

    backend: str | None = "cncl"

    @property
    def backend_cls(self) -> type[Any]:
        """What joins the workers."""
        return _MLUBackend


class _MLUBackend(_TorchBackend):  # type: ignore[misc]
    # Each worker sees its own card alone; CNCL joins them over MLU-Link or the host all the same.
    share_cuda_visible_devices = False

    def on_start(self, worker_group: Any, backend_config: MLUConfig) -> None:
        try:
            worker_group.execute(take_card)  # registers cncl, too
            super().on_start(worker_group, backend_config)
        except Exception:
            # Ray (2.60) forgets a group that fails here, and its workers keep their cards: they
            # know the actor that would have to end for that, so neither does.
            with contextlib.suppress(Exception):
                worker_group.abort()
            raise


def unit_instance_resources() -> str:
    """The value of RAY_custom_unit_instance_resources for a raylet with MLU cards.

    What the user set, or else what Ray has by default (its accelerators but GPU, which is built
    in), and MLU.
    """
    from ray._private.accelerators import get_all_accelerator_resource_names

    given = os.environ.get(UNIT_INSTANCES)
    names = given.split(",") if given else sorted(get_all_accelerator_resource_names() - {"GPU"})
    return ",".join(dict.fromkeys([*filter(None, names), RESOURCE]))


@functools.cache
def take_card() -> int | str:
    """Make the card that Ray gave this worker the only one that it sees; join torch_mlu.

    Returns:
        The number (or UUID) of the card on its node.

    Raises:
        ClusterError: the raylet of this node has several cards and does not number them.
        DeviceError: the card is not there, or torch_mlu cannot be used.
        CardError: it does no work.
    """
    card = show_card()
    mlu.load()
    with card_errors(MLU):
        answered(_touch)
    return card


def show_card() -> int | str:
    """Make the card that Ray gave this worker the only one that it sees; once, and touches nothing.

    Returns:
        The number (or UUID) of the card on its node.

    Raises:
        ClusterError, DeviceError: see `take_card`.
    """
    if _knows_cards():
        return mlu.show_only(0)
    if _num_cards_here() > 1:
        _require_numbered(socket.gethostname(), os.environ.get(UNIT_INSTANCES))
    return mlu.show_only(_unit())


def _touch() -> None:
    torch.zeros(1, device=torch.device(MLU.torch_type, 0)).item()  # is it alive?


def require_numbered_cards() -> None:
    """Refuse a cluster whose raylets do not number their cards; takes no card, so never waits.

    Raises:
        ClusterError: with the node, and the line to add.
    """
    if _knows_cards():
        return
    every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [n for n in every if n["Alive"] and n["Resources"].get(RESOURCE, 0) > 1]
    settings = [
        _setting.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    ]
    try:
        found = ray.get(settings, timeout=PROBE_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"a node with cards starts no worker ({str(error).splitlines()[0][:200]})",
            where="--cluster",
            todo="look at `ray status` and the logs of that node",
        ) from None
    for node, setting in zip(nodes, found, strict=True):
        _require_numbered(node["NodeManagerAddress"], setting)


@ray.remote(num_cpus=0)
def _setting() -> str | None:
    """What the raylet of this node was started with: its workers inherit its environment."""
    return os.environ.get(UNIT_INSTANCES)


def _require_numbered(node: str, setting: str | None) -> None:
    if RESOURCE in (setting or "").split(","):
        return
    raise ClusterError(
        f"Ray on node {node} was started without numbers for its MLU cards, so that all workers "
        "would share the first",
        where="--cluster",
        todo=f"stop it there, and before `ray start`: export {UNIT_INSTANCES}="
        f"{unit_instance_resources()}",
    )


def _knows_cards() -> bool:
    """Whether this Ray, of a version to come, manages MLU: it then shows a worker its card."""
    from ray._private.accelerators import get_all_accelerator_resource_names

    return RESOURCE in get_all_accelerator_resource_names()


def _num_cards_here() -> int:
    here = ray.get_runtime_context().get_node_id()
    every: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next(int(n["Resources"].get(RESOURCE, 0)) for n in every if n["NodeID"] == here)


def _unit() -> int:
    """The number of the unit of MLU that Ray gave this worker, also in a placement group."""
    # There is no public call: `get_accelerator_ids` leaves out resources that Ray does not know.
    worker: Any = ray._private.worker.global_worker
    given = worker.core_worker.resource_ids()
    # A placement group lists its units twice; the entry with the bundle's index is the other one.
    pattern = re.compile(rf"{RESOURCE}(_group_[0-9A-Za-z]+)?")
    units = {int(unit) for name, ids in given.items() if pattern.fullmatch(name) for unit, _ in ids}
    assert len(units) == 1, f"a worker takes one card, not {given}"
    return units.pop()
