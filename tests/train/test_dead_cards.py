"""What a run does about cards that do no work, with a cluster that is made up. Starts no Ray."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import ray
from small import small_recipe

from raymrcnn.device.accelerator import ROWS
from raymrcnn.device.dead_cards.on_ray import DeadCard
from raymrcnn.device.on_ray import CardError
from raymrcnn.errors import RunError
from raymrcnn.train.dead_cards.on_ray import DeadCards
from raymrcnn.train.failures.on_ray import WorkerError, explained
from raymrcnn.train.job import Failures, TrainJob
from raymrcnn.train.metrics import MetricsWriter, read_metrics
from raymrcnn.train.nodes.on_ray import num_actors, room

FAILED = CardError("mlu card 0 failed: CNRT error", where="node a", todo="look at it")


def node(name: str, cards: int, cores: int = 8, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Labels": {},
            "Resources": {"MLU": float(cards), "CPU": float(cores)}}  # fmt: skip


class Held(DeadCard):
    """One whose holder is the cluster that is made up."""

    def held(self) -> bool:
        return any(n["NodeID"] == self.node and n["Alive"] for n in self.holder.nodes)

    def let_go(self) -> None:
        self.holder.let_go.append(str(self))


class Cluster:
    """Two nodes of two cards each; those that died are found at the next look."""

    def __init__(self) -> None:
        self.nodes = [node("a", 2), node("b", 2)]
        self.died: list[tuple[str, int]] = []
        self.looks = 0
        self.let_go: list[str] = []

    def hold(self, row: Any, nodes: Any, known: Any, stopped: Any) -> list[DeadCard]:
        self.looks += 1
        found, self.died = self.died, []
        return [
            Held(name=f"mlu card {number}", host=name, node=name, fault="CNRT error", holder=self)
            for name, number in found
        ]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray, "nodes", lambda: made.nodes)
    monkeypatch.setattr(
        ray, "cluster_resources",
        lambda: {"MLU": sum(n["Resources"]["MLU"] for n in made.nodes if n["Alive"])},
    )  # fmt: skip
    return made


def dead_cards(
    cluster: Cluster, fewest: int | None, *, accelerator: str = "mlu", deaths: int = 3
) -> DeadCards:
    job = TrainJob(
        recipe=small_recipe(), data_root=Path("d"), run_dir=Path("r"), workers=4,
        accelerator=accelerator, min_workers=fewest,
    )  # fmt: skip
    return DeadCards(job, Failures(most=deaths), cluster.hold)


def survive(dead: DeadCards, error: RunError = FAILED) -> list[str]:
    told: list[dict[str, Any]] = []
    dead.survive(error, told.append, threading.Event())
    return [item["note"] for item in told]


def test_a_dead_card_is_left_out_and_the_others_go_on(cluster: Cluster) -> None:
    dead = dead_cards(cluster, 1)
    assert (dead.most_workers(), dead.deaths_left_to_ray(), dead.count()) == (4, 3, 0)
    cluster.died = [("a", 0)]
    tried, line = survive(dead)
    assert tried == "mlu card 0 failed: CNRT error (node a): all cards are tried"
    assert line.startswith("mlu card 0 of a does no work (CNRT error): left out")
    assert "with 3 of 4 workers" in line
    assert (dead.most_workers(), dead.room(), dead.room(leaving=["b"])) == (3, 3, 1)
    assert dead.deaths_left_to_ray() == 0, "Ray would count the dead card"
    assert num_actors(ROWS["mlu"], dead.count()) == 3
    cluster.died = [("b", 1)]  # without a word of it
    survive(dead, WorkerError("worker 1 failed: it was killed"))
    assert dead.names() == ("mlu card 0 of a", "mlu card 1 of b")
    assert dead.most_workers() == 2
    dead.close()
    assert sorted(cluster.let_go) == ["mlu card 0 of a", "mlu card 1 of b"]


def test_a_sound_card_is_never_left_out(cluster: Cluster) -> None:
    dead = dead_cards(cluster, 1)
    with pytest.raises(CardError) as caught:
        survive(dead)
    assert caught.value is FAILED
    assert cluster.looks == 1
    assert dead.names() == ()


@pytest.mark.parametrize(
    ("fewest", "options"), [(None, {}), (1, {"accelerator": "cpu"}), (1, {"deaths": 0})]
)
def test_other_runs_end_as_they_did_and_nothing_is_tried(
    cluster: Cluster, fewest: int | None, options: dict[str, Any]
) -> None:
    cluster.died = [("a", 0)]
    with pytest.raises(CardError):
        survive(dead_cards(cluster, fewest, **options))
    assert cluster.looks == 0


def test_too_few_cards_end_the_run_with_their_names(cluster: Cluster) -> None:
    dead = dead_cards(cluster, 3)
    cluster.died = [("a", 0), ("a", 1)]
    with pytest.raises(RunError) as caught:
        survive(dead)
    assert "mlu card 0 of a does no work (CNRT error); mlu card 1 of a" in str(caught.value)
    assert "cards that are left: 2, and the run needs 3" in str(caught.value)
    assert "--workers 2:4" in str(caught.value)
    assert caught.value.exit_code == 1


def test_deaths_are_counted_anew_once_a_card_is_left_out(cluster: Cluster) -> None:
    dead = dead_cards(cluster, 1, deaths=2)
    cluster.died = [("a", 0)]
    survive(dead)
    survive(dead)
    survive(dead)
    with pytest.raises(CardError):
        survive(dead)
    dead.count_anew()
    survive(dead)


def test_a_node_that_is_lost_takes_its_dead_card_along(cluster: Cluster) -> None:
    dead = dead_cards(cluster, 1)
    cluster.died = [("a", 0)]
    survive(dead)
    cluster.nodes[0]["Alive"] = False
    assert (dead.room(), dead.count(), dead.most_workers()) == (2, 0, 2)
    survive(dead)
    assert dead.names() == ()
    assert dead.deaths_left_to_ray() == 3


def test_room_is_made_of_cores_and_of_cards_that_work(cluster: Cluster) -> None:
    each = {"CPU": 1.0, "MLU": 1.0}
    cluster.nodes = [node("a", 4, cores=3), node("b", 0), node("c", 2, alive=False)]
    assert room(each, None, ()) == 3
    assert room(each, None, (), without=["a"]) == 3
    assert room(each, None, (), without=["a", "a"]) == 2


def test_metrics_say_which_cards_a_run_goes_on_without(tmp_path: Path) -> None:
    before = MetricsWriter(tmp_path, 0)
    before.write({"step": 1, "seconds": 1.0})
    before.close()
    after = MetricsWriter(tmp_path, 1, ("mlu card 0 of a",))
    after.write({"step": 2, "seconds": 2.0})
    after.write({"step": 3, "seconds": 3.0})
    after.close()
    first, second, third = read_metrics(tmp_path)
    assert "without_cards" not in first
    assert (second["resumed_from"], second["without_cards"]) == (1, ["mlu card 0 of a"])
    assert "without_cards" not in third


def test_a_worker_that_does_not_say_why_it_died_is_told_from_what_ray_train_did() -> None:
    lost = RuntimeError("train failed")
    lost.worker_failures = {1: RuntimeError("a\nActorDiedError: killed"), 2: None}  # type: ignore[attr-defined]
    assert isinstance(explained(lost), WorkerError)
    assert explained(lost).what == "worker 1 failed: ActorDiedError: killed"
    assert not isinstance(explained(RuntimeError("no room")), WorkerError)
    lost.worker_failures[2] = FAILED  # type: ignore[attr-defined]
    assert explained(lost) is FAILED, "who says what went wrong comes first"
