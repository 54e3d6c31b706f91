"""The `raymrcnn` command: assembles one Typer app a noun, and ends errors in one line."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raymrcnn import __version__
from raymrcnn.cli import data, demo, infer, recipes, report, score, train
from raymrcnn.errors import RaymrcnnError

INTERRUPTED = 130


class _OneLineErrors(TyperGroup):
    """Ends what a user can mend with one line on the error stream and its exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except RaymrcnnError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; run the same command again to go on", err=True)
            raise typer.Exit(INTERRUPTED) from None


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
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("infer", cls=infer.WithOldNames)(infer.infer)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("recipes")(recipes.recipes)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raymrcnn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())


if __name__ == "__main__":
    main()
