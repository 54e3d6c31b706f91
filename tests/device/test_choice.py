"""Which cards a job takes, on machines and in clusters that are made up. Starts no Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from raymrcnn.device import mlu
from raymrcnn.device.accelerator import CPU, CUDA, MLU, Accelerator
from raymrcnn.device.cambricon import Card
from raymrcnn.device.choice import on_ray as choice
from raymrcnn.device.choice.on_ray import (
    Cards,
    cards_by_model,
    chosen_cards,
    label_selector,
    require_known_batch,
)
from raymrcnn.device.mlu_workers import on_ray as mlu_workers
from raymrcnn.errors import ClusterError, ConfigError, DeviceError


@pytest.fixture(autouse=True)
def a_machine_without_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(choice, "num_cards", lambda row: 1 if row is CPU else 0)
    monkeypatch.setattr(choice, "pick", lambda name: CPU)


def node(labels: dict[str, str] | None = None, alive: bool = True, **resources: float) -> Any:
    return {
        "Alive": alive,
        "Resources": resources,
        "Labels": labels or {},
        "NodeManagerAddress": "192.0.2.7",
    }


def x8(number: float) -> Any:
    return node({"raymrcnn/accelerator": "MLU370-X8"}, CPU=16.0, MLU=number)


def s4(number: float) -> Any:
    return node({"raymrcnn/accelerator": "MLU370-S4"}, CPU=16.0, MLU=number)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The nodes of a cluster; a test fills in what it wants."""
    nodes: list[Any] = []

    @contextlib.contextmanager
    def session(address: str | None, row: Accelerator, workers: int) -> Iterator[None]:
        with monkeypatch.context() as inside:
            inside.setattr(ray, "is_initialized", lambda: True)
            yield

    monkeypatch.setattr(choice, "ray_session", session)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    return nodes


def taken(
    device: str = "auto", workers: int = 0, model: str | None = None, address: str | None = "h:1"
) -> tuple[str, int, str | None]:
    with chosen_cards(device, workers, model, address) as cards:
        return cards.accelerator.name, cards.workers, cards.model


def test_the_cards_of_the_cluster_decide_and_not_those_of_the_driver(cluster: list[Any]) -> None:
    cluster += [x8(8), s4(4), node(CPU=32.0)]
    assert taken() == ("mlu", 12, None)
    assert taken(workers=3) == ("mlu", 3, None)
    assert taken("cpu") == ("cpu", 1, None)
    cluster[:] = [node(CPU=4.0, GPU=2.0)]
    assert taken() == ("cuda", 2, None)
    cluster[:] = [node(CPU=4.0), node(alive=False, MLU=8.0)]
    assert taken() == ("cpu", 1, None)


