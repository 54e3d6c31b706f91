"""`--quiet` and `--verbose`, which every command takes, and output that any stream can take."""

from __future__ import annotations

import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from raymrcnn.cli import show

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress; results and errors stay.",
        callback=lambda value: show.be_quiet(True) if value else None,
        expose_value=False,
        show_default=False,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Also where an error arose, Ray's own messages, and each line of progress in a log.",
        callback=lambda value: show.be_verbose(True) if value else None,
        expose_value=False,
        show_default=False,
    ),
]


def give_loudness(app: typer.Typer) -> None:
    """Give every command of an app, and of those below it, the two options."""
    for command in app.registered_commands:
        command.cls = _louder(command.cls or TyperCommand)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            give_loudness(group.typer_instance)


def _louder(kind: type[TyperCommand]) -> type[TyperCommand]:
    def init(self: TyperCommand, *args: Any, **options: Any) -> None:
        options["params"] = [*(options.get("params") or []), *_parameters()]
        kind.__init__(self, *args, **options)

    return cast("type[TyperCommand]", type(kind.__name__, (kind,), {"__init__": init}))


def _parameters() -> list[Any]:
    """The two options as the parser has them, made by typer itself."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def options(quiet: Quiet = False, verbose: Verbose = False) -> None:
        raise AssertionError("is only looked at")

    return list(typer.main.get_command(probe).params)


def take_any_text() -> None:
    """Let the standard streams take names that their encoding lacks, escaped, instead of failing.

    One of UTF-8 that hands on bytes of names that are no text (in the C locale) stays as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        again = getattr(stream, "reconfigure", None)
        utf8 = str(getattr(stream, "encoding", "")).lower().replace("-", "") == "utf8"
        if again is not None and not (utf8 and stream.errors == "surrogateescape"):
            again(errors="backslashreplace")
