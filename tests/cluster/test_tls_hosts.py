"""Two hosts that speak TLS to each other, and a third that has the token and no certificate."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMAND, SETS
from hosts import CLUSTER, Cluster, why_not

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "namespaces work"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(2, tmp_path_factory.mktemp("hosts"), tls=True)
    yield found
    found.stop()


def test_a_job_runs_over_tls_and_a_host_without_a_certificate_stays_outside(
    cluster: Cluster, made_up: Path, tmp_path: Path
) -> None:
    address = f"{cluster.head.ip}:6379"
    bare = cluster.add()
    cluster.trust(bare)
    # Ray itself knocks for minutes, and is not let in.
    knocking = bare.start("ray", "start", "--address", address, env={"RAY_AUTH_MODE": "token"})
    for words in ([CLUSTER / "worker.sh", address],
                  [*COMMAND, "doctor", "--no-trial", "--cluster", address]):  # fmt: skip
        asked = bare.start(*words)
        said, _ = asked.communicate(timeout=60)
        assert (asked.returncode, "this host has no certificate" in said) == (2, True), said
        assert "Traceback" not in said
    look = [sys.executable, "-m", "raymrcnn.device.tls", address]
    assert subprocess.run(look, timeout=60).returncode == 2, "it is TLS that is spoken there"

    run, worker = tmp_path / "run", cluster.hosts[1]
    words = [
        "train",
        "--data",
        made_up,
        "--recipe",
        "tiny",
        *SETS,
        "--set",
        "optim.max_iter=6",
        "--workers",
        3,
        "--device",
        "cpu",
        "--out",
        run,
        "--cluster",
        address,
        "--json",
    ]
    said = worker.run(*COMMAND, *words, limit_s=200)
    assert json.loads(said[said.index("{") :])["status"] == "complete"
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1

    said = worker.run(*COMMAND, "doctor", "--no-trial", "--cluster", "auto", "--json")
    nodes = {f["node"] for f in json.loads(said[said.index("{") :])["findings"] if f["node"]}
    assert nodes == {cluster.head.ip, worker.ip}
    assert not worker.tellers(worker.home / ".ray" / "tls" / "node.key")
    knocking.kill()