def test_the_address_of_a_job_counts_as_a_cluster(
    cluster: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.append(x8(2))
    assert taken(address=None) == ("cpu", 1, None)
    monkeypatch.setenv("RAY_ADDRESS", "h:1")
    assert taken(address=None) == ("mlu", 2, None)


def test_a_model_narrows_the_cards_and_becomes_a_label_of_nodes(
    cluster: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster += [x8(8), s4(4), s4(2), node(CPU=32.0)]
    assert taken(model="MLU370-S4") == ("mlu", 6, "MLU370-S4")
    assert label_selector(MLU, "MLU370-S4") == {"raymrcnn/accelerator": "MLU370-S4"}
    assert label_selector(MLU, None) is None
    cluster[:] = [node({"ray.io/accelerator-type": "H100"}, CPU=8.0, GPU=4.0)]
    assert taken(model="H100") == ("cuda", 4, "H100")
    assert label_selector(CUDA, "H100") == {"ray.io/accelerator-type": "H100"}


def test_a_model_that_is_not_there_names_those_that_are(cluster: list[Any]) -> None:
    cluster += [s4(4), node(CPU=4.0, MLU=2.0)]
    with pytest.raises(ClusterError) as caught:
        taken(model="MLU370-X8")
    said = "--accelerator: no MLU370-X8 in the cluster; there are MLU370-S4 (4), cards without a"
    assert str(caught.value).startswith(said)
    assert cards_by_model(MLU) == {"MLU370-S4": 4, "cards without a label": 2}


def test_a_cluster_without_such_cards_is_refused_before_anything_is_divided_among_none(
    cluster: list[Any],
) -> None:
    cluster += [node(CPU=4.0, GPU=2.0)]
    with pytest.raises(DeviceError) as caught:
        taken("mlu")
    assert str(caught.value) == (
        "--device: the cluster has no mlu cards; there are cuda (2), cpu (4); where nodes have "
        "some, source cluster/env.sh before `ray start`"
    )


def test_no_more_workers_are_taken_than_there_are_cards_of_the_model(cluster: list[Any]) -> None:
    cluster += [x8(8), s4(4)]
    assert taken(workers=4, model="MLU370-S4") == ("mlu", 4, "MLU370-S4")
    with pytest.raises(DeviceError) as caught:
        taken(workers=5, model="MLU370-S4")
    said = "--workers: 5 workers need 5 MLU370-S4 cards, and the cluster has 4; ask for at most 4"
    assert str(caught.value) == said


def test_a_model_decides_the_kind_of_card_where_that_is_left_open(cluster: list[Any]) -> None:
    cluster += [x8(8), node({"ray.io/accelerator-type": "H100"}, CPU=8.0, GPU=4.0)]
    assert taken(model="H100") == ("cuda", 4, "H100")
    assert taken() == ("mlu", 8, None)
    with pytest.raises(ClusterError, match=r"no A100 in the cluster; there are H100 \(4\), MLU370"):
        taken(model="A100")
    with pytest.raises(ClusterError, match=r"no H100 in the cluster; there are MLU370-X8 \(8\);"):
        taken("mlu", model="H100")


def test_the_model_of_this_machine_is_read_from_its_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "pick", lambda name: MLU)
    monkeypatch.setattr(choice, "num_cards", lambda row: 2)
    here = [Card(index=k, model="MLU370-X8") for k in (0, 1)]
    monkeypatch.setattr(mlu, "visible_cards", lambda: tuple(here))
    assert taken(model="MLU370-X8", address=None) == ("mlu", 2, "MLU370-X8")
    with pytest.raises(DeviceError, match="of this machine are MLU370-X8, and not all MLU370-S4"):
        taken(model="MLU370-S4", address=None)
    monkeypatch.setattr(choice, "pick", lambda name: CPU)
    with pytest.raises(ConfigError, match="a model of cpu devices is chosen in a cluster only"):
        taken(model="Xeon", address=None)


def test_workers_are_counted_where_they_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(workers=5, address=None) == ("cpu", 5, None)
    monkeypatch.setattr(choice, "pick", lambda name: MLU)
    with pytest.raises(DeviceError, match="2 workers need 2 mlu cards, and this machine has 0"):
        taken(workers=2, address=None)
    with pytest.raises(ConfigError, match="--workers: -1 is negative"):
        taken(workers=-1, address=None)


def test_a_batch_that_a_model_cannot_take_needs_force(cluster: list[Any]) -> None:
    small = Cards(accelerator=MLU, workers=1, model="MLU370-S4")
    require_known_batch(small, 64, force=False)
    with pytest.raises(DeviceError) as caught:
        require_known_batch(small, 65, force=False)
    assert str(caught.value) == (
        "--batch-size: 65 images at once on a MLU370-S4, which is known to take 64 at most; "
        "take 64, or --force to try"
    )
    require_known_batch(small, 65, force=True)
    require_known_batch(Cards(accelerator=MLU, workers=1, model="MLU370-X8"), 65, force=False)
    require_known_batch(Cards(accelerator=CPU, workers=1), 500, force=False)


def test_a_batch_is_checked_against_the_cards_of_the_cluster(
    cluster: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster += [x8(2), s4(2)]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(DeviceError, match="on a MLU370-S4"):
        require_known_batch(Cards(accelerator=MLU, workers=4), 100, force=False)
    cluster.pop()
    require_known_batch(Cards(accelerator=MLU, workers=2), 100, force=False)
    monkeypatch.undo()


# Cards of a worker


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in mlu.VISIBLE_DEVICES:
        monkeypatch.setenv(name, "")  # so that what is set in the test is taken back
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "unit", "card"),
    [
        ({}, 2, 2),
        ({"MLU_VISIBLE_DEVICES": "4,6"}, 1, 6),
        ({"CN_VISIBLE_DEVICES": "5,3", "MLU_VISIBLE_DEVICES": "0,1"}, 0, 5),
        ({"CUDA_VISIBLE_DEVICES": ""}, 3, 3),  # of Ray, for workers without a GPU
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, 0, 1),
    ],
)
def test_a_worker_is_shown_the_card_of_its_unit_alone(
    no_variables: pytest.MonkeyPatch, given: dict[str, str], unit: int, card: int
) -> None:
    for name, value in given.items():
        no_variables.setenv(name, value)
    assert mlu.show_only(unit) == card
    assert os.environ["MLU_VISIBLE_DEVICES"] == str(card)
    assert "CN_VISIBLE_DEVICES" not in os.environ


def test_a_unit_beyond_the_cards_that_are_shown_is_refused(
    no_variables: pytest.MonkeyPatch,
) -> None:
    no_variables.setenv("MLU_VISIBLE_DEVICES", "4,6")
    with pytest.raises(DeviceError, match="'4,6' shows 2 cards, and Ray gave card 2"):
        mlu.show_only(2)


def test_a_raylet_without_numbers_is_refused_with_the_line_to_add(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(mlu_workers.UNIT_INSTANCES, raising=False)
    mlu_workers._require_numbered("n1", "neuron_cores,MLU")
    with pytest.raises(ClusterError) as caught:
        mlu_workers._require_numbered("n1", "neuron_cores,TPU")
    names = mlu_workers.unit_instance_resources()
    assert f"export RAY_custom_unit_instance_resources={names}" in str(caught.value)
    assert "TPU" in names.split(",")
    assert names.split(",")[-1] == "MLU"
    assert "GPU" not in names.split(",")


def test_a_node_with_one_card_needs_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mlu_workers.UNIT_INSTANCES, raising=False)
    monkeypatch.setattr(mlu_workers, "_unit", lambda: 0)
    monkeypatch.setattr(mlu, "show_only", lambda unit: unit)
    monkeypatch.setattr(mlu, "load", lambda: None)
    monkeypatch.setattr(mlu_workers, "MLU", CPU)
    monkeypatch.setattr(mlu_workers, "_num_cards_here", lambda: 1)
    assert mlu_workers.take_card.__wrapped__() == 0
    monkeypatch.setattr(mlu_workers, "_num_cards_here", lambda: 2)
    with pytest.raises(ClusterError, match="without numbers for its MLU cards"):
        mlu_workers.take_card.__wrapped__()
    # A Ray to come that manages MLU itself has shown this worker its card already.
    monkeypatch.setattr(mlu_workers, "_knows_cards", lambda: True)
    assert mlu_workers.take_card.__wrapped__() == 0
    mlu_workers.require_numbered_cards()


def test_what_the_user_numbers_stays_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mlu_workers.UNIT_INSTANCES, "FPGA,MLU")
    assert mlu_workers.unit_instance_resources() == "FPGA,MLU"
    monkeypatch.setenv(mlu_workers.UNIT_INSTANCES, "FPGA")
    assert mlu_workers.unit_instance_resources() == "FPGA,MLU"
