"""`write_report`: one HTML file about a training run, its predictions, or both.

The file needs nothing beside itself: styles, script, charts and thumbnails are in it, and a
content security policy forbids it to load anything or to run another script than its own. What
there is no data for is left out and named at the end with the reason. This module refuses to
train, predict or score; it shows what those left behind.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np

from raymrcnn import rundir
from raymrcnn.data.coco import CocoIndex, open_split, splits
from raymrcnn.data.images import resolve_image
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.report import collect
from raymrcnn.report.accuracy import accuracy_section, category_section, detections_section
from raymrcnn.report.collect import Failures, Predictions, Run
from raymrcnn.report.gallery import gallery
from raymrcnn.report.markup import Markup, el, escape, markup
from raymrcnn.report.mistakes import mistakes_section
from raymrcnn.report.overview import about, data_of, header, title_of
from raymrcnn.report.parts import Section, count, grouped, table
from raymrcnn.report.quality import CONFIDENT, MATCH_IOU, Ranked, Ranking, examples, rank
from raymrcnn.report.style import script, style_sheet
from raymrcnn.report.training import training_section

NUM_BEST, NUM_WORST = 6, 6


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where the images and annotations lie."""

    root: Path | None
    split: str
    given: bool  # by the caller, rather than noted in a folder
    why: str = ""  # there are no annotations


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    data_root: Path | None = None,
    split: str | None = None,
) -> Path:
    """Write the page about a run folder, a predictions folder, or one of each.

    Args:
        folders: one or two, told apart by what they hold.
        out: the HTML file, or a folder for it; None: `report.html` in the first folder.
        data_root: COCO root with the ground truth and images; None: as the folders say.
        split: of that data; None: as the folders say.

    Returns:
        The file.

    Raises:
        DataError: a folder is neither kind or damaged, or the given `data_root` cannot be read.
        ConfigError: two folders of one kind.
        OutputError: the file cannot be written.
    """
    run, predictions = _read(folders)
    target = out or Path(folders[0]) / rundir.REPORT
    if target.is_dir():
        target = target / rundir.REPORT
    rundir.prepare_output(target.parent)
    index, source = _ground_truth(run, predictions, data_root, split)
    ranking = None
    if index is not None and predictions is not None:
        ranking = rank(predictions, index, NUM_BEST, NUM_WORST)
    names = collect.category_names(run, predictions)
    names |= {} if index is None else {c.id: c.name for c in index.categories}
    sections = [
        Section(key="about", title="About", body=about(run, predictions)),
        accuracy_section(predictions),
        category_section(predictions, names, _objects(index)),
        mistakes_section(predictions, names),
        detections_section(predictions, ranking),
        _images_section(predictions, ranking, source, names),
        _failures_section(predictions),
        training_section(run),
    ]
    rundir.write_text(target, _document(run, predictions, sections))
    return target


def _read(folders: Sequence[Path]) -> tuple[Run | None, Predictions | None]:
    run: Run | None = None
    predictions: Predictions | None = None
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError("no such folder", where=str(folder))
        a_run, a_result = collect.is_run(folder), collect.is_predictions(folder)
        if not a_run and not a_result:
            raise DataError(
                "neither a run nor predictions: it has no run.json, manifest.json or part files",
                where=str(folder),
                todo="give a folder that `raymrcnn train` or `raymrcnn infer` wrote",
            )
        if (a_run and run is not None) or (a_result and predictions is not None):
            raise ConfigError(
                f"two {'run' if a_run else 'predictions'} folders",
                where=str(folder),
                todo="give one of each kind",
            )
        run = collect.read_run(folder) if a_run else run
        predictions = collect.read_predictions(folder) if a_result else predictions
    if run is None and predictions is None:
        raise ConfigError("no folder given", todo="give a run folder or a predictions folder")
    return run, predictions


def _ground_truth(
    run: Run | None, predictions: Predictions | None, data_root: Path | None, split: str | None
) -> tuple[CocoIndex | None, _Source]:
    """The annotations, and where the data lies or why there are none."""
    said = data_of(run, predictions)
    root = data_root or (Path(str(said["root"])) if said.get("root") else None)
    name = split or str(said.get("split") or "")
    if data_root is not None and not name:
        name = _only_split(data_root)
    source = _Source(root=root, split=name, given=data_root is not None)
    if predictions is None:
        return None, source
    if root is None or not name:
        return None, replace(source, why="the predictions name no data set with annotations")
    try:
        return open_split(root, name), source
    except DataError as error:
        if data_root is not None:
            raise
        return None, replace(source, why=f"the annotations cannot be read ({error})")


def _only_split(root: Path) -> str:
    names = sorted(splits(root))
    if len(names) != 1:
        raise ConfigError(
            f"{root} has {len(names)} splits, and the predictions do not say which is meant",
            where="--split",
            todo=f"choose one of {', '.join(names)}" if names else "give the root of a data set",
        )
    return names[0]


