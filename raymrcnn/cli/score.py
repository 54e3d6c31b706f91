"""`raymrcnn score`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymrcnn.cli.options import Cluster, Detach, Json
from raymrcnn.cli.show import (
    ProgressLine,
    print_detail,
    print_json,
    print_notes,
    print_scores,
    print_table,
)

_MATCHING = "matching predictions with the ground truth"


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
        int | None,
        typer.Option(
            min=0,
            help="Of the images, for the intervals of a comparison. \\[default: 1000]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the resamples. \\[default: 0]", show_default=False),
    ] = None,
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

    options: dict[str, Any] = {
        "annotations": annotations, "data": data, "split": split, "workers": workers,
        "cluster": cluster, "skip_bad_annotations": skip_bad_annotations,
    }  # fmt: skip
    both = {"resamples": resamples, "seed": seed}
    resampled = {name: value for name, value in both.items() if value is not None}
    _require_one_kind(folder, predictions, compare, detail, resampled)
    if compare is not None:
        _compare(compare, {**options, **resampled}, as_json)
        return
    source = predictions if folder is None else folder
    assert source is not None
    with ProgressLine(quiet=as_json).working(_MATCHING) as say:
        scores = api.score(source, detail=detail, on_matched=_matched(say), **options)
    if as_json:
        print_json(scores.to_json())
        return
    print_scores(scores)
    if detail:
        print_detail(scores)


def _require_one_kind(
    folder: str | None,
    predictions: str | None,
    compare: tuple[str, str] | None,
    detail: bool,
    resampled: dict[str, int],
) -> None:
    """Refuse what contradicts, and what would be ignored."""
    from raymrcnn.errors import ConfigError

    if sum(given is not None for given in (folder, predictions, compare)) != 1:
        raise ConfigError("give one predictions folder or file, or --compare A B", where="score")
    if compare is None and resampled:
        raise ConfigError(
            "is of a comparison", where=f"--{min(resampled)}", todo="drop it, or give --compare A B"
        )
    if compare is not None and detail:
        raise ConfigError(
            "a comparison has none", where="--detail", todo="drop it, or score each run with it"
        )


def _matched(say: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, of: say(f"{_MATCHING}: {done}/{of} result files")


def _compare(both: tuple[str, str], options: dict[str, Any], as_json: bool) -> None:
    from raymrcnn import api
    from raymrcnn.score.table import comparison_tables

    progress, matching = ProgressLine(quiet=as_json), contextlib.ExitStack()

    def resampled(done: int, of: int) -> None:
        matching.close()
        progress.show(f"{done}/{of} resamples")

    with contextlib.closing(progress), matching:
        say = matching.enter_context(progress.working(_MATCHING))
        document = api.compare(*both, progress=resampled, on_matched=_matched(say), **options)
    if as_json:
        print_json(document)
        return
    for title, rows in comparison_tables(document):
        print_table(rows, title)
    print_notes(document.get("skipped_annotations", []), document.get("notes", []))
    typer.echo(
        f"A is {document['a']}, B is {document['b']}; {document['num_images']} images, "
        f"{document['resamples']} resamples, seed {document['seed']}"
    )
