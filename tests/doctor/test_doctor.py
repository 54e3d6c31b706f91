"""Each thing that can be wrong is found, told apart from the others, and comes with a way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raymrcnn.cli.main import app
from raymrcnn.device.accelerator import CPU
from raymrcnn.device.cambricon import Card
from raymrcnn.doctor import host, trial
from raymrcnn.doctor.findings import Finding, guarded

GOOD = Card(index=0, model="MLU370-X8", memory_bytes=24 << 30, driver="5.10.13",
            compute_mode="Default", ecc=True, pids=(), has_node=True)  # fmt: skip
NEW = {"driver": "5.10.13", "cntoolkit": "3.5.0", "cnnl": "1.20.1", "cncl": "1.12.0",
       "cnlight": None, "torch_mlu": "1.22.2"}  # fmt: skip


def looked(
    monkeypatch: pytest.MonkeyPatch, cards: list[Card], **changes: str | None
) -> dict[str, Finding]:
    monkeypatch.setattr(host.mlu, "host_cards", lambda root, cnmon, **_: tuple(cards))
    monkeypatch.setattr(host.mlu, "versions", lambda root, cnmon: {**NEW, **changes})
    return {f.check: f for f in host.host_findings()}


def test_a_good_host_has_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(monkeypatch, [GOOD, replace(GOOD, index=1)])
    for check in ("MLU card 0", "MLU card 1", *host.LEAST, "versions"):
        assert found[check].status == "ok", found[check]
    assert found["MLU card 0"].what == "MLU370-X8, 24 GiB"


@pytest.mark.parametrize("name", ["driver", "cntoolkit", "cnnl", "cncl", "torch_mlu"])
@pytest.mark.parametrize(("version", "said"), [("0.9.1", "older than"), (None, "not found")])
def test_old_and_missing_versions_fail_with_the_least_that_does(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, said: str
) -> None:
    found = looked(monkeypatch, [GOOD], **{name: version})
    assert found[name].status == "fail"
    assert said in found[name].what
    assert host.LEAST[name] in found[name].fix
    assert all(found[other].status == "ok" for other in host.LEAST if other != name)


@pytest.mark.parametrize(
    ("change", "status", "said", "fix"),
    [
        ({"has_node": False}, "fail", "no node", "--device /dev/cambricon_dev0"),
        ({"compute_mode": "Exclusive", "pids": (7,)}, "fail", "taken by process 7", "MLU_VISIBLE"),
        ({"compute_mode": "Exclusive"}, "ok", "exclusive mode", ""),
        ({"healthy": False}, "fail", "not call it healthy", "cnmon info"),
        ({"healthy": True}, "ok", "24 GiB, healthy", ""),
        ({"pids": (7, 8)}, "warn", "2 other processes", "wait"),
        ({"ecc": False}, "warn", "ECC is off", "switch it on"),
        ({"model": None}, "warn", "unknown model", "cnmon"),
    ],
)
def test_what_a_card_can_have(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], status: str, said: str, fix: str
) -> None:
    found = looked(monkeypatch, [replace(GOOD, **change)])["MLU card 0"]
    assert found.status == status
    assert said in found.what
    assert fix in found.fix


def test_libraries_without_cards_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(monkeypatch, [])["MLU cards"].status == "fail"


@pytest.mark.parametrize(
    ("env", "status", "said"),
    [
        ({}, "ok", "no card is hidden"),
        ({"MLU_VISIBLE_DEVICES": "0,1"}, "ok", "MLU_VISIBLE_DEVICES=0,1"),
        ({"MLU_VISIBLE_DEVICES": "0", "CN_VISIBLE_DEVICES": "1"}, "warn", "CN_VISIBLE_DEVICES='1'"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "warn", "hides every card"),
    ],
)
def test_variables_that_hide_cards(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], status: str, said: str
) -> None:
    for name in ("MLU_VISIBLE_DEVICES", "CN_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    first = next(iter(host._visible()))
    assert first.status == status
    assert said in first.what


def test_a_machine_that_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: usage(64 << 20, 0, 1 << 20))
    monkeypatch.setattr(host.resource, "getrlimit", lambda _: (256, 512))
    found = {f.check: f for f in host.host_findings(folder=tmp_path)}
    assert found["disk"].status == "warn"
    assert found["shared memory"].status == "fail"
    assert "--shm-size" in found["shared memory"].fix
    assert (found["limits"].status, found["limits"].fix) == ("warn", "ulimit -n 4096")


def test_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.13.0", "torchvision": "0.26.0", "ray": "2.60.0"}
    monkeypatch.setattr(host.importlib.metadata, "version", there.__getitem__)
    (found,) = host._versions()
    assert (found.status, "torchvision 0.28" in found.fix) == ("fail", True)


def test_the_token_is_yours_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    for mode, status in ((0o644, "warn"), (0o600, "ok")):
        path.chmod(mode)
        (found,) = host._token()
        assert found.status == status
        assert "secret" not in str(found)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert next(iter(host._token())).status == "warn"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # it knows no other way
    (found,) = host._token()
    assert (found.status, "secret" in str(found)) == ("ok", False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert next(iter(host._token())).status == "warn"


def test_an_old_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for version, status in (("17.05.0-ce", "warn"), ("28.2.2", "ok"), ("none", "warn")):
        docker.write_text(f"#!/bin/sh\necho Docker version {version}, build x\n")
        docker.chmod(0o755)
        assert next(iter(host._docker())).status == status, version


def test_a_check_that_falls_is_a_finding() -> None:
    def broken() -> Any:
        raise OSError("no such device")
        yield

    (found,) = guarded("disk", broken)
    assert (found.status, "OSError: no such device" in found.what) == ("fail", True)


def test_a_trial_that_hangs_or_dies_is_a_finding_and_does_not_hang_us() -> None:
    for code, said in (("import time; time.sleep(60)", "hangs: no answer in 1 s"),
                       ("import os; os.abort()", "ended with -6"),
                       ("raise RuntimeError('CNRT error')", "CNRT error")):  # fmt: skip
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert said in trial._ended(process, 1.0)["error"]


def test_operators_that_differ_fail() -> None:
    assert trial._operators(CPU, {"nms": 0, "roi_align": 1e-5}).status == "ok"
    assert trial._operators(CPU, {"nms": 1, "roi_align": 0.0}).status == "fail"
    assert trial._operators(CPU, {"nms": 0, "roi_align": 0.5}).status == "fail"


def test_the_command_prints_a_table_and_ends_with_1_where_something_fails(tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["doctor", "--json"])
    found = json.loads(done.stdout)
    names = {f["check"] for f in found["findings"]}
    assert {"versions", "JPEG decoding", "operators on cpu", "all-reduce on cpu"} <= names
    assert done.exit_code == (1 if found["failures"] else 0)
    done = run(app, ["doctor", "--no-trial", "--data", str(tmp_path / "gone")])
    assert done.exit_code == 1
    assert "FAIL" in done.stdout
    assert "operators" not in done.stdout


@pytest.mark.ray
def test_every_node_of_a_cluster_checks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    # Whatever a test before this one has left in the process.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        words = ["doctor", "--cluster", cluster.address, "--no-trial", "--json", "--data"]
        done = subprocess.run([sys.executable, "-m", "raymrcnn.cli.main", *words, tmp_path / "no"],
                              capture_output=True, text=True, timeout=200)  # fmt: skip
    finally:
        cluster.shutdown()
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert len([f for f in found if f["check"] == "versions" and f["node"]]) == 2
    open_ = [f for f in found if f["check"] == "authentication"]
    assert [f["status"] for f in open_] == ["warn", "warn"], "it was started without a token"
    missing = [f for f in found if f["check"] == "data"]
    assert [f["status"] for f in missing] == ["fail", "fail"]
    assert [f["what"][:7] for f in found if f["check"] == "clocks"] == ["2 nodes"]
