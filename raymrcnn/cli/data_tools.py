"""`raymrcnn data fetch` and `convert`: data sets from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json


def fetch(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Root of the data set.")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="train2017, val2017 or test2017; may be repeated. \\[default: train2017, val2017]",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="WHAT", help="annotations, or images: without the other.")
    ] = "",
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="RAYMRCNN_MIRROR",
            show_envvar=False,
            help="Address that stands for the publisher's host. \\[default: RAYMRCNN_MIRROR]",
            show_default=False,
        ),
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Leave the zip files in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring COCO 2017 here, checked and unpacked, in the layout that `train` and `infer` take.

    A cut call goes on where it ended; a second one does nothing. train2017 needs 39 GB while it is
    unpacked and 20 GB afterwards, val2017 2 GB, the annotations 1.1 GB.

    Example: raymrcnn data fetch --split val2017 --out coco
    """
    from raymrcnn.data.coco2017 import fetch_coco

    line = ProgressLine(quiet=as_json)
    try:
        done = fetch_coco(
            rundir.local_path(out, "--out"), split or ["train2017", "val2017"], only=only,
            mirror=mirror, keep_archives=keep_archives, progress=line.show,
        )  # fmt: skip
    finally:
        line.close()
    if as_json:
        print_json(done.to_json())
        return
    typer.echo(f"fetched: {', '.join(done.fetched) or 'nothing, all of it is there'}")
    images = ", ".join(f"{count} images of {name}" for name, count in done.num_images.items())
    typer.echo(f"{done.root}: {images or 'annotations'}")
    for note in done.notes:
        typer.echo(note)
