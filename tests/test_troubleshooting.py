"""Each error message of the product has its cause and fix in docs/troubleshooting.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymrcnn import errors
from raymrcnn.errors import RaymrcnnError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, RaymrcnnError) and kind is not RaymrcnnError
}
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "raymrcnn").rglob("*.py"))
}
# Special cases of the kinds, defined where they arise.
SPECIAL = {
    name
    for text in SOURCES.values()
    for name, base in re.findall(r"^class (\w+)\((\w+)\):", text, re.M)
    if base in KINDS
}
# A message that was added or reworded should not stop everybody at once; many should.
MOST_MISSING = 0.05


def fragments(node: ast.expr) -> Iterator[list[str]]:
    """The words of a message around its values, for each way that it can be worded."""
    if isinstance(node, ast.Constant):
        yield [str(node.value)]
    elif isinstance(node, ast.JoinedStr):
        yield [str(v.value) for v in node.values if isinstance(v, ast.Constant)]
    elif isinstance(node, ast.IfExp):
        yield from fragments(node.body)
        yield from fragments(node.orelse)


def messages(source: str) -> Iterator[tuple[str, str]]:
    """Kind and longest piece of plain words of every message; those made of values alone not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id not in KINDS | SPECIAL:
                continue
            for words in fragments(node.args[0]):
                longest = max((w.strip(" ('\":;,.`") for w in words), key=len, default="")
                if len(longest) > 5:
                    yield node.func.id, longest


ALL = {(kind, words, path) for path, text in SOURCES.items() for kind, words in messages(text)}


def test_the_messages_are_found() -> None:
    assert len(ALL) > 200
    text = 'raise DataError(f"no {x} is there" if y else "empty hall", where=z)'
    assert list(messages(text)) == [("DataError", "is there"), ("DataError", "empty hall")]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_error_has_its_place(kind: str) -> None:
    headings = re.findall(r"^## .*$", PAGE, re.M)
    assert any(kind in heading for heading in headings), f"give {kind} a part of the page"


def test_the_messages_stand_in_the_page() -> None:
    spans = " ".join(a or b for a, b in re.findall(r"``(.+?)``|`([^`]+)`", PAGE))
    missing = sorted(f"{path}: {words}" for _, words, path in ALL if words not in spans)
    listed = "\n".join(missing)
    print(listed)
    assert len(missing) <= MOST_MISSING * len(ALL), f"docs/troubleshooting.md lacks:\n{listed}"


def test_every_row_has_cause_and_fix() -> None:
    for row in re.findall(r"^\| `.*$", PAGE, re.M):
        cells = [
            cell.strip() for cell in re.sub(r"``.+?``|`[^`]*`", "x", row).strip("|").split("|")
        ]
        assert len(cells) == 3, row
        assert all(cells), row
