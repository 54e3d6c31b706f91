"""`raymrcnn score`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raymrcnn.cli.options import Cluster, Detach, Json
from raymrcnn.cli.show import (
    ProgressLine,
    print_detail,
    print_json,
    print_scores,
    print_table,
)


def score(
    folder: Annotated[
        str | None,
        typer.Argument(metavar="PREDICTIONS", help="A predictions folder, a path or a URI."),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Instead: a folder, or a COCO results JSON."),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Annotation file, a path or a URI. \\[default: of the predicted split]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Instead: root of a COCO data set, a path or a URI,"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="and its split.")] = None,
    detail: Annotated[
        bool, typer.Option("--detail", help="Also kinds of errors, confusions and calibration.")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Instead: how much better B is than A."),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Of the images, for the intervals of a comparison.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    skip_bad_annotations: Annotated[
        bool,
        typer.Option(
            "--skip-bad-annotations",
            help="Leave annotations with a malformed mask out of the mask scores, and list them.",
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Ray tasks at once; 0: as the cluster has room.")
    ] = 0,
    cluster: Cluster = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Score predictions as COCO does, to the last bit; as LVIS does with its annotations.

    A predictions folder keeps the result in its scores.json.

    Example: raymrcnn score --predictions results.json --annotations instances_val2017.json
    """
    from raymrcnn import api
    from raymrcnn.errors import ConfigError

    source = folder or predictions
    if sum(given is not None for given in (folder, predictions, compare)) != 1:
        raise ConfigError("give one predictions folder or file, or --compare A B", where="score")
    options: dict[str, Any] = {
        "annotations": annotations, "data": data, "split": split, "workers": workers,
        "cluster": cluster, "skip_bad_annotations": skip_bad_annotations,
    }  # fmt: skip
    if compare is not None:
        _compare(compare, {**options, "resamples": resamples, "seed": seed}, as_json)
        return
    assert source is not None
    with ProgressLine(quiet=as_json).working("matching predictions with the ground truth"):
        scores = api.score(source, detail=detail, **options)
    if as_json:
        print_json(scores.to_json())
        return
    print_scores(scores)
    if detail:
        print_detail(scores)


def _compare(both: tuple[str, str], options: dict[str, Any], as_json: bool) -> None:
    from raymrcnn import api
    from raymrcnn.score.table import comparison_tables

    progress = ProgressLine(quiet=as_json)
    document = api.compare(
        *both,
        progress=lambda done, of: progress.show(f"{done}/{of} resamples"),
        **options,
    )
    progress.close()
    if as_json:
        print_json(document)
        return
    for title, rows in comparison_tables(document):
        print_table(rows, title)
    typer.echo(
        f"A is {document['a']}, B is {document['b']}; {document['num_images']} images, "
        f"{document['resamples']} resamples, seed {document['seed']}"
    )
