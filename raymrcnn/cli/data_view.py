"""`raymrcnn data view`: a data set for the eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.data_select import Data, listed
from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json

NOTES_SHOWN = 10


def view(
    data: Data,
    split: Annotated[str, typer.Option(help="Split to look at.")] = "train2017",
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A page (.html) or one picture (.png).")
    ] = Path("view.html"),
    number: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images, drawn by --seed. \\[default: 24, or all of --ids and --findings]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Images with one of these; may be repeated."),
    ] = None,
    ids: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Ids or names of images: 1,2,3, or a file with one a line."
        ),
    ] = "",
    findings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What `raymrcnn data verify --json` wrote: the images "
            "that it names, with what it says.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="With --findings: only of this kind; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw images with their masks, boxes and categories, as the annotation file has them.

    The page needs nothing beside itself; it has switches for masks, boxes, names and categories.

    Example: raymrcnn data view --data own --split train --number 40 --out train.html
    """
    from raymrcnn import storage
    from raymrcnn.data.select import Wanted
    from raymrcnn.report.annotated import view as draw

    wanted = Wanted(number=number, seed=seed, categories=tuple(category or ()), listed=listed(ids))
    line = ProgressLine(quiet=as_json)
    try:
        done = draw(
            storage.place(data), split, rundir.local_path(out, "--out"), wanted,
            findings=findings, kinds=kind or (),
            progress=lambda k, n: line.show(f"{k}/{n} images", last=k >= n),
        )  # fmt: skip
    finally:
        line.close()
    if as_json:
        print_json(done.to_json())
        return
    for note in done.notes[:NOTES_SHOWN]:
        typer.echo(note)
    if len(done.notes) > NOTES_SHOWN:
        typer.echo(f"and {len(done.notes) - NOTES_SHOWN} more")
    typer.echo(f"{done.num_images} images with {done.num_objects} objects: {done.file}")
