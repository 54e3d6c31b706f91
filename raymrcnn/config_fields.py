"""Nested dataclasses from JSON and from words of a command line, every value checked by its type.

Knows no recipe: `config` is what uses it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raymrcnn.errors import ConfigError


def leaves(kind: type[Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names of all leaf fields and their types."""
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from leaves(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", hints[item.name]


def literal(text: str, hint: Any) -> Any:
    """The value that a word of a command line stands for: JSON, or the word itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    # A split may be called 2017, or true: words need no quotes.
    return text if hint is str and not isinstance(value, str) else value


_T = TypeVar("_T")


def build(kind: type[_T], document: Any, path: str) -> _T:
    """A dataclass from nested dictionaries; `path` is where it stands in the whole.

    Raises:
        ConfigError: a field is unknown, of another type, or out of range.
    """
    if not isinstance(document, dict):
        raise ConfigError(f"expected fields, found {document!r}", where=path or "recipe")
    hints = get_type_hints(kind)
    unknown = sorted(set(document) - set(hints))
    if unknown:
        raise ConfigError(
            f"unknown field {path}{unknown[0]}",
            where="recipe",
            todo="it may come from another version of raymrcnn",
        )
    values = {}
    for name, value in document.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = build(typing.cast("type[Any]", hint), value, f"{path}{name}.")
        else:
            values[name] = _coerce(hint, value, f"{path}{name}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(str(error), where=path or "recipe") from None


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type of a field, without guessing across kinds."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in args:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(str(a) for a in args)}",
            where=path,
            todo=f"did you mean {near[0]}?" if near else "choose one of them",
        )
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        raise ConfigError(f"{value!r} is not a list", where=path, todo="write it as [1,2,3]")
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and (isinstance(value, float) or is_int):
        number = _as_float(value)
        if math.isfinite(number):
            return number
    if hint is int and (is_int or (isinstance(value, float) and value.is_integer())):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    word = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}[hint]
    raise ConfigError(f"{value!r} is not {word}", where=path)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        return math.inf
