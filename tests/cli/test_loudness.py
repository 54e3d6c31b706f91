"""--quiet, --verbose and --json everywhere; output for pipes, plain terminals and any encoding."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import done, raymrcnn
from rich.console import Console
from test_surface import COMMANDS

from raymrcnn.cli import jobs, show
from raymrcnn.cli.show import ProgressLine

EVERYWHERE = {"--json", "--quiet", "-q", "--verbose", "-v"}
PROGRAM = (sys.executable, "-m", "raymrcnn.cli.main")


def run_as(*words: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8")
    environment = {k: v for k, v in os.environ.items() if k not in unwanted} | variables
    return subprocess.run([*PROGRAM, *map(str, words)], env=environment, capture_output=True)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_can_be_quiet_verbose_and_read_by_machines(words: str) -> None:
    taken = {name for p in COMMANDS[words].params for name in p.opts}
    assert taken >= EVERYWHERE


def test_a_command_is_quiet_wherever_that_is_said(made_up: Path, tmp_path: Path) -> None:
    words = ["data", "shard", "--data", made_up, "--split", "val2017", "--out"]
    for k, quiet in enumerate((["-q", *words], [*words[:2], "--quiet", *words[2:]])):
        result = raymrcnn(*quiet, tmp_path / str(k))
        assert (result.exit_code, result.stderr) == (0, "")
        assert "8 images" in result.stdout
    assert raymrcnn(*words, tmp_path / "loud").stderr


def test_an_error_says_where_it_arose_if_asked() -> None:
    brief = raymrcnn("report", "/nowhere")
    for words in (("report", "/nowhere", "-v"), ("--verbose", "report", "/nowhere")):
        long = raymrcnn(*words)
        assert long.exit_code == brief.exit_code == 2
        assert long.stderr.splitlines()[0] == brief.stderr.strip()
        assert "Traceback" in long.stderr and "Traceback" not in brief.stderr
    assert raymrcnn("report", "/nowhere").stderr == brief.stderr  # of one command alone
    assert not show.is_verbose()


def test_a_verbose_log_has_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(show.VERBOSE, "1")
    progress, out = ProgressLine(), io.StringIO()
    progress._console = Console(file=out)
    for step in range(3):
        progress.show(f"step {step}")
    assert out.getvalue() == "step 0\nstep 1\nstep 2\n"


def test_what_cannot_be_counted_tells_how_long_it_takes() -> None:
    progress, out = ProgressLine(every_s=0.0), io.StringIO()
    progress._console = Console(file=out)
    with progress.working("looking"):
        time.sleep(1.3)
    assert out.getvalue().splitlines() == ["looking, 1 s"]
    with progress.working("nothing"):
        pass
    with progress.working("nothing so early", after_s=5.0):
        time.sleep(1.3)
    assert "nothing" not in out.getvalue()
    assert progress._open is False


def test_what_is_counted_later_takes_the_place_of_the_words() -> None:
    progress, out = ProgressLine(every_s=0.0), io.StringIO()
    progress._console = Console(file=out)
    with progress.working("matching") as say:
        say("matching: 3/7 files")
        time.sleep(1.3)
    assert out.getvalue() == "matching: 3/7 files, 1 s\n"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    progress, out = ProgressLine(), io.StringIO()
    progress._console = Console(file=out, force_terminal=True)
    progress.show("one")
    assert out.getvalue() == "one\n"


def test_what_was_said_before_the_command_goes_to_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[list[str]] = []
    monkeypatch.setattr(jobs, "_submit", lambda address, words, *, detach: sent.append(words) or 0)
    train = ["train", "--data", "x", "--cluster", "http://head:8265"]
    raymrcnn("-q", *train)
    raymrcnn(*train, "-v")
    assert sent == [["train", "--quiet", "--data", "x"], ["train", "--data", "x", "-v"]]


def test_a_pipe_gets_no_colour_and_eighty_columns() -> None:
    plain = run_as("weights", "list")
    assert b"\x1b" not in plain.stdout + plain.stderr
    assert max(map(len, plain.stdout.decode().splitlines())) <= 80
    wide = run_as("weights", "list", COLUMNS="150").stdout.decode()
    assert 80 < max(map(len, wide.splitlines())) <= 150
    assert b"\x1b" not in run_as("--help", NO_COLOR="1").stdout


@pytest.mark.parametrize(
    "stream",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_any_encoding_takes_tables_and_names(stream: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "猫\udcff"
    for words in (("weights", "list"), ("report", folder), ("recipes", "show", "tiny")):
        ran = run_as(*words, **stream)
        said = (ran.stdout + ran.stderr).decode("latin-1")
        assert "UnicodeEncodeError" not in said and "Traceback" not in said
        assert ran.returncode == (2 if words[0] == "report" else 0)
    assert re.search(r"error: .*no such folder", run_as("report", folder, **stream).stderr.decode(
        "latin-1"))  # fmt: skip
    table = run_as("weights", "list", **stream).stdout.decode("latin-1")
    assert "│" not in table and "|" in table


def test_json_is_one_document_of_plain_characters(made_up: Path, tmp_path: Path) -> None:
    for words in (
        ("recipes", "show"), ("recipes", "show", "tiny"), ("weights", "list"),
        ("data", "verify", "--data", made_up, "--split", "val2017"),
        ("data", "synth", "--out", tmp_path / "猫", "--images", 2),
    ):  # fmt: skip
        text = done(*words, "--json")
        assert text.isascii()
        json.loads(text)
