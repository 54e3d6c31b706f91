"""`raymrcnn recipes`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import print_json, print_table


def recipes(
    name: Annotated[str | None, typer.Argument(help="The recipe to show.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Show it with this field changed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes, or show every field of one.

    Example: raymrcnn recipes tiny --set optim.max_iter=800
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
