"""A command for a job server: what is sent, how it is followed, and what it must not become."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import raymrcnn.submit.on_ray as jobs
from raymrcnn import __version__
from raymrcnn.cli.jobs import without
from raymrcnn.cli.main import app
from raymrcnn.device.on_ray import no_answer_error, require_version
from raymrcnn.errors import ClusterError, RunError
from raymrcnn.submit.entry import REQUEST, read_request, request_text

HOSTILE = ["score", "a b", "$(touch hacked)", "; touch hacked", "`touch hacked`", "é\n'\""]


class Status(str):
    def is_terminal(self) -> bool:
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


class Info:
    def __init__(self, status: str, code: int | None, message: str = "") -> None:
        self.status, self.driver_exit_code, self.message = Status(status), code, message


class Server:
    """Stands for Ray's client: one job that prints and ends."""

    def __init__(self, end: Info, prints: list[str], cut_after: int | None = None) -> None:
        self.end, self.prints, self.cut_after = end, prints, cut_after
        self.submitted: dict[str, Any] = {}
        self.stopped = threading.Event()
        self.cuts = self.asked = 0

    def submit_job(self, **options: Any) -> str:
        self.submitted = options
        return "job_1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for k, text in enumerate(self.prints):
            if k == self.cut_after and not self.cuts:
                self.cuts += 1
                raise RuntimeError("connection closed")
            if text == "WAIT":
                os.kill(os.getpid(), signal.SIGINT)
                assert self.stopped.wait(10)
            else:
                yield text

    def stop_job(self, job: str) -> None:
        self.stopped.set()

    def get_job_status(self, job: str) -> Status:
        self.asked += 1
        return Status("RUNNING") if self.cuts and self.asked == 1 else self.end.status

    def get_job_info(self, job: str) -> Info:
        return self.end


def submitted(monkeypatch: pytest.MonkeyPatch, server: Server, *words: str) -> Any:
    monkeypatch.setattr(jobs, "_client", lambda address: server)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_is_the_jobs(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    server = Server(Info("SUCCEEDED" if code == 0 else "FAILED", code), ["one\n", "two\n"])
    done = submitted(monkeypatch, server, "score", "there", "--cluster", "http://head:8265")
    assert done.exit_code == code
    assert done.stdout == "one\ntwo\n"
    request = json.loads(server.submitted["runtime_env"]["env_vars"][REQUEST])
    assert request == {"words": ["score", "there"], "folder": os.getcwd(), "version": __version__}


def test_what_ray_writes_itself_is_left_out_and_a_cut_log_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prints = ["2026-01-01 00:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.\n",
              "Running entrypoint for job x: python\n", "step 1\n", "step 2\n"]  # fmt: skip
    server = Server(Info("SUCCEEDED", 0), prints, cut_after=3)
    done = submitted(monkeypatch, server, "score", "x", "--cluster=http://head:8265")
    assert (done.exit_code, done.stdout) == (0, "step 1\nstep 2\n")


def test_an_interrupt_stops_the_job_and_follows_it_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(Info("STOPPED", None), ["step 1\n", "WAIT", "saved\n"])
    done = submitted(monkeypatch, server, "score", "x", "--cluster", "http://head:8265")
    assert (done.exit_code, done.stdout) == (130, "step 1\nsaved\n")
    wait = server.submitted["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    assert int(wait) >= 60, "time to save"


@pytest.mark.parametrize("program", ["raymrcnn", "python -m raymrcnn.cli.main", "/a b/raymrcnn"])
def test_the_program_itself_is_not_sent(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    server = Server(Info("SUCCEEDED", 0), [])
    monkeypatch.setattr(jobs, "_client", lambda address: server)
    line = ["data", "verify", "--data", "x", "--cluster", "http://head:8265"]
    done = CliRunner().invoke(app, line, prog_name=program)
    assert done.exit_code == 0, done.stderr
    words, _ = read_request(server.submitted["runtime_env"]["env_vars"])
    assert words == ["data", "verify", "--data", "x"]


def test_detached_it_says_how_to_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Info("FAILED", 1), ["never read"])
    done = submitted(monkeypatch, server, "score", "x", "--cluster", "http://h:8265", "--detach")
    assert done.exit_code == 0
    assert "job job_1" in done.stdout
    assert "ray job logs --address http://h:8265 --follow job_1" in done.stdout
    done = CliRunner().invoke(app, ["score", "x", "--detach"])
    assert (done.exit_code, "--detach needs" in done.stderr) == (2, True)


def test_a_job_that_is_lost_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Info("FAILED", None, "first\nthe head ran out of memory"), [])
    done = submitted(monkeypatch, server, "score", "x", "--cluster", "http://head:8265")
    assert (done.exit_code, "ran out of memory" in done.stderr) == (RunError.exit_code, True)


def test_a_word_never_becomes_part_of_a_shell_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Server(Info("SUCCEEDED", 0), [])
    monkeypatch.setattr(jobs, "_client", lambda address: server)
    jobs.submit("http://h:8265", HOSTILE, on_text=print, on_start=print)
    assert server.submitted["entrypoint"] == jobs.ENTRY
    env = {**os.environ, **server.submitted["runtime_env"]["env_vars"]}
    line = jobs.ENTRY.replace("python", sys.executable, 1)
    done = subprocess.run(line, shell=True, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert not list(Path.cwd().glob("hacked")) + list(tmp_path.glob("hacked"))


def test_another_version_is_refused() -> None:
    words = read_request({REQUEST: request_text(HOSTILE, "/somewhere")})
    assert words == (HOSTILE, "/somewhere")
    old = request_text([], "/").replace(__version__, "0.0.1")
    with pytest.raises(ClusterError, match=rf"0\.0\.1 submitted.*{__version__}"):
        read_request({REQUEST: old})
    with pytest.raises(ClusterError, match="was not"):
        read_request({})
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.2", "Labels": {}}
    require_version([node, {**node, "Alive": False, "Labels": {"raymrcnn/version": "0.0.1"}}])
    with pytest.raises(ClusterError, match=rf"10\.0\.0\.2.*{__version__}.*0\.0\.1"):
        require_version([{**node, "Labels": {"raymrcnn/version": "0.0.1"}}])


def test_versions_of_ray_and_python_are_named() -> None:
    text = ("Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.10.1\n"
            "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n"
            "    Python: 3.11.7\n")  # fmt: skip
    said = str(no_answer_error("h:6379", text))
    assert "Ray 2.50.0 and Python 3.10.1, and this is Ray 2.60.0 and Python 3.11.7" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["a", "--cluster", "http://h", "b"], ["a", "b"]),
        (["--cluster=http://h", "--detach", "--set", "x=--detach"], ["--set", "x=--detach"]),
        (["a", "--", "--cluster"], ["a", "--", "--cluster"]),
    ],
)
def test_the_words_go_without_the_address(words: list[str], kept: list[str]) -> None:
    assert without(words) == kept


def test_nothing_listens() -> None:
    began = time.monotonic()
    done = CliRunner().invoke(app, ["score", "x", "--cluster", "http://127.0.0.1:9"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert time.monotonic() - began < 60
