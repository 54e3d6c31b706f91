"""`raymrcnn score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn.cli.options import Cluster, Json
from raymrcnn.cli.show import print_json, print_scores


def score(
    folder: Annotated[
        Path | None, typer.Argument(metavar="PREDICTIONS", help="A predictions folder.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="WHERE", help="Instead: a folder, or a COCO results JSON."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotation file. \\[default: of the predicted split]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Instead: root of a COCO data set,")
    ] = None,
    split: Annotated[str | None, typer.Option(help="and its split.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Ray tasks at once; 0: as the cluster has room.")
    ] = 0,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Score predictions as COCO does, to the last bit.

    A predictions folder keeps the result in its scores.json.

    Example: raymrcnn score --predictions results.json --annotations instances_val2017.json
    """
    from raymrcnn import api
    from raymrcnn.errors import ConfigError

    source = folder or predictions
    if source is None or (folder and predictions):
        raise ConfigError("give one predictions folder or file", where="score")
    scores = api.score(
        source, annotations=annotations, data=data, split=split, workers=workers, cluster=cluster
    )
    if as_json:
        print_json(scores.to_json())
    else:
        print_scores(scores)
