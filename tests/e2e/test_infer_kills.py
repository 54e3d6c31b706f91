"""Whatever is killed, and wherever a job runs, each image has one row and the same one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import assert_same_rows, call, rows, start, wait_until, workers_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_IMAGES, NUM_KILLS, NODES = 25_600, 20, 3  # 100 blocks
BLOCK_S = 1.0  # so that the kills come within the job
DRIVER = Path(__file__).parent / "kill_driver.py"


class SmallCluster:
    """Raylets on this machine; the first one has the head and is never killed."""

    def __init__(self, num_nodes: int) -> None:
        from ray.cluster_utils import Cluster

        # A core more where the head is: Ray Data reads there, and drivers begin.
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        self.nodes: list[Any] = []
        for _ in range(num_nodes - 1):
            self.add()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def kill_a_node(self) -> None:
        """The raylet and all that it started, without a word; another machine takes its place."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.add()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[SmallCluster]:
    nodes = SmallCluster(NODES)
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "images.parquet"
    pq.write_table(pa.table({"uri": [f"/data/{k:05d}.jpg" for k in range(NUM_IMAGES)]}), path)
    return path


def begin(
    address: str, folder: Path, source: Path, block_s: float = BLOCK_S
) -> subprocess.Popen[str]:
    log = (folder.parent / f"{folder.name}.log").open("a")
    command = [sys.executable, DRIVER, address, folder, source, NODES, block_s]
    return subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, text=True)


def formula_actors() -> list[int]:
    """The processes of the pool, of whichever raylet."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_text()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if "MapWorker" in title and MARK.encode() in environment:
                found.append(int(entry.name))
    return found


MARK = f"RAYMRCNN_KILL_TEST={os.getpid()}"  # in the environment of what this test starts


def test_twenty_kills_at_random_moments_lose_and_double_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*MARK.split("="))
    nodes = SmallCluster(NODES)
    try:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        assert begin(nodes.address, whole, source, 0.0).wait(timeout=300) == 0
        draw = random.Random(20261123)
        victims = ["driver", "actor", "node"] * (NUM_KILLS // 3) + ["driver", "actor"]
        draw.shuffle(victims)
        driver, hits = begin(nodes.address, killed, source), dict.fromkeys(victims, 0)
        for victim in victims:
            # From the import of the driver to the midst of its blocks.
            time.sleep(draw.uniform(0.0, 5.0))
            if driver.poll() is not None:  # done, or fallen with its raylet
                driver = begin(nodes.address, killed, source)
                continue
            hits[victim] += 1
            if victim == "node":
                nodes.kill_a_node()
            elif victim == "actor":
                for actor in formula_actors()[:1]:
                    os.kill(actor, signal.SIGKILL)
            else:
                driver.kill()
                driver.wait()
                driver = begin(nodes.address, killed, source)
        for _ in range(3):  # a driver whose raylet was killed says so, and is started again
            if driver.wait(timeout=300) == 0:
                break
            driver = begin(nodes.address, killed, source)
        assert driver.returncode == 0, (tmp_path / "killed.log").read_text()[-2000:]
        assert min(hits.values()) >= 3, hits
        assert rows(killed) == rows(whole)
        assert not list(killed.glob(".tmp-*"))
        assert not list(killed.glob("failed-*"))
    finally:
        nodes.cluster.shutdown()


def test_one_raylet_and_three_give_the_same_rows(
    three_nodes: SmallCluster, made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    words = ["infer", "--images", made_up / "train2017", "--weights", small_run, "--device", "cpu",
             "--mode", "predict", "--overlays", 0, "--batch-size", 2]  # fmt: skip
    one, three = tmp_path / "one", tmp_path / "three"
    call(*words, "--out", one, "--workers", 1)
    call(*words, "--out", three, "--cluster", three_nodes.address)  # an actor a machine
    assert_same_rows(rows(one), rows(three))


def test_a_killed_decode_worker_costs_no_image(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    words = ["infer", "--images", made_up / "train2017", "--weights", small_run, "--device", "cpu",
             "--mode", "predict", "--overlays", 0, "--batch-size", 2]  # fmt: skip
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    driver = start(*words, "--out", killed, "--decode-workers", 1)
    wait_until(lambda: bool(workers_of(driver, "DecodeActor")), driver, 200)
    os.kill(workers_of(driver, "DecodeActor")[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    call(*words, "--out", plain)
    assert_same_rows(rows(killed), rows(plain))
