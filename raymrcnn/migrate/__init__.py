"""Configs of other Mask R-CNN programs to recipes: maskrcnn-benchmark's and detectron2's YAML.

Nothing of a config is run, and nothing is guessed: every key of the file is told as kept, as an
option of a command, or as lost, with the reason.
"""

from __future__ import annotations

from pathlib import Path

from raymrcnn.errors import ConfigError
from raymrcnn.migrate.benchmark import BENCHMARK
from raymrcnn.migrate.detectron2 import DETECTRON2
from raymrcnn.migrate.files import read_config
from raymrcnn.migrate.translation import Program, Translated, translate

__all__ = ["PROGRAMS", "Translated", "import_recipe"]

PROGRAMS: dict[str, Program] = {program.name: program for program in (BENCHMARK, DETECTRON2)}


def import_recipe(path: Path, program: str | None = None) -> Translated:
    """The recipe that a config file stands for.

    Args:
        path: YAML of a whole run; `_BASE_` files are read too.
        program: a name of `PROGRAMS`; None: told from the keys.

    Raises:
        ConfigError: the file is no such config, or of a network that is not trained here.
    """
    if program is not None and program not in PROGRAMS:
        raise ConfigError(
            f"{program!r} is not one of {', '.join(PROGRAMS)}", where="--from", todo="choose one"
        )
    given = read_config(path)
    chosen = PROGRAMS[program] if program is not None else _written_for(path, set(given))
    return translate(chosen, given, path)


def _written_for(path: Path, keys: set[str]) -> Program:
    """The program that has more of the keys alone than the other."""
    benchmark, detectron2 = (len(keys & p.defaults.keys()) for p in (BENCHMARK, DETECTRON2))
    if benchmark == detectron2:
        raise ConfigError(
            f"cannot tell which program this config is for ({len(keys)} keys)",
            where=str(path),
            todo=f"say it: --from {' or --from '.join(PROGRAMS)}",
        )
    return BENCHMARK if benchmark > detectron2 else DETECTRON2
