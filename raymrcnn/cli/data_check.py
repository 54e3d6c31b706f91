"""`raymrcnn data verify` and `stats`, and what they print."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import Cluster, Detach, Json
from raymrcnn.cli.show import ProgressLine, print_json, print_table

if TYPE_CHECKING:
    from raymrcnn.data.check.copy import CleanCopy
    from raymrcnn.data.check.findings import VerifyReport
    from raymrcnn.data.statistics import CategoryStatistics, Statistics

WRONG_INPUT = 2
READING, READING_S = "reading the annotations", 5.0  # small files are read before it is said
SHOWN_OF_A_KIND = 5
CATEGORIES_SHOWN = 10  # commonest, and as many of the rarest


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
        int,
        typer.Option(
            min=0,
            help="Ray tasks that decode at a time; 0: threads of this process, and on a cluster "
            "a task for each core.",
        ),
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
    # A job that was sent to a cluster finds its address there.
    on_ray = bool(workers or cluster or os.environ.get("RAY_ADDRESS"))
    progress, reading = ProgressLine(quiet=as_json), contextlib.ExitStack()

    def show(done: int, total: int) -> None:
        reading.close()
        progress.show(f"{done}/{total} images", last=done >= total)

    with contextlib.closing(progress), reading:
        reading.enter_context(progress.working(READING, READING_S))
        report = look(
            storage.place(data), split, decode, against=against or (), progress=show,
            lookers=Lookers(on_ray=on_ray, cluster=cluster, num_workers=workers),
        )  # fmt: skip
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


def stats(
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Root of a data set, or a URI of a sharded one.")
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Can be repeated. \\[default: every split]", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with charts.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what a data set holds: sizes, objects an image, crowding, the long tail of categories.

    Reads the annotations alone, and opens no image.

    Example: raymrcnn data stats --data coco --html coco.html
    """
    from raymrcnn import storage
    from raymrcnn.data.statistics import statistics

    page = None if html is None else rundir.local_path(html, "--html")
    with ProgressLine(quiet=as_json).working(READING, READING_S):
        found = statistics(storage.place(data), split or ())
    if page is not None:
        from raymrcnn.report.dataset import write_statistics

        page = write_statistics(found, page)
    if as_json:
        print_json({**found.to_json(), **({} if page is None else {"html": str(page)})})
        return
    _print_statistics(found)
    if page is not None:
        typer.echo(f"page: {page}")


def _print_statistics(found: Statistics) -> None:
    from raymrcnn.report.dataset import THREE_NUMBERS, overview_of

    columns = {name: overview_of(split) for name, split in found.splits.items()}
    labels = list(next(iter(columns.values())))
    rows = [[label, *(values[label] for values in columns.values())] for label in labels]
    print_table([["", *columns], *rows], f"{found.data}; three numbers are {THREE_NUMBERS}")
    by_split = {name: {c.id: c for c in s.categories} for name, s in found.splits.items()}
    names = {c.id: c.name for categories in by_split.values() for c in categories.values()}
    first = next(iter(by_split.values()))
    order = [*first, *(k for k in names if k not in first)]  # commonest first
    skipped = len(order) - 2 * CATEGORIES_SHOWN
    if skipped > 0:
        order = order[:CATEGORIES_SHOWN] + order[-CATEGORIES_SHOWN:]
    rows = [
        [names[k], *(_objects_of(categories.get(k)) for categories in by_split.values())]
        for k in order
    ]
    if skipped > 0:
        rows.insert(CATEGORIES_SHOWN, [f"({skipped} more)", *("" for _ in by_split)])
    print_table([["category", *by_split], *rows], "Objects, and images with one")


def _objects_of(category: CategoryStatistics | None) -> str:
    return "–" if category is None else f"{category.num_objects} in {category.num_images}"
