"""Which cards a job takes: their kind, their model and their number, here or in a cluster.

The cards of a cluster decide where one is joined, not those of the machine that asks. Nodes tell
the model of their cards by a label: Ray sets its own for CUDA; for MLU, which Ray does not know,
`cluster/env.sh` sets `raymrcnn/accelerator` from the real card.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raymrcnn.device import mlu
from raymrcnn.device.accelerator import CPU, CUDA, MLU, ROWS, Accelerator, num_cards, pick
from raymrcnn.device.on_ray import ray_session
from raymrcnn.errors import ClusterError, ConfigError, DeviceError

LABELS = {MLU.name: "raymrcnn/accelerator", CUDA.name: "ray.io/accelerator-type"}
UNLABELLED = "cards without a label"
# Images a card takes at once: Cambricon's model zoo sample, whose inference stops above it.
BATCH_LIMITS = {"MLU370-S4": 64}


@dataclass(frozen=True, kw_only=True)
class Cards:
    """What a job takes."""

    accelerator: Accelerator
    workers: int
    model: str | None = None  # only cards of this model; None: any


@contextlib.contextmanager
def chosen_cards(
    device: str, workers: int, model: str | None, cluster: str | None
) -> Iterator[Cards]:
    """Choose the cards; inside, a cluster that was asked for is joined.

    Args:
        device: auto, or the name of an accelerator.
        workers: how many cards; 0: every one, and 1 on a CPU.
        model: only cards of this model, as MLU370-X8; None: any.
        cluster: see `ray_session`.

    Raises:
        ConfigError: a negative number of workers, or a model of CPUs.
        DeviceError: no such device, too few cards, or none of that model.
        ClusterError: no cluster answers, or it has no card of that model.
    """
    if workers < 0:
        raise ConfigError(f"{workers} is negative", where="--workers")
    if cluster is None and not os.environ.get("RAY_ADDRESS") and not _has_session():
        accelerator = pick(device)
        if device == "auto" and accelerator is not MLU and mlu.device_nodes():
            print(f"note: the MLU cards here are not used: {mlu.why_unavailable()}",
                  file=sys.stderr)  # fmt: skip
        if model is not None:
            _require_local_model(accelerator, model)
        yield Cards(
            accelerator=accelerator, workers=_local_workers(accelerator, workers), model=model
        )
        return
    with ray_session(cluster, CPU, 0):
        yield _cards_of_cluster(device, workers, model)


def cards_by_model(accelerator: Accelerator) -> dict[str, int]:
    """Cards of the joined cluster, by the model that their nodes' labels tell; CPUs count cores."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found: Counter[str] = Counter()
    for node in nodes:
        number = int(node["Resources"].get(accelerator.ray_resource, 0))
        if node["Alive"] and number:
            label = LABELS.get(accelerator.name)
            found[node.get("Labels", {}).get(label) or UNLABELLED] += number
    return dict(found)


def label_selector(accelerator: Accelerator, model: str | None) -> dict[str, str] | None:
    """What makes Ray place a worker on a node with cards of that model; None: anywhere.

    Without a cluster every card is of the model that was asked for, and nothing is labelled.
    """
    if model is None or model not in cards_by_model(accelerator):
        return None
    return {LABELS[accelerator.name]: model}


def require_known_batch(cards: Cards, batch_per_card: int, *, force: bool) -> None:
    """Refuse a batch that the cards are known not to take.

    Raises:
        DeviceError: with the reason, and how to try it all the same.
    """
    if force or cards.accelerator is not MLU or batch_per_card <= min(BATCH_LIMITS.values()):
        return
    for model in _models_here_or_there(cards):
        limit = BATCH_LIMITS.get(model)
        if limit is not None and batch_per_card > limit:
            raise DeviceError(
                f"{batch_per_card} images at once on a {model}, which is known to take {limit} at "
                "most",
                where="--batch-size",
                todo=f"take {limit}, or --force to try",
            )


def _models_here_or_there(cards: Cards) -> set[str]:
    import ray

    if cards.model is not None:
        return {cards.model}
    if ray.is_initialized():
        return set(cards_by_model(cards.accelerator))
    return {card.model for card in mlu.visible_cards() if card.model}


def _has_session() -> bool:
    """Whether the caller has opened a session of Ray's; does not import it for that."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _cards_of_cluster(device: str, workers: int, model: str | None) -> Cards:
    if device != "auto" and device not in ROWS:
        pick(device)  # which refuses the name
    rows = list(ROWS.values()) if device == "auto" else [ROWS[device]]
    there = {row.name: cards_by_model(row) for row in rows}
    if model is None:
        accelerator = next((row for row in rows if there[row.name]), None)
        if accelerator is None:
            raise _none_of_kind(device)
    else:
        accelerator = next((row for row in rows if model in there[row.name]), None)
        if accelerator is None:
            raise _none_of_model(model, [there[row.name] for row in rows if row is not CPU])
    if accelerator is CPU:  # whose cores the system shares
        return Cards(accelerator=CPU, workers=workers or 1, model=model)
    cards = there[accelerator.name]
    possible = sum(cards.values()) if model is None else cards[model]
    if workers > possible:  # Ray would wait for the others for ever
        raise DeviceError(
            f"{workers} workers need {workers} {model or accelerator.name} cards, and the cluster "
            f"has {possible}",
            where="--workers",
            todo=f"ask for at most {possible}",
        )
    return Cards(accelerator=accelerator, workers=workers or possible, model=model)


def _none_of_kind(device: str) -> DeviceError:
    counted = {row.name: sum(cards_by_model(row).values()) for row in ROWS.values()}
    there = ", ".join(f"{name} ({number})" for name, number in counted.items() if number)
    return DeviceError(
        f"the cluster has no {device} cards; there are {there or 'no cores either'}",
        where="--device",
        todo="where nodes have some, source cluster/env.sh before `ray start`",
    )


def _none_of_model(model: str, by_kind: list[dict[str, int]]) -> ClusterError:
    cards = sorted(item for one in by_kind for item in one.items())
    there = ", ".join(f"{name} ({number})" for name, number in cards)
    return ClusterError(
        f"no {model} in the cluster; there are {there or 'no cards'}",
        where="--accelerator",
        todo="name one of them, or label the nodes as cluster/env.sh does",
    )


def _require_local_model(accelerator: Accelerator, model: str) -> None:
    if accelerator is MLU:
        here = {card.model for card in mlu.visible_cards() if card.model}
        if here == {model}:
            return
        raise DeviceError(
            f"the cards of this machine are {', '.join(sorted(here)) or 'of unknown model'}, "
            f"and not all {model}",
            where="--accelerator",
            todo="drop it, show those alone by MLU_VISIBLE_DEVICES, or join a cluster",
        )
    raise ConfigError(
        f"a model of {accelerator.name} devices is chosen in a cluster only",
        where="--accelerator",
        todo="drop it, or join a cluster with --cluster",
    )


def _local_workers(accelerator: Accelerator, asked: int) -> int:
    there = num_cards(accelerator)
    if accelerator is not CPU and asked > there:
        raise DeviceError(
            f"{asked} workers need {asked} {accelerator.name} cards, and this machine has {there}",
            where="--workers",
            todo=f"ask for at most {there}, or join a cluster with --cluster",
        )
    return asked or there
