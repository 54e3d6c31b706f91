"""`raymrcnn report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json


def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_PREDICTIONS...", help="Run and predictions folders: paths or URIs."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The page. \\[default: report.html in the first folder; comparison.html there "
            "where several are compared]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Root of the data set, where it has moved."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data.")] = None,
    resamples: Annotated[
        int,
        typer.Option(
            min=0,
            help="Of the images, for the intervals of differences in a comparison; 0: none.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run, its predictions, or both; or one that compares several.

    Losses, scores, precision and recall, the best and the worst images beside their ground truth,
    and the commands to do it again. Several runs or predictions stand side by side. The page needs
    no network and no other file.

    Example: raymrcnn report runs/r101 predictions --out r101.html
    """
    from raymrcnn.report.places import write_report_of
    from raymrcnn.storage import settled

    line = ProgressLine(quiet=as_json)
    page = write_report_of(
        [settled(folder) for folder in folders], None if out is None else settled(out),
        data_root=data, split=split, resamples=resamples,
        progress=lambda what, done, of: line.show(f"{what}: {done}/{of}"),
    )  # fmt: skip
    line.close()
    if as_json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"report: {page}")
