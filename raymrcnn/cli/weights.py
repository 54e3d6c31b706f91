"""`raymrcnn weights`: what a weight file is, and files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import print_json, print_table

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A weight file, a run folder, or a torchvision weight name."
    ),
]

app = typer.Typer(no_args_is_help=True, help="Look into weight files, and convert them.")


@app.command()
def inspect(
    source: Source,
    as_json: Json = False,
) -> None:
    """Say which program made a file, which network it holds, and whether it loads whole.

    Nothing in the file is run. Exits with 2 if it is no weight file, or does not load.

    Example: raymrcnn weights inspect e2e_mask_rcnn_R_101_FPN_1x.pth
    """
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
            ["loads", f"all {found.num_tensors} tensors"],
        ]
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
