"""What the documentation says is there: its commands parse, its links lead, its Python runs."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from raymrcnn.cli.main import USAGE_ERROR, app
from raymrcnn.config import Recipe, field_paths, override
from raymrcnn.errors import ConfigError
from raymrcnn.recipes import recipe_named

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").glob("*.md"))]
APP = typer.main.get_command(app)
_ENDS = re.compile(r"(^|\s)(>|>>|\||&&)(\s|$)")  # what a shell does with the rest


def prose_and_blocks(text: str) -> tuple[str, list[str]]:
    """The text outside code blocks, and the lines of code blocks, continued ones joined."""
    fenced = re.compile(r"^```.*?^```$", re.M | re.S)
    lines = [line for block in fenced.findall(text) for line in block.splitlines()[1:-1]]
    rest = fenced.sub("", text)
    lines += re.findall(r"^    (.*)$", rest, re.M)
    joined = "\n".join(lines).replace("\\\n", " ")
    return re.sub(r"^    .*$", "", rest, flags=re.M), joined.splitlines()


def block_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        _, lines = prose_and_blocks(page.read_text(encoding="utf-8"))
        for line in lines:
            command = re.search(r"(?:^|-- )(raymrcnn .*)$", line.strip())
            if command:
                found.append((page.name, _ENDS.split(command[1])[0]))
    return found


def inline_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        prose, _ = prose_and_blocks(page.read_text(encoding="utf-8"))
        for text in re.findall(r"`(raymrcnn [^`]+)`", prose):
            found.append((page.name, _ENDS.split(" ".join(text.split()))[0]))
    return found


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words call, and what is left of them."""
    command, rest = APP, list(words)
    while getattr(command, "commands", None):
        known = {name for p in command.params for name in p.opts}
        while rest and rest[0] in known:
            rest.pop(0)
        if not rest:
            return command, rest
        if rest[0] not in command.commands and "show" in command.commands:
            rest.insert(0, "show")
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_options(command: Any, words: list[str]) -> None:
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    taken = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert taken <= known, taken - known


def check_fields(words: list[str]) -> None:
    """That what follows --set can be set."""
    for option, value in zip(words, words[1:], strict=False):
        if option == "--set" and "NAME" not in value and "section" not in value:
            with contextlib.suppress(ConfigError):
                override(recipe_named("r50_fpn_1x"), [value])
                continue
            assert value.partition("=")[0] in set(field_paths(Recipe)), value


@pytest.mark.parametrize(("page", "text"), block_commands())
def test_a_command_in_a_block_is_well_written(page: str, text: str) -> None:
    words = shlex.split(text, comments=True)[1:]
    command, rest = command_of(words)
    if "..." in rest or not words or words[0].startswith("--"):
        check_options(APP if not rest else command, rest)
        return
    check_fields(rest)
    with command.make_context("raymrcnn", rest):  # parses and checks values, and runs nothing
        pass


@pytest.mark.parametrize(("page", "text"), inline_commands())
def test_a_command_in_a_sentence_exists(page: str, text: str) -> None:
    words = shlex.split(text)[1:]
    if words[:1] in (["..."], ["…"]):
        return
    command, rest = command_of(words)
    check_options(APP if not words or words[0].startswith("-") else command, rest)
    check_fields(rest)


def test_a_command_that_is_wrong_is_found() -> None:
    command, rest = command_of(["infer", "--batch-sise", "3"])
    with pytest.raises(USAGE_ERROR):
        command.make_context("raymrcnn", rest)
    with pytest.raises(AssertionError):
        check_options(command, rest)
    with pytest.raises(AssertionError):
        command_of(["data", "synt"])
    with pytest.raises(AssertionError):
        check_fields(["--set", "optim.max_itr=3"])
    assert len(block_commands()) > 30
    assert len(inline_commands()) > 20


def test_fields_named_in_the_docs_exist() -> None:
    known = set(field_paths(Recipe))
    sections = {path.partition(".")[0] for path in known if "." in path}
    files = "safetensors|json|yaml"
    named = re.compile(rf"`((?:{'|'.join(sections)})\.(?!{files})[a-z_0-9]+)(?:=[^`]*)?`")
    for page in PAGES:
        found = set(named.findall(page.read_text(encoding="utf-8")))
        assert found <= known, (page.name, found - known)


def test_the_keys_of_the_migration_page_are_known() -> None:
    from raymrcnn.migrate import PROGRAMS

    text = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
    keys = set().union(*(program.defaults for program in PROGRAMS.values()))
    for key in re.findall(
        r"`((?:MODEL|INPUT|SOLVER|DATALOADER|DATASETS|TEST)\.[A-Z0-9_.]+)`", text
    ):
        assert key in keys or any(known.startswith(f"{key}.") for known in keys), key


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-d",
        str(tmp_path / "site"),
    ]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {name for entry in listed for name in entry.values()}
    assert pages == {page.name for page in (ROOT / "docs").glob("*.md")}
    assert (tmp_path / "site/quickstart.html").is_file()


def python_blocks(page: str) -> Iterator[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    yield from re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.ray
def test_the_python_of_the_docs_runs(tmp_path: Path) -> None:
    program = "\n".join(python_blocks("python.md"))
    assert "write_dataset" in program
    (tmp_path / "example.py").write_text(program, encoding="utf-8")
    words = [sys.executable, "example.py"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [line for line in ran.stdout.splitlines() if line.strip()]
    assert lines[0] == "complete 30"
    assert "{1: 'disc'}" in ran.stdout
    assert "nowhere.jpg | cannot read the image" in ran.stdout
    assert (tmp_path / "drawn.png").is_file()


def test_the_recipes_page_has_every_field_with_its_default() -> None:
    from raymrcnn.recipes import RECIPES

    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.0-9]+)` \| `([^`]*)` \|", text, re.M)
    assert [name for name, _ in rows if name != "name"] and len(rows) == len(dict(rows))
    assert set(dict(rows)) == set(field_paths(Recipe)) - {"name"}
    base = recipe_named("r50_fpn_1x")
    for name, default in rows:
        value = default if default != "1/3" else str(1 / 3)
        assert override(base, [f"{name}={value}"]) == base, (name, default)
    assert all(f"| `{name}` |" in text for name in RECIPES)