def _locator(
    predictions: Predictions, source: _Source, items: Sequence[Ranked]
) -> Callable[[Ranked], str | None]:
    """Where the image of each item lies: as infer noted, or beside the annotations."""
    uris = collect.image_uris(predictions.folder, [item.detections.image_id for item in items])

    def locate(item: Ranked) -> str | None:
        noted = uris.get(item.detections.image_id)
        if noted and not source.given and ("://" in noted or Path(noted).is_file()):
            return noted
        if source.root is None:
            return noted
        beside = resolve_image(source.root, source.split, item.detections.file_name)
        return noted if noted and not beside.is_file() else str(beside)

    return locate


def _objects(index: CocoIndex | None) -> dict[int, int]:
    if index is None:
        return {}
    ids, counts = np.unique(index.columns.category_ids, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _images_section(
    predictions: Predictions | None,
    ranking: Ranking | None,
    source: _Source,
    names: dict[int, str],
) -> Section:
    key, title = "images", "Images"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    if ranking is None:
        items = examples(predictions, NUM_BEST)
        if not items:
            why = f"no ground truth, and no detection with a score of {CONFIDENT} or more"
            return Section(key=key, title=title, why_absent=why)
        lead = el("p", f"Examples without ground truth: {source.why}.", class_="lead")
        locate = _locator(predictions, source, items)
        return Section(
            key=key,
            title=title,
            body=markup(lead, gallery(items, key="example", names=names, locate=locate)),
        )
    if not len(ranking.qualities):
        why = "no image has both readable ground truth and something to compare"
        return Section(key=key, title=title, why_absent=why)
    locate = _locator(predictions, source, ranking.best + ranking.worst)
    parts: list[str] = [el("p", _ranking_lead(predictions, ranking), class_="lead"), _legend()]
    for kind, heading, items in (
        ("worst", "Worst images", ranking.worst),
        ("best", "Best images", ranking.best),
    ):
        if items:
            parts.append(el("h3", heading))
            parts.append(gallery(items, key=kind, names=names, locate=locate))
    return Section(key=key, title=title, body=markup(*parts))


def _ranking_lead(predictions: Predictions, ranking: Ranking) -> str:
    text = (
        f"Ranked by panoptic quality (PQ): the mask IoU of found objects, summed, over found plus "
        f"half of missed and extra ones; score at least {CONFIDENT}, IoU above {MATCH_IOU}."
    )
    if ranking.num_looked_at < len(predictions.image_ids):
        text += (
            f" Of {grouped(len(predictions.image_ids))} images, "
            f"{grouped(ranking.num_looked_at)}, evenly spread, were looked at."
        )
    if ranking.num_unreadable:
        text += f" {count(ranking.num_unreadable, 'image')} could not be compared."
    return text


def _legend() -> Markup:
    entries = (
        ("pair0", "found: same colour on both sides"),
        ("missed", "missed object"),
        ("extra", "extra detection"),
        ("crowd", "crowd, not counted"),
    )
    items = [
        el("li", el("span", class_=f"swatch {style}", aria_hidden="true"), says)
        for style, says in entries
    ]
    return el("ul", *items, class_="legend shapes")


def _failures_section(predictions: Predictions | None) -> Section:
    key, title = "failures", "Failures"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    if predictions.failures is None:
        return Section(key=key, title=title, why_absent="no image failed")
    failures: Failures = predictions.failures
    reasons = [
        markup(el("td", grouped(times), class_="num"), el("td", reason))
        for reason, times in failures.reasons[:20]
    ]
    first = [
        markup(
            el("td", str(image_id), class_="num"), el("td", el("bdi", name)), el("td", error[:300])
        )
        for image_id, name, error in failures.first
    ]
    head = [el("th", "Images", scope="col", class_="num"), el("th", "Reason", scope="col")]
    columns = [el("th", "Id", scope="col", class_="num")]
    columns += [el("th", name, scope="col") for name in ("File", "Error")]
    more = f"the first {len(first)}" if failures.total > len(first) else "all"
    body = markup(
        el("p", f"{count(failures.total, 'image')} could not be labelled.", class_="lead"),
        el("div", table(head, reasons), class_="card scroll failures", tabindex=0),
        el("h3", f"Which images ({more})"),
        el("div", table(columns, first), class_="card scroll failures", tabindex=0),
    )
    return Section(key=key, title=title, body=body)


def _document(run: Run | None, predictions: Predictions | None, sections: Sequence[Section]) -> str:
    code = script()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    present = [section for section in sections if section.body is not None]
    absent = [section for section in sections if section.body is None]
    links = [el("li", el("a", s.title, href=f"#{s.key}")) for s in present]
    theme = el("button", "Dark", id="theme", type="button")
    left_out = Markup()
    if absent:
        items = [el("li", el("b", s.title), f": {s.why_absent}.") for s in absent]
        left_out = el("aside", el("h2", "Not in this report"), el("ul", *items), class_="left-out")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title_of(run, predictions)} · raymrcnn report"),
        el("style", Markup(style_sheet())),
    )
    nav = el("nav", el("div", el("ul", *links), theme, class_="inner"), aria_label="Sections")
    main = el("main", *(section.html() for section in present), left_out)
    body = el("body", nav, header(run, predictions), main, _footer(), el("script", Markup(code)))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _footer() -> Markup:
    try:
        version = f" {metadata.version('raymrcnn')}"
    except metadata.PackageNotFoundError:
        version = ""
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return el("footer", escape(f"Written by raymrcnn{version} on {now}."))
