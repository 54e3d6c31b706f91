"""`write_report`: one HTML file about a training run, its predictions, or both.

The file needs nothing beside itself: styles, script, charts and thumbnails are in it, and a
content security policy forbids it to load anything or to run another script than its own. What
there is no data for is left out and named at the end with the reason. This module refuses to
train, predict or score; it shows what those left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raymrcnn import rundir
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.report import collect
from raymrcnn.report.accuracy import accuracy_section, category_section, detections_section
from raymrcnn.report.again import again_section
from raymrcnn.report.collect import Predictions, Run
from raymrcnn.report.comparison.page import write_comparison
from raymrcnn.report.document import document, footer, left_out, navigation
from raymrcnn.report.failures import failures_section
from raymrcnn.report.images import NUM_BEST, NUM_WORST, pictures
from raymrcnn.report.markup import el
from raymrcnn.report.mistakes import mistakes_section
from raymrcnn.report.overview import about, header, title_of
from raymrcnn.report.parts import Section
from raymrcnn.report.progress import Progress
from raymrcnn.report.quality import rank
from raymrcnn.report.size import Level, fitted
from raymrcnn.report.training import training_section
from raymrcnn.report.truth import ground_truth, objects_of

COMPARISON = "comparison.html"


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    data_root: Path | None = None,
    split: str | None = None,
    resamples: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Path:
    """Write the page about a run folder, a predictions folder, or one of each; or compare more.

    Args:
        folders: told apart by what they hold. More than one of a kind are compared.
        out: the HTML file, or a folder for it; None: `report.html` in the first folder, and for a
            comparison `comparison.html`.
        data_root: COCO root with the ground truth and images; None: as the folders say.
        split: of that data; None: as the folders say.
        resamples: of the images, for the intervals of differences; 0: none.
        progress: called with what is done, how often it was, and of how many.

    Returns:
        The file.

    Raises:
        DataError: a folder is neither kind or damaged, or the given `data_root` cannot be read.
        ConfigError: no folder, one twice, or too many.
        OutputError: the file cannot be written.
    """
    runs, predictions = _read(folders, progress)
    several = len(runs) > 1 or len(predictions) > 1
    name = COMPARISON if several else rundir.REPORT
    target = out or Path(folders[0]) / name
    if target.is_dir():
        target = target / name
    rundir.prepare_output(target.parent)
    if several:
        write_comparison(runs, predictions, target, data_root=data_root, split=split,
                         resamples=resamples, progress=progress)  # fmt: skip
    else:
        run, predicted = next(iter(runs), None), next(iter(predictions), None)
        _write_one(run, predicted, target, data_root, split, progress)
    return target


def _write_one(
    run: Run | None,
    predictions: Predictions | None,
    target: Path,
    data_root: Path | None,
    split: str | None,
    progress: Progress,
) -> None:
    index, source = ground_truth(run, predictions, data_root, split)
    ranking = None
    if index is not None and predictions is not None:
        ranking = rank(predictions, index, NUM_BEST, NUM_WORST, progress)
    names = collect.category_names(run, predictions)
    names |= {} if index is None else {c.id: c.name for c in index.categories}
    shown, objects = pictures(predictions, ranking, source), objects_of(index)

    def page(level: Level) -> str:
        sections = [
            Section(key="about", title="About", body=about(run, predictions)),
            accuracy_section(predictions),
            category_section(predictions, names, objects, level.rows),
            mistakes_section(predictions, names),
            detections_section(predictions, ranking),
            shown.section(names, level),
            failures_section(predictions),
            training_section(run),
            again_section(run, predictions),
        ]
        return _document(run, predictions, sections, level)

    rundir.write_text(target, fitted(page, str(target)))


def _read(folders: Sequence[Path], progress: Progress) -> tuple[list[Run], list[Predictions]]:
    runs: list[Run] = []
    predictions: list[Predictions] = []
    if not folders:
        raise ConfigError("no folder given", todo="give a run folder or a predictions folder")
    places = [Path(folder).resolve() for folder in folders]
    for k, folder in enumerate(map(Path, folders)):
        if places[k] in places[:k]:
            raise ConfigError("is given twice", where=str(folder), todo="give it once")
        if not folder.is_dir():
            raise DataError("no such folder", where=str(folder))
        a_run, a_result = collect.is_run(folder), collect.is_predictions(folder)
        if not a_run and not a_result:
            raise DataError(
                "neither a run nor predictions: it has no run.json, manifest.json or part files",
                where=str(folder),
                todo="give a folder that `raymrcnn train` or `raymrcnn infer` wrote",
            )
        progress(f"reading {folder.name}", k, len(places))
        runs += [collect.read_run(folder)] if a_run else []
        predictions += [collect.read_predictions(folder)] if a_result else []
    return runs, predictions


def _document(
    run: Run | None, predictions: Predictions | None, sections: Sequence[Section], level: Level
) -> str:
    present = [section for section in sections if section.body is not None]
    main = el("main", *(s.html() for s in present), left_out(sections, level.says()), id="main")
    links = navigation([(section.key, section.title) for section in present])
    title = f"{title_of(run, predictions)} · raymrcnn report"
    return document(title, [links, header(run, predictions), main, footer()])
