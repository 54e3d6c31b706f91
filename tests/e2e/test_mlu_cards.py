"""The main job on simulated MLU cards: one a worker, CNCL between them, the numbers of the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND, SETS, call, start, wait_until
from fakes.conftest import simulator  # noqa: F401  (the fixture)
from small import prepared, run_here

from raymrcnn.data.synthetic import write_synthetic

pytestmark = [pytest.mark.ray, pytest.mark.mlu]
SPLIT = "train2017"


@pytest.fixture(scope="module")
def cards(simulator: dict[str, str]) -> dict[str, str]:  # noqa: F811
    """A host with four cards, and the strays that a shell may hold."""
    return {**simulator, "TORCH_MLU_SIM_DEVICES": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}


def train_words(data: Path, run: Path, *more: object) -> list[object]:
    return ["train", "--data", data, "--recipe", "tiny", *SETS, "--set", "optim.max_iter=12",
            "--set", "checkpoint.every=4", "--out", run, *more]  # fmt: skip


def infer_words(data: Path, run: Path, out: Path, *more: object) -> list[object]:
    return ["infer", "--data", data, "--split", SPLIT, "--weights", run, "--out", out,
            "--batch-size", 4, *more]  # fmt: skip


def losses(run: Path) -> dict[int, dict[str, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return {r["step"]: {k: v for k, v in r.items() if k.startswith("loss")} for r in records}


def taken(log: Path) -> dict[int, set[int]]:
    """The cards that each process took."""
    found: dict[int, set[int]] = {}
    for line in log.read_text().splitlines():
        pid, card = map(int, line.split())
        found.setdefault(pid, set()).add(card)
    return found


def meeting(log: Path) -> dict[str, str]:
    """Cards are logged, and two actors start to work together: one alone could do a short job."""
    return {"TORCH_MLU_SIM_LOG": str(log), "TORCH_MLU_SIM_MEET": "2"}


def require_one_card_each(log: Path, cards: set[int]) -> None:
    used = list(taken(log).values())
    assert all(len(one) == 1 for one in used), used
    assert sorted(card for one in used for card in one) == sorted(cards), used


def require_close(ours: Any, theirs: Any, within: float) -> None:
    for key in theirs:
        for name, value in theirs[key].items():
            assert abs(ours[key][name] - value) <= within, (key, name, ours[key][name], value)


@pytest.fixture(scope="module")
def on_cpu(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe in one process on the CPU."""
    run = tmp_path_factory.mktemp("cpu") / "run"
    run_here(prepared(made_up, run, "optim.max_iter=12", "checkpoint.every=4"))
    return run


