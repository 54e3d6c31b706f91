"""What the command line is called, down to each option: scripts rely on it."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command import done, raymrcnn, refused

from raymrcnn import __version__, api
from raymrcnn.cli import infer
from raymrcnn.cli.main import app

GOLDEN = Path(__file__).parent / "options.txt"


def commands() -> dict[str, Any]:
    """Every command by the words that call it."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        if not getattr(command, "commands", {}):
            yield " ".join(words), command

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = commands()


def surface() -> str:
    lines = []
    for words, command in sorted(COMMANDS.items()):
        options = sorted(
            name
            for parameter in command.params
            if parameter.param_type_name == "option"
            for name in (*parameter.opts, *parameter.secondary_opts)
        )
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        lines.append(f"{words}: {' '.join([*arguments, *options])}\n")
    return "".join(lines)


def test_no_option_came_or_went_unnoticed() -> None:
    assert surface() == GOLDEN.read_text(), (
        "scripts rely on these names; if the change is meant, write tests/cli/options.txt anew: "
        "python tests/cli/test_surface.py"
    )


@pytest.mark.parametrize("words", COMMANDS)
def test_help_reads_well(words: str) -> None:
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done(*words.split(), "--help")).split())
    assert f"Example: raymrcnn {words} " in text
    assert text == " ".join(re.sub(r"[│╭╮╰╯─]", " ", done(*words.split(), "-h")).split())
    for parameter in COMMANDS[words].params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name


def test_help_shows_defaults_also_where_they_depend() -> None:
    text = " ".join(re.sub("│", " ", done("infer", "--help")).split())
    for default in (
        "32, and 4 on a CPU",
        "float32",
        "0.05",
        "100",
        "-1",
        "val2017",
        "predictions",
        "auto",
    ):
        assert f"[default: {default}]" in text, default
    assert "[default: evaluation with --data, predict with --images]" in text
    text = " ".join(re.sub("│", " ", done("train", "--help")).split())
    assert "[default: runs/RECIPE-DATA]" in text
    assert "[default: r50_fpn_1x]" in text


def test_the_examples_of_the_help_are_commands() -> None:
    for words, command in COMMANDS.items():
        example = inspect.cleandoc(command.help).rpartition("Example: raymrcnn ")[2].split()
        assert example[: len(words.split())] == words.split()
        known = {name for p in command.params for name in p.opts}
        assert {word for word in example if word.startswith("--")} <= known


def test_help_needs_no_heavy_library() -> None:
    heavy = {"torch", "torchvision", "ray", "numpy", "pyarrow", "PIL", "hotcoco", "rich.table"}
    program = f"""
import sys
import raymrcnn, raymrcnn.cli.main
print(sorted({heavy!r} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stderr


def test_the_versions_of_the_stack_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = done("--version").splitlines()
    assert lines[0] == f"raymrcnn {__version__}"
    assert [line.partition(" ")[0] for line in lines[1:5]] == [
        "Python", "torch", "torchvision", "Ray",
    ]  # fmt: skip
    assert lines[1] == f"Python {platform.python_version()}"
    assert lines[2] == f"torch {importlib.metadata.version('torch')}"
    assert lines[-1].startswith("accelerator: ")

    def broken(name: str) -> None:
        raise RuntimeError("no driver\nat all")

    monkeypatch.setattr("raymrcnn.device.accelerator.pick", broken)
    assert done("--version").splitlines() == [
        *lines[:-1],
        "accelerator: unknown (no driver at all)",
    ]


def test_quiet_prints_no_progress_and_the_same_result(made_up: Path, tmp_path: Path) -> None:
    words = ["data", "shard", "--data", made_up, "--split", "val2017", "--out"]
    loud, quiet = raymrcnn(*words, tmp_path / "a"), raymrcnn("-q", *words, tmp_path / "b")
    assert loud.exit_code == quiet.exit_code == 0
    assert loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout.replace(str(tmp_path / "a"), str(tmp_path / "b"))
    assert raymrcnn(*words, tmp_path / "c").stderr  # of one command alone


def test_completion_starts_nothing_heavy() -> None:
    program = """
import os, sys
os.environ.update(_RAYMRCNN_COMPLETE="complete_bash", COMP_WORDS="raymrcnn tr", COMP_CWORD="1")
sys.argv = ["raymrcnn"]
from raymrcnn.cli.main import main
try:
    main()
except SystemExit:
    pass
assert not {"torch", "ray", "numpy"} & set(sys.modules), "heavy"
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.split() == ["train"], ran.stderr


def test_without_a_command_the_help_is_shown() -> None:
    result = raymrcnn()
    assert "Commands" in result.stdout
    assert result.exit_code in (0, 2)  # as typer has it
    assert "Traceback" not in result.stderr


# The names that the reference gave


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("--bs", "batch_size", 7),
        ("--input-data-type", "dtype", "bfloat16"),
        ("--input_data_type", "dtype", "bfloat16"),
        ("--checkpoint", "weights", "a.pth"),
        ("--modeldir", "weights", "a.pth"),
    ],
)
def test_old_names_of_options_are_taken_and_not_shown(
    old: str, new: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[dict[str, Any]] = []

    def stand_in(**options: Any) -> Any:
        taken.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "infer", stand_in)
    for arguments in ([old, value], [f"{old}={value}"]):
        assert raymrcnn("infer", *arguments).exit_code == 130
    assert [options[new] for options in taken] == [value, value]
    assert old not in done("infer", "--help")


def test_every_old_name_is_tried() -> None:
    known = {name for p in COMMANDS["infer"].params for name in p.opts}
    assert set(infer.OLD_NAMES.values()) <= known
    assert len(infer.OLD_NAMES) == 5


# Mistakes on the command line itself


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("infer --batch-size many", "Invalid value for '--batch-size'"),
        ("infer --batch-size 0", "Invalid value for '--batch-size'"),
        ("train --data x --workers -1", "Invalid value for '--workers'"),
        ("infer --batch-sise 3", "No such option: --batch-sise"),
        ("--bogus", "No such option: --bogus"),
        ("trian", "No such command 'trian'"),
        ("data synt", "No such command 'synt'"),
        ("train", "Missing option '--data'"),
        ("data verify", "Missing option '--data'"),
        ("report", "Missing argument"),
        ("infer --weights", "requires an argument"),
        ("score a b", "unexpected extra argument"),
        ("demo --steps 0", "Invalid value for '--steps'"),
        ("data synth --images 1 --out x", "Invalid value for '--images'"),
    ],
)
def test_a_mistake_is_one_line_that_leads_to_the_help(arguments: str, said: str) -> None:
    line = refused(*arguments.split())
    assert said in line
    assert re.search(r"; see `raymrcnn.* --help`$", line)


if __name__ == "__main__":
    GOLDEN.write_text(surface())
