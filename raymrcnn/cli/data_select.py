"""`raymrcnn data subset` and `split`: parts of a data set as data sets of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json, print_table
from raymrcnn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from raymrcnn.data.select import Selected

Data = Annotated[
    str, typer.Option(metavar="DIR", help="Root of a data set, or a URI of a sharded one.")
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Root of the new data set: a folder that is not there.")
]
Images = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        help="link (hard links, and copies where the disk has none), symlink, or copy.",
    ),
]
CATEGORIES_SHOWN = 100


def subset(
    data: Data,
    out: Out,
    split: Annotated[str, typer.Option(help="Split to take from.")] = "train2017",
    number: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images, drawn by --seed. \\[default: all that fit]", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Images with one of these, and these objects alone; may be repeated.",
        ),
    ] = None,
    all_objects: Annotated[
        bool, typer.Option("--all-objects", help="With --category: keep the other objects, too.")
    ] = False,
    ids: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Ids or names of images: 1,2,3, or a file with one a line."
        ),
    ] = "",
    min_objects: Annotated[
        int, typer.Option(min=0, help="Least objects in an image, crowds not counted.")
    ] = 0,
    images: Images = "link",
    as_json: Json = False,
) -> None:
    """Write some images of a split as a small data set; entries keep their ids and fields.

    The same images are drawn whatever the order of the annotation file.

    Example: raymrcnn data subset --data coco --number 500 --category cat --category dog --out pets
    """
    from raymrcnn import storage
    from raymrcnn.data.select import Wanted
    from raymrcnn.data.select import subset as take

    wanted = Wanted(
        number=number, seed=seed, categories=tuple(category or ()), min_objects=min_objects,
        listed=listed(ids), all_objects=all_objects,
    )  # fmt: skip
    line = ProgressLine(quiet=as_json)
    try:
        done = take(
            storage.place(data), split, rundir.local_path(out, "--out"), wanted, images=images,
            progress=lambda k, n: line.show(f"{k}/{n} images", last=k >= n),
        )  # fmt: skip
    finally:
        line.close()
    _print(done, as_json)


def split(
    data: Data,
    out: Out,
    source: Annotated[str, typer.Option("--split", help="Split to divide.")] = "all",
    fractions: Annotated[
        str, typer.Option(metavar="LIST", help="Names and shares of the new splits.")
    ] = "train=0.8,val=0.2",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    group: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression: images in whose names it matches the same text stay "
            "together.",
        ),
    ] = "",
    images: Images = "link",
    as_json: Json = False,
) -> None:
    """Divide a split into several: each image in one, each category spread over all.

    Rare categories are dealt out first, so that validation has some of them. The same seed gives
    the same splits whatever the order of the annotation file.

    Example: raymrcnn data split --data own --split all --fractions train=0.8,val=0.2 --out parts
    """
    from raymrcnn import storage
    from raymrcnn.data.select import split as divide

    line = ProgressLine(quiet=as_json)
    try:
        done = divide(
            storage.place(data), source, rundir.local_path(out, "--out"), shares(fractions),
            seed=seed, group=group, images=images,
            progress=lambda k, n: line.show(f"{k}/{n} images", last=k >= n),
        )  # fmt: skip
    finally:
        line.close()
    _print(done, as_json)
    if group and not as_json:
        typer.echo(f"{done.num_groups} groups were kept together; {done.num_ungrouped} images are "
                   "in none")  # fmt: skip


def listed(text: str) -> tuple[str, ...] | None:
    """Ids or names, out of a list or a file with one a line; None where nothing is given."""
    if not text:
        return None
    path = rundir.home_expanded(text)
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else text.split(",")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the list ({error})", where=text) from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError("the list is empty", where=text)
    return found


def shares(text: str) -> dict[str, float]:
    """Names and shares out of NAME=SHARE,...

    Raises:
        ConfigError: it is written in another way, or a name comes twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, mark, value = part.strip().partition("=")
        try:
            share = float(value)
        except ValueError:
            mark, share = "", 0.0
        if not mark or name in found:
            raise ConfigError(
                f"{part.strip()!r} is no NAME=SHARE, or comes twice",
                where="--fractions",
                todo="as train=0.8,val=0.2",
            )
        found[name] = share
    return found


def _print(done: Selected, as_json: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    print_table([
        ["split", "images", "objects"],
        *([k, str(n), str(done.num_objects[k])] for k, n in done.num_images.items()),
    ], done.root)  # fmt: skip
    if len(done.num_images) > 1:
        rows = [[name, *map(str, counts)] for name, counts in done.categories.items()]
        rows.sort(key=lambda row: sum(map(int, row[1:])))
        print_table([["category", *done.num_images], *rows[:CATEGORIES_SHOWN]],
                    "Images that have a category, rare ones first")  # fmt: skip
    how = ", ".join(f"{count} {what}" for what, count in done.images_are.items())
    typer.echo(f"images: {how}")