@pytest.fixture(scope="module")
def on_cards(
    made_up: Path, cards: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two workers on two of four cards."""
    home = tmp_path_factory.mktemp("mlu")
    env = {**cards, "TORCH_MLU_SIM_LOG": str(home / "log")}
    done = call(*train_words(made_up, home / "run", "--workers", 2), env=env)
    assert done["status"] == "complete"
    return home / "run"


def test_two_cards_give_the_losses_of_the_cpu(on_cards: Path, on_cpu: Path) -> None:
    require_one_card_each(on_cards.parent / "log", {0, 1})
    assert json.loads((on_cards / "run.json").read_text())["device"]["name"] == "mlu"
    require_close(losses(on_cards), losses(on_cpu), 1e-4)


def test_labelling_on_every_card_gives_the_scores_of_the_cpu(
    made_up: Path, cards: dict[str, str], on_cards: Path, tmp_path: Path
) -> None:
    env = {**cards, **meeting(tmp_path / "log"), "CN_VISIBLE_DEVICES": "2,1"}
    ours = call(*infer_words(made_up, on_cards, tmp_path / "mlu"), env=env)
    require_one_card_each(tmp_path / "log", {2, 1})  # as CN_VISIBLE_DEVICES allows
    theirs = call(*infer_words(made_up, on_cards, tmp_path / "cpu", "--device", "cpu"))
    assert ours["num_images"] == theirs["num_images"] == 32
    kinds = ("bbox", "segm")
    both = [json.loads((tmp_path / d / "scores.json").read_text()) for d in ("mlu", "cpu")]
    require_close(*({kind: one[kind] for kind in kinds} for one in both), 1e-3)  # type: ignore[misc]
    page = Path(call("report", on_cards, tmp_path / "mlu")["report"])
    assert "mlu" in page.read_text()


@pytest.mark.slow
def test_training_waits_for_scores_where_no_card_is_free(
    made_up: Path, cards: dict[str, str], on_cards: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    env = {**cards, "TORCH_MLU_SIM_LOG": str(log), "MLU_VISIBLE_DEVICES": "0,1"}
    words = train_words(made_up, tmp_path / "run", "--workers", 2, "--validate-every", 6)
    driver = start(*words, env=env)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert "nothing is free to score step 6: training waits for it" in output
    scored = json.loads((tmp_path / "run/validation.json").read_text())["steps"]
    assert sorted(scored, key=int) == ["6", "12"]
    require_close(losses(tmp_path / "run"), losses(on_cards), 1e-4)


@pytest.mark.slow
def test_a_killed_driver_goes_on_and_a_replaced_actor_takes_the_same_card(
    made_up: Path, cards: dict[str, str], on_cards: Path, tmp_path: Path
) -> None:
    driver = start(*train_words(made_up, tmp_path / "run", "--workers", 2), env=cards)
    wait_until(lambda: (tmp_path / "run/last").exists(), driver, 120)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(30)
    done = call(*train_words(made_up, tmp_path / "run", "--workers", 2), env=cards)
    assert done["resumed_from"] >= 4
    require_close(losses(tmp_path / "run"), losses(on_cards), 1e-4)

    log, out, data = tmp_path / "log", tmp_path / "predictions", tmp_path / "data"
    write_synthetic(data, 200, seed=2, min_side=96, max_side=112)
    env = {**cards, "TORCH_MLU_SIM_LOG": str(log)}
    driver = start(*infer_words(data, on_cards, out, "--workers", 2, "--batch-size", 1), env=env)
    wait_until(lambda: log.exists() and len(taken(log)) == 2, driver, 120)
    victim = next(pid for pid, used in taken(log).items() if used == {1})
    os.kill(victim, signal.SIGKILL)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    after = taken(log)
    assert len(after) == 3, "the actor was replaced"
    assert [used for pid, used in after.items()].count({1}) == 2


@pytest.mark.slow
def test_a_card_that_dies_is_named(made_up: Path, cards: dict[str, str], tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    env = {**cards, "TORCH_MLU_SIM_DEAD": str(dead)}
    words = train_words(made_up, tmp_path / "run", "--workers", 2, "--set", "optim.max_iter=200")
    words += ["--max-failures", 1]
    driver = start(*words, env=env)
    wait_until(lambda: (tmp_path / "run/last").exists(), driver, 120)
    (dead / "1").touch()
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1, output
    assert "mlu card 1 failed: CNRT error" in output, output[-700:]
    (dead / "1").unlink()
    words = train_words(made_up, tmp_path / "run", "--workers", 2, "--set", "optim.max_iter=20")
    assert call(*words, env=env)["status"] == "complete"


@pytest.mark.slow
def test_a_run_that_may_have_fewer_workers_goes_on_without_a_card_that_dies(
    made_up: Path, cards: dict[str, str], tmp_path: Path
) -> None:
    dead, log, run = tmp_path / "dead", tmp_path / "log", tmp_path / "run"
    dead.mkdir()
    env = {**cards, "TORCH_MLU_SIM_DEAD": str(dead), "TORCH_MLU_SIM_LOG": str(log),
           "MLU_VISIBLE_DEVICES": "2,3"}  # fmt: skip
    # Small steps: with other numbers of workers sums round otherwise.
    changes = ["optim.max_iter=40", "optim.base_lr=1e-4", "log_every=1"]
    sets = [word for change in changes for word in ("--set", change)]
    driver = start(*train_words(made_up, run, *sets, "--workers", "1:2"), env=env)
    wait_until(lambda: (run / "last").exists(), driver, 120)
    (dead / "2").touch()  # the one that Ray gives first
    saved = int((run / "last").read_text().strip().rpartition("-")[2])
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    host = socket.gethostname()
    assert "mlu card 2 failed: CNRT error" in output, output
    (line,) = [line for line in output.splitlines() if "left out" in line]
    assert f"mlu card 2 of {host} does no work (CNRT error" in line
    assert "with 1 of 2 workers" in line
    assert f"mlu card 3 of {host}" not in output, "which is sound"
    assert list(taken(log).values())[-1] == {3}

    seen = [json.loads(text) for text in (run / "metrics.jsonl").open()]
    assert [r["step"] for r in seen] == list(range(1, 41)), "each step once"
    again = next(r for r in seen if r["workers"] == 1)
    assert again["without_cards"] == [f"mlu card 2 of {host}"]
    assert again["resumed_from"] == again["step"] - 1 >= saved, "lost: what was not saved"
    assert {r["workers"] for r in seen if r["step"] < again["step"]} == {2}
    _, calm = run_here(prepared(made_up, tmp_path / "calm", *changes, "checkpoint.every=4"))
    for ours, theirs in zip(seen, [r for r in calm if "loss" in r], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)


@pytest.mark.slow
def test_labelling_on_a_dead_card_names_it_and_goes_on_without(
    made_up: Path, cards: dict[str, str], on_cards: Path, tmp_path: Path
) -> None:
    dead, out = tmp_path / "dead", tmp_path / "predictions"
    dead.mkdir()
    (dead / "1").touch()
    words = infer_words(made_up, on_cards, out, "--workers", 2)
    env = {**cards, **meeting(tmp_path / "log"), "TORCH_MLU_SIM_DEAD": str(dead)}
    done = subprocess.run(
        [*COMMAND, *map(str, words)], env=env,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "mlu card 1 failed: CNRT error" in done.stderr
    assert "Traceback" not in done.stderr
    env = {**cards, "TORCH_MLU_SIM_DEAD": str(dead), "MLU_VISIBLE_DEVICES": "0"}
    assert call(*infer_words(made_up, on_cards, out), env=env)["num_images"] == 32


@contextlib.contextmanager
def two_raylets(env: dict[str, str], *words: str) -> Iterator[str]:
    """The address of two raylets on this machine, each with two cards of its own."""
    script = Path(__file__).with_name("two_raylets.py")
    cluster = subprocess.Popen(
        [sys.executable, str(script), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=env,
    )  # fmt: skip
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        yield cluster.stdout.readline().strip()
    finally:
        cluster.stdin.close()
        cluster.wait(60)


def test_a_cluster_that_does_not_number_its_cards_is_refused(
    made_up: Path, cards: dict[str, str], tmp_path: Path
) -> None:
    with two_raylets(cards, "unnumbered") as address:
        done = subprocess.run(
            [*COMMAND, *map(str, train_words(made_up, tmp_path / "run", "--cluster", address))],
            env=cards, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "was started without numbers for its MLU cards" in done.stderr
    assert "export RAY_custom_unit_instance_resources=" in done.stderr


@pytest.mark.slow
def test_two_hosts_of_two_cards_each(
    made_up: Path, cards: dict[str, str], on_cards: Path, tmp_path: Path
) -> None:
    env = {**cards, **meeting(tmp_path / "log")}
    with two_raylets(env) as address:
        run, out = tmp_path / "run", tmp_path / "predictions"
        driver = start(*train_words(made_up, run, "--cluster", address), env=env)
        wait_until(lambda: (run / "last").exists(), driver, 120)
        require_one_card_each(tmp_path / "log", {0, 1, 2, 3})  # every card, without a flag
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(30)
        done = call(*train_words(made_up, run, "--cluster", address), env=env)
        assert done["resumed_from"] >= 4
        require_close(losses(run), losses(on_cards), 1e-4)
        (tmp_path / "log").unlink()
        call(*infer_words(made_up, run, out, "--cluster", address), env=env)
        assert "</html>" in Path(call("report", run, out)["report"]).read_text()
        require_one_card_each(tmp_path / "log", {0, 2})  # an actor a block, spread over the hosts
        (tmp_path / "log").unlink()
        narrowed = ("--cluster", address, "--accelerator", "MLU370-S4")
        call(*train_words(made_up, tmp_path / "s4", *narrowed), env=env)
        require_one_card_each(tmp_path / "log", {2, 3})  # those of the second host, both
        (tmp_path / "log").unlink()
        call(*infer_words(made_up, on_cards, tmp_path / "s4-labels", *narrowed), env=env)
        require_one_card_each(tmp_path / "log", {2, 3})
