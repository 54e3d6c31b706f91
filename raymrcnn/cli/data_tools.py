"""`raymrcnn data fetch` and `convert`: data sets from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json, print_table


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


def convert(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the data set, or YOLO's data.yaml.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Root of the new data set: a folder that is not there."),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NAME",
            help="labelme, voc, yolo or coco. \\[default: what the files hold]",
            show_default=False,
        ),
    ] = "",
    target: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="NAME",
            help="coco; from coco yolo or labelme. \\[default: coco, and from coco yolo]",
            show_default=False,
        ),
    ] = "",
    split: Annotated[
        list[str] | None,
        typer.Option(help="Splits to take; may be repeated. \\[default: all]", show_default=False),
    ] = None,
    categories: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Names in the order of their ids, as cat,dog. "
            "\\[default: the data's order, or sorted]",
            show_default=False,
        ),
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that are wrong, and list them.")
    ] = False,
    images: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="link (hard links, and copies where the disk has none), symlink, or copy.",
        ),
    ] = "link",
    as_json: Json = False,
) -> None:
    """Turn labelme, VOC or YOLO data into COCO's layout, or COCO's into YOLO's or labelme's.

    Without --skip-bad one bad image refuses all; with it an image with a bad object is left out as
    a whole.

    Example: raymrcnn data convert --data labelled --out own
    """
    from raymrcnn.data.convert import Options
    from raymrcnn.data.convert import convert as turn

    names = [name.strip() for name in categories.split(",") if name.strip()]
    options = Options(source=source, target=target, splits=split or (), categories=names,
                      skip_bad=skip_bad, images=images)  # fmt: skip
    line = ProgressLine(quiet=as_json)
    try:
        done = turn(
            rundir.local_path(data, "--data"), rundir.local_path(out, "--out"), options,
            lambda k, n: line.show(f"{k}/{n} images", last=k >= n),
        )  # fmt: skip
    finally:
        line.close()
    if as_json:
        print_json(done.to_json())
        return
    for fault in done.left_out:
        typer.echo(f"left out: {fault}")
    print_table([
        ["split", "images", "without an object", "objects"],
        *([k, str(n), str(done.num_empty[k]), str(done.num_objects[k])]
          for k, n in done.num_images.items()),
    ], f"{done.source} to {done.target}: {done.root}")  # fmt: skip
    how = ", ".join(f"{count} {what}" for what, count in done.images_are.items())
    typer.echo(f"{len(done.categories)} categories; images: {how}")
    if done.num_crowds_left_out:
        typer.echo(f"{done.num_crowds_left_out} crowds were left out, which YOLO has no word for")
