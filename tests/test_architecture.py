"""Imports go down only, packages of one floor never meet, and each library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "raymrcnn"
FLOORS = {
    "cli": 5,
    "api": 4,
    "train": 3, "infer": 3, "report": 3, "doctor": 3, "scoring": 3, "submit": 3,
    "model": 2, "weights": 2, "data": 2, "score": 2,
    "device": 1,
    "config": 0, "config_fields": 0, "download": 0, "errors": 0, "mask_layout": 0, "masks": 0,
    "migrate": 0, "overlay": 0, "paste": 0, "pictures": 0, "recipes": 0, "rle": 0, "rows": 0,
    "rundir": 0, "storage": 0, "structures": 0, "tracing": 0,
}  # fmt: skip
# weights fills the networks that model builds, and infer scores what it found; api is the way
# from the command line to the procedures. All of these go down.
DOORS = {
    "ray": lambda path: path.name == "on_ray.py",
    "torch_mlu": lambda path: path == PACKAGE / "device" / "mlu.py",
    "pycocotools": lambda path: path == PACKAGE / "masks.py",
    "hotcoco": lambda path: path == PACKAGE / "score" / "coco.py",
    "typer": lambda path: path.parent.name == "cli",
    "yaml": lambda path: path == PACKAGE / "migrate" / "files.py",
    "click": lambda path: False,
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def faults_of(path: Path, text: str) -> list[str]:
    """What a file does that the architecture forbids."""
    found = []
    room = room_of(path)
    for name in set(imports(ast.parse(text))):
        top, *rest = name.split(".")
        if top == "raymrcnn" and rest and rest[0] in FLOORS and room != "__init__":
            other = rest[0]
            if other != room and FLOORS[other] >= FLOORS[room] > 0:
                found.append(f"{room} (floor {FLOORS[room]}) imports {other}")
            if FLOORS[room] == 0 and FLOORS[other] > 0:
                found.append(f"{room} (floor 0) imports {other}")
        if top in DOORS and not DOORS[top](path):
            found.append(f"{top} has another door")
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "torch"
            and node.attr in ("cuda", "mlu")
            and room != "device"
        ):
            found.append(f"torch.{node.attr} outside device/")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_keeps_to_its_floor_and_to_the_doors(path: Path) -> None:
    assert faults_of(path, path.read_text(encoding="utf-8")) == []


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms <= set(FLOORS), f"give {sorted(rooms - set(FLOORS))} a floor"


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("data/x.py", "from raymrcnn.train import loop"),  # up
        ("data/x.py", "from raymrcnn.score import coco"),  # sideways
        ("train/x.py", "def f():\n    import raymrcnn.infer.sink"),  # sideways, hidden
        ("rows.py", "from raymrcnn.device import numerics"),  # from the ground floor
        ("train/loop.py", "import ray"),
        ("data/x.py", "from pycocotools import mask"),
        ("model/x.py", "import torch\ntorch.cuda.synchronize()"),
        ("report/x.py", "import typer"),
    ],
)
def test_a_forbidden_import_is_found(room: str, text: str) -> None:
    assert faults_of(PACKAGE / room, text)


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, f"split these: {long}"
