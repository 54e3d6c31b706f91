"""`raymrcnn weights`: what a weight file is."""

from __future__ import annotations

from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look into weight files.")


@app.command()
def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A weight file, a run folder, or a torchvision weight name."
        ),
    ],
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
