"""The scripts that start a cluster: what they tell Ray, and what they keep to themselves."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raymrcnn import __version__

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    """The environment of a host whose `ray` prints what it is told, a word a line."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "mode $RAY_AUTH_MODE"\n')
    ray.chmod(0o755)
    (tmp_path / "home").mkdir()
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY")},
        "RAY": str(ray), "PYTHON": sys.executable, "HOME": str(tmp_path / "home"),
        "RAYMRCNN_IP": "10.0.0.1",
    }  # fmt: skip


def run(script: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLUSTER / script, *words], env=env, cwd="/", capture_output=True, text=True, timeout=60
    )


def test_the_head_asks_for_a_token_that_only_its_file_holds(host: dict[str, str]) -> None:
    done = run("head.sh", "--num-cpus", "0", env=host)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    for name, value in {"--node-ip-address": "10.0.0.1", "--port": "6379", "--num-cpus": "0",
                        "--dashboard-host": "127.0.0.1",
                        "--labels": f"raymrcnn/version={__version__}"}.items():  # fmt: skip
        assert said[said.index(name) + 1] == value
    assert "mode token" in said
    token = Path(host["HOME"]) / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) >= 32
    assert token.read_text() not in done.stdout + done.stderr
    before = token.read_text()
    assert run("head.sh", env=host).returncode == 0
    assert token.read_text() == before, "a second start keeps the token"


def test_a_worker_needs_the_token_and_the_head(host: dict[str, str]) -> None:
    assert run("worker.sh", env=host).returncode == 2
    done = run("worker.sh", "127.0.0.1", env=host)
    assert (done.returncode, "auth_token is missing" in done.stderr) == (2, True)
    token = Path(host["HOME"]) / "elsewhere"
    token.write_text("0" * 64)
    token.chmod(0o644)
    done = run("worker.sh", "127.0.0.1:9", "--num-cpus", "3",
               env={**host, "RAY_AUTH_TOKEN_PATH": str(token)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[said.index("--address") + 1] == "127.0.0.1:9"
    assert said[said.index("--node-ip-address") + 1] == "10.0.0.1"
    assert said[said.index("--num-cpus") + 1] == "3"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_pass_shellcheck() -> None:
    assert {p.name for p in SCRIPTS} >= {"env.sh", "head.sh", "worker.sh", "stop.sh"}
    subprocess.run(["shellcheck", "-x", *SCRIPTS], check=True, cwd=CLUSTER.parent)
