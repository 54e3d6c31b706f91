"""`raymrcnn data`: make and check data sets."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli import data_check, data_select, data_tools, data_view
from raymrcnn.cli.jobs import OnCluster
from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json

app = typer.Typer(no_args_is_help=True, help="Make and check data sets.")

app.command()(data_tools.fetch)
app.command()(data_tools.convert)
app.command()(data_select.subset)
app.command()(data_select.split)
app.command(cls=OnCluster)(data_check.verify)
app.command()(data_check.stats)
app.command()(data_view.view)


@app.command()
def synth(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Root of the new data set.")],
    images: Annotated[
        int, typer.Option(min=2, help="Images in all: four for training to one for validation.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of everything in it.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a small made-up data set in COCO's layout, with exact masks.

    Example: raymrcnn data synth --out made-up --images 400
    """
    from raymrcnn.data.synthetic import write_synthetic

    with ProgressLine(quiet=as_json).working(f"making {images} images"):
        summary = write_synthetic(rundir.local_path(out, "--out"), images, seed)
    if as_json:
        print_json(summary.to_json())
    else:
        there = "is there already" if summary.reused else "written"
        typer.echo(f"{summary.num_train_images} images for training and {summary.num_val_images} "
                   f"for validation {there}: {summary.root}")  # fmt: skip


@app.command()
def shard(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Root of a COCO data set.")],
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Root of the new data set: a folder or a URI.")
    ],
    split: Annotated[str, typer.Option(help="Split to write.")] = "train2017",
    shard_mib: Annotated[int, typer.Option(min=1, help="MiB of images in a shard.")] = 256,
    as_json: Json = False,
) -> None:
    """Write a split as large files, for network storage and for object stores.

    Image bytes and annotations stay as they are; `train` and `infer` take the new root for --data.

    Example: raymrcnn data shard --data coco --split train2017 --out s3://bucket/coco
    """
    from raymrcnn import storage
    from raymrcnn.data.shards import write_shards

    progress = ProgressLine(quiet=as_json)

    def show(done: int, total: int) -> None:
        progress.show(f"{done}/{total} images", last=done >= total)

    with contextlib.closing(progress):
        summary = write_shards(
            rundir.local_path(data, "--data"), split, str(storage.place(out)), shard_mib << 20,
            progress=show,
        )  # fmt: skip
    if as_json:
        print_json(summary.to_json())
    else:
        there = "are there already" if summary.reused else "written"
        typer.echo(f"{summary.num_images} images in {summary.num_shards} shards "
                   f"({summary.bytes / 2**20:.1f} MiB) {there}: {summary.root}")  # fmt: skip
