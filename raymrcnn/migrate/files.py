"""YAML configs, read without running anything: the only door to yaml.

Python tags, aliases and files that are large or deep are refused. Values are read as yacs reads
them: text that is a Python literal is that literal, so `(640, 800)` is a list.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from raymrcnn.errors import ConfigError

BASE = "_BASE_"
MAX_BYTES = 1 << 20
MAX_BASES = 16


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Safe YAML without aliases, which can make a small file large."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)


def read_config(path: Path) -> dict[str, Any]:
    """The values of a config and of those it builds on, by dotted names, its own winning.

    Raises:
        ConfigError: a file is missing, malformed, too large, or builds on itself.
    """
    merged: dict[str, Any] = {}
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        here = following.resolve()
        if here in seen or len(seen) == MAX_BASES:
            raise ConfigError(
                f"{BASE} leads back to {here.name}"
                if here in seen
                else f"more than {MAX_BASES} files build on one another",
                where=str(path),
                todo=f"mend {BASE}",
            )
        seen.append(here)
        values = _flat(_document(following), following)
        base = values.pop(BASE, None)
        merged = {**values, **merged}
        following = None if base is None else _base(base, following)
    return merged


def _base(value: Any, file: Path) -> Path:
    if not isinstance(value, str) or "://" in value:
        raise ConfigError(f"{BASE} is {value!r}, which is no file here", where=str(file))
    return file.parent / Path(value).expanduser()


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, plain values alone.

    Raises:
        ConfigError: it is missing, malformed, too large, or holds more than plain values.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"is larger than {MAX_BYTES >> 20} MiB, which no config is", where=str(path)
            )
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise ConfigError(f"cannot read ({error.strerror})", where=str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise ConfigError(f"is not plain YAML ({what[:300]})", where=str(path)) from None


def _document(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict) or not document:
        raise ConfigError(
            "has no sections such as MODEL or SOLVER",
            where=str(path),
            todo="give a config of maskrcnn-benchmark or detectron2",
        )
    return document


def _flat(document: dict[Any, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found.update(_flat(value, path, f"{key}."))
        else:
            found[key] = value if key == BASE else plain(value)
    return found


def plain(value: Any) -> Any:
    """A value as yacs takes it: literals in text read, tuples as lists."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
