"""`--cluster http://HEAD:8265`: the command runs there as a job, and is followed here."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperCommand

from raymrcnn.cli import show

SCHEMES = ("http://", "https://")
_WORDS = "raymrcnn.words"


class OnCluster(TyperCommand):
    """A command that, given the address of a job server, sends itself there."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Keep the words, then parse: what is sent was found to be well written."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run, here or there."""
        address = ctx.params.get("cluster") or ""
        detach = ctx.params.pop("detach")
        if not address.startswith(SCHEMES):
            if detach:
                raise typer.BadParameter("--detach needs --cluster http://HEAD:8265", ctx)
            ctx.params["detach"] = False
            return super().invoke(ctx)
        words = [*_names(ctx), *_loudness(ctx.meta[_WORDS]), *without(ctx.meta[_WORDS])]
        raise typer.Exit(_submit(address, words, detach=detach))


def _names(ctx: typer.Context) -> list[str]:
    """Of the command, as `data verify`; not of the program, which may be several words."""
    names: list[str] = []
    here: Any = ctx
    while here.parent is not None:
        names.insert(0, here.info_name or "")
        here = here.parent
    return names


def _loudness(words: list[str]) -> list[str]:
    """What was said before the name of the command, for the command there."""
    said = {"--quiet": show.is_quiet(), "--verbose": show.is_verbose()}
    given = set(words) | {{"-q": "--quiet", "-v": "--verbose"}.get(word, word) for word in words}
    return [name for name, on in said.items() if on and name not in given]


def without(words: list[str]) -> list[str]:
    """The words without --cluster ADDR and --detach."""
    kept: list[str] = []
    skip = False
    for k, word in enumerate(words):
        if skip:
            skip = False
        elif word == "--":
            return [*kept, *words[k:]]
        elif word == "--cluster":
            skip = True
        elif word != "--detach" and not word.startswith("--cluster="):
            kept.append(word)
    return kept


def _submit(address: str, words: list[str], *, detach: bool) -> int:
    from raymrcnn.submit.on_ray import submit

    def on_start(job: str) -> None:
        follow = f"ray job logs --address {address} --follow {job}"
        stop = f"ray job stop --address {address} {job}"
        text = f"job {job}; follow it: {follow}; stop it: {stop}" if detach else f"job {job}"
        typer.echo(text, err=not detach)

    def on_text(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return submit(address, words, on_text=on_text, on_start=on_start, detach=detach)
