"""`write_comparison`: one HTML file about several runs and predictions.

Scores, losses and speed stand side by side, then what was done otherwise. What there is no data
for is left out and named at the end. This module refuses to say which run is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raymrcnn import rundir
from raymrcnn.data.coco import CocoIndex
from raymrcnn.report import collect
from raymrcnn.report.collect import Predictions, Run
from raymrcnn.report.comparison.differences import (
    again_section,
    recipes_section,
    surroundings_section,
)
from raymrcnn.report.comparison.glance import glance_section, header
from raymrcnn.report.comparison.images import Differing, differing_images
from raymrcnn.report.comparison.intervals import Found, intervals
from raymrcnn.report.comparison.scores import category_section, mistakes_section, scores_section
from raymrcnn.report.comparison.subjects import Subject, subjects_of
from raymrcnn.report.comparison.training import training_section
from raymrcnn.report.document import document, footer, left_out, navigation
from raymrcnn.report.markup import el
from raymrcnn.report.parts import Section
from raymrcnn.report.progress import Progress
from raymrcnn.report.size import Level, fitted
from raymrcnn.report.truth import Source, ground_truth


def write_comparison(
    runs: Sequence[Run],
    predictions: Sequence[Predictions],
    target: Path,
    *,
    data_root: Path | None,
    split: str | None,
    resamples: int,
    progress: Progress,
) -> None:
    """Write the page.

    Args:
        runs: in the order of the columns.
        predictions: those made with the weights of a run join it.
        target: the file.
        data_root: root of the ground truth; None: as the first predictions say.
        split: of that data.
        resamples: of the images, for intervals of differences; 0: none.
        progress: called with what is done, how often it was, and of how many.

    Raises:
        ConfigError: too many folders for one page.
        DataError: a folder is damaged, or the given `data_root` cannot be read.
        OutputError: the file cannot be written.
    """
    subjects = subjects_of(runs, predictions)
    first = next((one.predictions for one in subjects if one.predictions is not None), None)
    index, source = ground_truth(None, first, data_root, split) if first else (None, None)
    found, notes = _intervals(subjects, index, source, resamples, progress)
    names: dict[int, str] = {}
    for one in subjects:
        names |= collect.category_names(one.run, one.predictions)
    shown = Differing(why_absent="fewer than two predictions have ground truth")
    if index is not None and source is not None:
        names |= {c.id: c.name for c in index.categories}
        shown = differing_images(subjects, index, source, progress)

    def page(level: Level) -> str:
        sections = [
            glance_section(subjects),
            scores_section(subjects, found, notes, resamples),
            category_section(subjects, found, names),
            mistakes_section(subjects),
            training_section(subjects),
            shown.section(names, level),
            recipes_section(subjects),
            surroundings_section(subjects),
            again_section(subjects),
        ]
        return _document(subjects, sections, level)

    rundir.write_text(target, fitted(page, str(target)))


def _intervals(
    subjects: Sequence[Subject],
    index: CocoIndex | None,
    source: Source | None,
    resamples: int,
    progress: Progress,
) -> tuple[list[Found | None], list[str]]:
    none: list[Found | None] = [None] * len(subjects)
    scored = [one for one in subjects if one.predictions is not None and one.predictions.scores]
    if not resamples or len(scored) < 2:
        return none, []
    if index is None:
        why = source.why if source is not None else "no predictions were given"
        return none, [f"differences have no intervals: {why}"]
    return intervals(subjects, index, resamples, progress)


def _document(subjects: Sequence[Subject], sections: Sequence[Section], level: Level) -> str:
    present = [section for section in sections if section.body is not None]
    main = el("main", *(s.html() for s in present), left_out(sections, level.says()), id="main")
    links = navigation([(section.key, section.title) for section in present])
    names = ", ".join(one.name for one in subjects)
    return document(f"{names} · raymrcnn comparison", [links, header(subjects), main, footer()])
