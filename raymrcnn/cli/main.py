"""The `raymrcnn` command: assembles one Typer app a noun, and ends errors in one line."""

from __future__ import annotations

import contextlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raymrcnn.cli import data, demo, doctor, infer, recipes, report, score, show, train, weights
from raymrcnn.cli.jobs import OnCluster
from raymrcnn.cli.loudness import give_loudness, take_any_text
from raymrcnn.errors import RaymrcnnError

INTERRUPTED = 130
# What the command line's own mistakes are called, which typer itself does not name.
USAGE_ERROR: type[Any] = typer.BadParameter.__mro__[1]


class _OneLineErrors(TyperGroup):
    """Ends what a user can mend with one line on the error stream and its exit code."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _one_line_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _one_line_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except RaymrcnnError as error:
        typer.echo(f"error: {error}", err=True)
        if show.is_verbose():
            typer.echo(traceback.format_exc(), err=True)
        raise typer.Exit(error.exit_code) from None
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        what = " ".join(error.format_message().split()).rstrip(".")
        command = error.ctx.command_path if error.ctx else "raymrcnn"
        typer.echo(f"error: {what}; see `{command} --help`", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _help(command: Callable[..., Any]) -> str:
    """The docstring, its paragraphs without line breaks: the terminal's width decides."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(text.split()) for text in paragraphs)


app = typer.Typer(
    cls=_OneLineErrors,
    name="raymrcnn",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train Mask R-CNN on every card of a cluster and label image collections of any size: "
    "Cambricon MLU, CUDA and CPU, with Ray underneath.",
    epilog="Start with [bold]raymrcnn demo[/bold]: everything below on made-up data, in minutes.",
)
app.command("demo", help=_help(demo.demo))(demo.demo)
app.command("train", cls=OnCluster, help=_help(train.train))(train.train)
app.command("infer", cls=infer.WithOldNames, help=_help(infer.infer))(infer.infer)
app.command("score", cls=OnCluster, help=_help(score.score))(score.score)
app.command("report", help=_help(report.report))(report.report)
app.command("doctor", help=_help(doctor.doctor))(doctor.doctor)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
give_loudness(app)


def _version(wanted: bool) -> None:
    if wanted:
        from raymrcnn.cli.versions import stack

        typer.echo("\n".join(stack()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the versions of raymrcnn and of what it runs on.",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No progress, of any command; results and errors stay."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="As --verbose behind a command."),
    ] = False,
) -> None:
    """Options of the command itself."""
    show.be_quiet(quiet)
    show.be_verbose(verbose)


def main() -> None:
    """Entry point of the console script."""
    take_any_text()
    sys.exit(app())


if __name__ == "__main__":
    main()
