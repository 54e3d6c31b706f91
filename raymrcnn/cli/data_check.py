"""`raymrcnn data verify`, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import Cluster, Detach, Json
from raymrcnn.cli.show import ProgressLine, print_json

if TYPE_CHECKING:
    from raymrcnn.data.check.copy import CleanCopy
    from raymrcnn.data.check.findings import VerifyReport

WRONG_INPUT = 2
SHOWN_OF_A_KIND = 5


def verify(
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Root of a data set, or a URI of a sharded one.")
    ],
    split: Annotated[str, typer.Option(help="Split to check.")] = "train2017",
    decode: Annotated[
        bool, typer.Option(help="Decode every image, or only look whether it is there.")
    ] = True,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT",
            help="A split that should share no image with this one, nor have one that looks the "
            "same; all: every other split. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a cleaned copy there; images are linked to.",
            show_default=False,
        ),
    ] = None,
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="With --fix: copy image files instead.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Ray tasks that decode at a time; 0: threads here.")
    ] = 0,
    cluster: Cluster = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Look at every image and annotation of a split and list all that is wrong.

    Each finding has its file, its id and its fix. Exits with 2 if a run would stop at one; with
    --fix, which changes no original, if the copy could not be written.

    Example: raymrcnn data verify --data coco --split train2017 --fix coco-clean
    """  # fmt: skip
    from raymrcnn import storage
    from raymrcnn.data.verify import Lookers
    from raymrcnn.data.verify import verify as look

    require_fixable(data, decode, fix, copy_images)
    progress = ProgressLine(quiet=as_json)
    report = look(
        storage.place(data), split, decode, against=against or (),
        lookers=Lookers(on_ray=bool(workers or cluster), cluster=cluster, num_workers=workers),
        progress=lambda done, total: progress.show(f"{done}/{total} images", last=done >= total),
    )  # fmt: skip
    progress.close()
    copy = None if fix is None else _clean(Path(data), split, report, fix, copy_images)
    if as_json:
        print_json({**report.to_json(), **({} if copy is None else {"fix": copy.to_json()})})
    else:
        _print_report(report)
        if copy is not None:
            _print_copy(copy)
    if copy is None and not report.ok:
        raise typer.Exit(WRONG_INPUT)


def require_fixable(data: str, decode: bool, fix: Path | None, copy_images: bool) -> None:
    """Refuse what --fix cannot do, before any image is looked at."""
    from raymrcnn import storage
    from raymrcnn.errors import ConfigError

    if fix is None:
        if copy_images:
            raise ConfigError("there is no copy without --fix DIR", where="--copy-images")
        return
    if not decode:
        raise ConfigError("images that are not decoded cannot be trusted", where="--fix")
    if storage.is_uri(storage.place(data)):
        raise ConfigError("shards are written anew, not mended", where="--fix")
    if rundir.local_path(fix, "--fix").resolve() == Path(data).resolve():
        raise ConfigError("a copy is written beside the original, never over it", where="--fix")


def _clean(root: Path, split: str, report: VerifyReport, fix: Path, copy_images: bool) -> CleanCopy:
    from raymrcnn.data.check.copy import write_clean_copy

    return write_clean_copy(
        rundir.local_path(root, "--data"), split, report, rundir.local_path(fix, "--fix"),
        copy_images=copy_images,
    )  # fmt: skip


def _print_report(report: VerifyReport) -> None:
    """Some findings of each kind, errors first, and the counts."""
    by_kind: dict[str, list[str]] = {}
    for level in report.levels:
        for finding in report.findings:
            if finding.level == level:
                by_kind.setdefault(finding.kind, []).append(finding.message)
    of_kind = {finding.kind: finding for finding in report.findings}
    for kind, messages in by_kind.items():
        first = of_kind[kind]
        typer.echo(f"{first.level}  {kind} ({len(messages)}): {first.fix}")
        for message in messages[:SHOWN_OF_A_KIND]:
            typer.echo(f"       {message}")
        if len(messages) > SHOWN_OF_A_KIND:
            typer.echo(f"       and {len(messages) - SHOWN_OF_A_KIND} more; --json lists all")
    levels = ", ".join(
        f"{count} {level if count == 1 else level + 's'}" for level, count in report.levels.items()
    )
    typer.echo(
        f"{report.annotation_file}: {report.num_images} images ({report.num_unannotated_images} "
        f"without annotations, {report.num_trainable_images} to train on), "
        f"{report.num_annotations} annotations ({report.num_crowds} crowds) of "
        f"{report.num_categories} categories; {levels}"
    )


def _print_copy(copy: CleanCopy) -> None:
    there = "is there already" if copy.reused else "written"
    counts = ", ".join(f"{count} {action}" for action, count in copy.counts.items())
    typer.echo(
        f"cleaned copy {there}: {copy.annotation_file} ({copy.num_images} images, "
        f"{copy.num_annotations} annotations; {counts}: {copy.list_file})"
    )
