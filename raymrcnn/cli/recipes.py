"""`raymrcnn recipes`: what there is to train, and recipes out of other programs' configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import print_json, print_table

if TYPE_CHECKING:
    from raymrcnn.migrate import Translated

_HELP = ("-h", "--help")


class _ShowByDefault(TyperGroup):
    """`recipes NAME` is `recipes show NAME`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or args[0] not in (*self.commands, *_HELP):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowByDefault,
    help="List the recipes, show every field of one (`raymrcnn recipes NAME`), or make one out of "
    "another program's config.",
)


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="The recipe to show, or a .json file of one.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Show it with this field changed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes, or show every field of one; the word show may be left out.

    Example: raymrcnn recipes show tiny --set optim.max_iter=800
    """
    from raymrcnn.config import override
    from raymrcnn.errors import ConfigError
    from raymrcnn.recipes import RECIPES, recipe_named

    if name is None:
        if assignments:
            raise ConfigError("of which recipe?", where="--set", todo="give its name first")
        about = {key: str(make.__doc__).splitlines()[0] for key, make in RECIPES.items()}
        if as_json:
            print_json(about)
        else:
            print_table([["recipe", "what it is"], *([k, v] for k, v in about.items())])
        return
    document = override(recipe_named(name), assignments or []).to_json()
    if as_json:
        print_json(document)
        return
    for section, fields in document.items():
        if isinstance(fields, dict):
            for field, value in fields.items():
                typer.echo(f"{section}.{field}={json.dumps(value)}")
        else:
            typer.echo(f"{section}={json.dumps(fields)}")


@app.command("import")
def import_config(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A YAML config of maskrcnn-benchmark or detectron2.",
            show_default=False,
        ),
    ],
    program: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PROGRAM",
            help="maskrcnn-benchmark or detectron2. \\[default: told from the keys]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe here, for `train --recipe FILE`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a recipe out of another program's config, and say what became of each key.

    Prints what was kept, what is an option of a command, what was lost and why, and the recipe as
    --set options. Nothing in the file is run.

    Example: raymrcnn recipes import e2e_mask_rcnn_R_101_FPN_1x.yaml --out r101.json
    """
    from raymrcnn import rundir
    from raymrcnn.errors import ConfigError
    from raymrcnn.migrate import import_recipe

    if out is not None and out.suffix.lower() != ".json":
        raise ConfigError(f"{out} does not end in .json", where="--out", todo="name it so")
    made = import_recipe(file, program)
    if out is not None:
        rundir.write_json(out, made.recipe.to_json())
    if as_json:
        print_json(_document(made, out))
        return
    typer.echo(f"{file}: a config of {made.program}")
    for word, lines in (("kept", made.kept), ("option", made.options), ("lost", made.lost)):
        for line in lines:
            typer.echo(f"{word:<7}{line}")
    if out is not None:
        typer.echo(f"wrote {out}: raymrcnn train --recipe {out}")
    else:
        typer.echo("\nraymrcnn train --recipe r50_fpn_1x")
        for assignment in made.assignments():
            typer.echo(f"  --set {assignment}")


def _document(made: Translated, out: Path | None) -> dict[str, Any]:
    def listed(lines: Any) -> list[dict[str, Any]]:
        return [
            {"key": line.key, "value": line.value, "given": line.given, "what": line.what}
            for line in lines
        ]

    return {
        "program": made.program,
        "recipe": made.recipe.to_json(),
        "kept": listed(made.kept),
        "options": listed(made.options),
        "lost": listed(made.lost),
        "out": None if out is None else str(out),
    }
