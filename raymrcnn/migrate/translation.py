"""How one program's config becomes a recipe: what all programs share.

A program brings its defaults, tables of keys, and a function for what takes several keys. Each key
of the file ends in one list of the outcome; a default that the recipes cannot follow is told too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from raymrcnn.config import Recipe, recipe_from_json
from raymrcnn.config_fields import leaves
from raymrcnn.errors import ConfigError
from raymrcnn.recipes import r50_fpn_1x


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of one key."""

    key: str
    value: Any
    given: bool  # in the file; else the program's default
    what: str  # a field and its value, an option of a command, or the reason of a loss

    def __str__(self) -> str:
        default = "" if self.given else " (default)"
        return f"{self.key} {shown(self.value)}{default}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Translated:
    """A recipe, and what became of the config that it was made from."""

    program: str
    recipe: Recipe
    kept: tuple[Line, ...]
    options: tuple[Line, ...]  # of commands: no recipe has them
    lost: tuple[Line, ...]

    def assignments(self) -> list[str]:
        """What `--set` needs to make the recipe out of r50_fpn_1x."""
        mine, base = flat_fields(self.recipe), flat_fields(r50_fpn_1x())
        changed = {k: v for k, v in mine.items() if v != base[k] and k != "name"}
        return [f"{name}={shown(value)}" for name, value in changed.items()]


class Reading:
    """A config under translation: values by key, and what became of each.

    Args:
        given: the file's values.
        defaults: the program's own values of all keys that matter.
        path: named in errors.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> None:
        self.given, self.defaults, self.path = given, defaults, path
        self.fields: dict[str, Any] = {}
        self.origin: dict[str, str] = {}  # field -> key
        self.kept: list[Line] = []
        self.options: list[Line] = []
        self.lost: list[Line] = []
        self.done: set[str] = set()

    def value(self, key: str) -> Any:
        """The file's value, or the program's default."""
        return self.given[key] if key in self.given else self.defaults[key]

    def keep(self, key: str, name: str, value: Any) -> None:
        """The key decides a field of the recipe."""
        self.fields[name], self.origin[name] = value, key
        self._note(self.kept, key, f"{name}={shown(value)}")

    def part(self, key: str, why: str) -> None:
        """The key was taken together with another one, or says what is always so here."""
        if key in self.given:
            self._note(self.kept, key, why)

    def option(self, key: str, command: str) -> None:
        """An option of a command says this, not the recipe."""
        if key in self.given:
            self._note(self.options, key, command)

    def lose(self, key: str, why: str) -> None:
        """The recipe cannot have it."""
        self._note(self.lost, key, why)

    def same(self, key: str, ours: Any, why: str) -> None:
        """What the network always does; another value is lost."""
        if equal(self.value(key), ours):
            self.part(key, "the same here")
        else:
            self.lose(key, why)

    def refuse(self, key: str, what: str) -> NoReturn:
        """Another network than Mask R-CNN with a feature pyramid.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{key} is {shown(self.value(key))}: {what}",
            where=str(self.path),
            todo="choose a config of Mask R-CNN with a ResNet and FPN",
        )

    def number(self, key: str) -> float:
        """A number that others are reckoned from.

        Raises:
            ConfigError: it is none.
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{shown(value)} is not a number", where=f"{self.path}: {key}")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of numbers, or one of them.

        Raises:
            ConfigError: it is neither.
        """
        value = self.value(key)
        items = value if isinstance(value, list) else [value]
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in items):
            raise ConfigError(
                f"{shown(value)} is not a list of numbers", where=f"{self.path}: {key}"
            )
        return items

    def _note(self, lines: list[Line], key: str, what: str) -> None:
        self.done.add(key)
        given = key in self.given
        lines.append(Line(key=key, value=self.value(key), given=given, what=what))


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is known of a program's config."""

    name: str
    conventions: str
    defaults: Mapping[str, Any]
    # Each decides one field as it stands: key -> field.
    fields: Mapping[str, str]
    # Each must say what the network always does: key -> (our value, why another is lost).
    fixed: Mapping[str, tuple[Any, str]]
    # Each is an option of a command: key -> that option; the value is filled in.
    options: Mapping[str, str]
    # Keys that decide nothing here, by the start of their name -> why.
    idle: Mapping[str, str]
    # What takes several keys or a choice.
    others: Callable[[Reading], None]
    sections: tuple[str, ...] = field(default=("MODEL", "INPUT", "SOLVER"))


def translate(program: Program, given: Mapping[str, Any], path: Path) -> Translated:
    """A recipe of what the keys say, and a line for each key.

    Raises:
        ConfigError: a value is of the wrong kind, or the network is none that is trained here.
    """
    if not {key.partition(".")[0] for key in given} & set(program.sections):
        raise ConfigError(
            f"has none of the sections {', '.join(program.sections)}",
            where=str(path),
            todo="give a config of maskrcnn-benchmark or detectron2",
        )
    reading = Reading(given, program.defaults, path)
    program.others(reading)
    for key, name in program.fields.items():
        if key not in reading.done:
            reading.keep(key, name, reading.value(key))
    for key, (ours, why) in program.fixed.items():
        if key not in reading.done:
            reading.same(key, ours, why)
    for key, text in program.options.items():
        if key not in reading.done:
            reading.option(key, text.format(value=shown(reading.value(key))))
    for key in given:
        if key in reading.done:
            continue
        idle = [why for start, why in program.idle.items() if key.startswith(start)]
        if idle:
            reading.part(key, idle[0])
        else:
            reading.lose(key, f"no such key of {program.name} is known")
    recipe = _built(reading, program)
    before = flat_fields(r50_fpn_1x())
    kept = [line for line in reading.kept if line.given or _changes(line, reading, before)]
    return Translated(
        program=program.name,
        recipe=recipe,
        kept=tuple(kept),
        options=tuple(reading.options),
        lost=tuple(reading.lost),
    )


def _changes(line: Line, reading: Reading, before: Mapping[str, Any]) -> bool:
    name = line.what.partition("=")[0]
    return name in before and not equal(reading.fields.get(name), before[name])


def _built(reading: Reading, program: Program) -> Recipe:
    document = r50_fpn_1x().to_json()
    document["name"] = reading.path.stem
    reading.fields["model.conventions"] = program.conventions
    for name, value in reading.fields.items():
        section, dot, leaf = name.rpartition(".")
        (document[section] if dot else document)[leaf] = value
    try:
        return recipe_from_json(document)
    except ConfigError as error:
        key = reading.origin.get(error.where.partition("[")[0], error.where)
        raise ConfigError(error.what, where=f"{reading.path}: {key}") from None


def flat_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe by dotted names, in JSON's types."""
    document = recipe.to_json()
    found = {}
    for name, _ in leaves(Recipe):
        section, dot, leaf = name.rpartition(".")
        found[name] = (document[section] if dot else document)[leaf]
    return found


def equal(a: Any, b: Any) -> bool:
    """Whether two values are one: numbers to rounding, True not 1, tuples as lists."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return bool(a == b)


def shown(value: Any) -> str:
    """A value as `--set` takes it: JSON without spaces, words without quotes."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if not isinstance(value, str) else '""'
