"""A run takes what there is: more workers when a machine comes, fewer when one goes or is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import SETS, start, wait_until
from small import prepared, run_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 5000  # more than are done before the test stops the run
DRAIN = "import ray.scripts.scripts as scripts; scripts.main()"
# Ray waits half a minute before it takes a machine for dead.
SOON_DEAD = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


def words(data: Path, run: Path, workers: str, steps: int = STEPS) -> list[object]:
    # Small steps: with other numbers of workers sums round otherwise.
    return ["train", "--data", data, "--recipe", "tiny", *SETS, "--set", f"optim.max_iter={steps}",
            "--set", "optim.base_lr=1e-4", "--set", "checkpoint.every=10", "--set", "log_every=1",
            "--device", "cpu", "--workers", workers, "--out", run]  # fmt: skip


def records(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.open()] if path.exists() else []


def at_work(run: Path) -> float:
    found = records(run)
    return found[-1]["workers"] if found else 0


def give_notice(cluster: Any, node: Any) -> None:
    """As a cloud's autoscaler does before it takes a machine away."""
    words = ["drain-node", "--address", cluster.address, "--node-id", node.node_id, "--reason",
             "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the price rose",
             "--deadline-remaining-seconds", "60"]  # fmt: skip
    subprocess.run([sys.executable, "-c", DRAIN, *words], check=True, timeout=60)


def test_a_machine_that_comes_one_that_is_to_go_and_one_that_is_lost(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for name, value in SOON_DEAD.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        run = tmp_path / "run"
        driver = start(*words(made_up, run, "1:3"), "--cluster", cluster.address)
        wait_until(lambda: at_work(run) == 2, driver, 120)
        third = cluster.add_node(num_cpus=1)
        wait_until(lambda: at_work(run) == 3, driver, 120)
        give_notice(cluster, third)
        wait_until(lambda: at_work(run) == 2, driver, 120)
        saved = {path.name for path in (run / "checkpoints").iterdir()}
        first = next(int(r["step"]) for r in reversed(records(run)) if r["workers"] == 3)
        assert f"step-{first:07d}" in saved, "nothing was done again"
        cluster.remove_node(second, allow_graceful=False)
        wait_until(lambda: at_work(run) == 1, driver, 120)
        alone = len(records(run))
        wait_until(lambda: len(records(run)) > alone + 5, driver, 60)
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate(timeout=200)
        assert driver.returncode == 130, output
        assert "room for 3 workers" in output
        assert "is to go in" in output
    finally:
        cluster.shutdown()
    seen = records(run)
    assert [r["step"] for r in seen] == list(range(1, len(seen) + 1)), "each step once"
    changes = [w for w in map(str, words(made_up, run, "1", 40)) if "=" in w]
    _, calm = run_here(prepared(made_up, tmp_path / "calm", *changes))
    for ours, theirs in zip(seen, [r for r in calm if "loss" in r], strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)


def test_a_head_that_dies_is_one_line_and_another_goes_on(made_up: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    run = tmp_path / "run"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        driver = start(*words(made_up, run, "2", 400), "--cluster", cluster.address)
        wait_until(lambda: len(records(run)) > 12, driver, 120)
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        output, _ = driver.communicate(timeout=200)
    finally:
        cluster.shutdown()
    assert driver.returncode == 1, output
    assert "Traceback" not in output
    assert output.count("error: the cluster is lost") == 1
    steps = int(records(run)[-1]["step"]) + 5
    driver = start(*words(made_up, run, "2", steps))
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    assert "going on from step" in output
    assert [r["step"] for r in records(run)] == list(range(1, steps + 1))
