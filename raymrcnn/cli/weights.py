"""`raymrcnn weights`: what a weight file is, and files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json, print_table

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A weight file, a run folder, or the name of published weights."
    ),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Fetch published weights, look into weight files, and convert them.",
)


@app.command()
def inspect(
    source: Source,
    as_json: Json = False,
) -> None:
    """Say which program made a file, which network it holds, and whether it loads whole.

    Nothing in the file is run. Exits with 2 if it is no weight file, or does not load.

    Example: raymrcnn weights inspect e2e_mask_rcnn_R_101_FPN_1x.pth
    """
    from raymrcnn.config import ModelConfig
    from raymrcnn.infer.inspect import inspect_weights

    found = inspect_weights(source)
    if as_json:
        print_json(found.to_json())
        return
    rows = [
        ["what", found.source],
        ["file", f"{found.format}, SHA-256 {found.sha256[:16]}..."],
        ["made by", found.program],
        ["kind", found.kind],
        ["conventions", " or ".join(found.conventions)],
        ["tensors", f"{found.num_tensors}, {found.num_values:,} values"],
    ]
    if found.model is not None:
        more = ", ..." if found.num_classes > len(found.categories) else ""
        rows += [
            ["backbone", f"{found.model['backbone']}, {found.model['norm']} norms"],
            ["classes", f"{found.num_classes}: {', '.join(found.categories)}{more}"],
        ]
        shared = ModelConfig(**found.model).shared_heads(found.num_classes)
        if shared:
            rows.append(["heads", f"{' and '.join(shared)} of all classes at once"])
        rows.append(["loads", f"all {found.num_tensors} tensors"])
    else:
        rows.append(["loads", "into the backbone; the rest starts anew"])
    if found.dropped:
        reasons = sorted(set(found.dropped.values()))
        rows.append(["left out", f"{len(found.dropped)}: {'; '.join(reasons)}"])
    print_table([["weights", ""], *rows])


@app.command()
def convert(
    source: Source,
    to: Annotated[
        str, typer.Option(metavar="PROGRAM", help="safetensors, torchvision or detectron2.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help=".safetensors; .pth; .pth or .pkl for detectron2.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write weights as another program reads them, every tensor bit for bit.

    The file is read back and compared before it appears. What the other program would do with the
    weights in another way (its colours, its strides) is listed.

    Example: raymrcnn weights convert runs/mine --to detectron2 --out mine.pth
    """
    from raymrcnn.infer.convert import convert_weights

    done = convert_weights(source, to, out, overwrite)
    if as_json:
        print_json(done.to_json())
        return
    typer.echo(f"{done.path}: {done.num_tensors} tensors for {done.target}, read back the same")
    typer.echo(f"load with: {done.load_with}")
    if done.differences:
        typer.echo(f"{done.target} does these otherwise than the weights need:")
    for one in done.differences:
        how = f"set by {one.set_by}" if one.set_by else "cannot be set"
        typer.echo(f"  {one.name}: {one.weights} here, {one.program} there; {how}")


@app.command("list")
def list_published(as_json: Json = False) -> None:
    """Name the published weights that `fetch` knows, and say which are here.

    FPN: a Mask R-CNN trained on COCO. ImageNet: a backbone to start training from.

    Example: raymrcnn weights list
    """
    from dataclasses import asdict

    from raymrcnn.weights.catalogue import place_of, published

    entries = [(entry, place_of(entry)) for entry in published()]
    if as_json:
        print_json([
            {**asdict(entry), "path": str(path) if path.is_file() else None}
            for entry, path in entries
        ])  # fmt: skip
        return
    rows = [["name", "what", "check", "here"]]
    rows += [[e.name, e.what, e.check, "yes" if path.is_file() else ""] for e, path in entries]
    print_table(rows)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `raymrcnn weights list`.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the file. \\[default: RAYMRCNN_WEIGHTS, or ~/.cache/raymrcnn/weights, "
            "where --weights NAME finds it]",
            show_default=False,
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address that stands for the publisher's host. \\[default: RAYMRCNN_MIRROR]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring published weights here, whole and checked; a cut download goes on.

    Example: raymrcnn weights fetch e2e_mask_rcnn_R_101_FPN_1x
    """
    from raymrcnn.weights.catalogue import fetch_weights

    line = ProgressLine(quiet=as_json)

    def show(here: int, total: int | None) -> None:
        of = f"/{total / 1e6:.1f}" if total else ""
        line.show(f"{name}: {here / 1e6:.1f}{of} MB", last=here == total)

    try:
        entry, path, fetched = fetch_weights(name, out, mirror, show)
    finally:
        line.close()
    if as_json:
        print_json({"name": entry.name, "path": str(path), "fetched": fetched})
        return
    typer.echo(f"{path}: {'fetched' if fetched else 'is here already'}, check: {entry.check}")
    typer.echo(f"use it: --weights {entry.name if out is None else path}")
