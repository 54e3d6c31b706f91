"""What the README says is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raymrcnn.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The raymrcnn command lines of the README's code blocks."""
    lines = re.findall(r"^    (raymrcnn .*)$", README, re.M)
    return [shlex.split(line, comments=True) for line in lines]


def test_there_are_commands() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[1])
def test_every_option_of_a_command_exists(words: list[str]) -> None:
    from typer.main import get_command

    from raymrcnn.cli.main import app

    command = get_command(app).commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"`?make ([a-z]+)", README)) <= set(targets)


def test_the_recipes_are_listed() -> None:
    assert all(f"`{name}`" in README for name in RECIPES)


def test_the_table_shows_the_results_on_file() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import _readme;"
        "text = _readme.README.read_text(); sys.exit(_readme.with_table(text) != text)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
