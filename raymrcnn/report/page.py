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
from raymrcnn.report.document import document, footer, navigation
from raymrcnn.report.failures import failures_section
from raymrcnn.report.images import NUM_BEST, NUM_WORST, pictures
from raymrcnn.report.markup import Markup, el
from raymrcnn.report.mistakes import mistakes_section
from raymrcnn.report.overview import about, header, title_of
from raymrcnn.report.parts import Section
from raymrcnn.report.quality import rank
from raymrcnn.report.size import Level, fitted
from raymrcnn.report.training import training_section
from raymrcnn.report.truth import ground_truth, objects_of


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
    index, source = ground_truth(run, predictions, data_root, split)
    ranking = None
    if index is not None and predictions is not None:
        ranking = rank(predictions, index, NUM_BEST, NUM_WORST)
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


def _document(
    run: Run | None, predictions: Predictions | None, sections: Sequence[Section], level: Level
) -> str:
    present = [section for section in sections if section.body is not None]
    absent = [section for section in sections if section.body is None]
    left_out = Markup()
    if absent or level.says():
        items = [el("li", el("b", s.title), f": {s.why_absent}.") for s in absent]
        items += [el("li", level.says())] if level.says() else []
        left_out = el("aside", el("h2", "Not in this report"), el("ul", *items), class_="left-out")
    main = el("main", *(section.html() for section in present), left_out, id="main")
    links = navigation([(section.key, section.title) for section in present])
    title = f"{title_of(run, predictions)} · raymrcnn report"
    return document(title, [links, header(run, predictions), main, footer()])
