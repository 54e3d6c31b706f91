"""What is compared: runs, with the predictions that were made with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raymrcnn.errors import ConfigError
from raymrcnn.report.collect import Predictions, Run, mapping
from raymrcnn.report.markup import Markup, el

MOST = 8  # colours and dashes that can be told apart


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One column of the page."""

    name: str
    style: str  # of its lines
    run: Run | None
    predictions: Predictions | None

    @property
    def folder(self) -> Path:
        """What it is called after."""
        one = self.run or self.predictions
        assert one is not None
        return one.folder

    def scores(self, kind: str) -> dict[str, object]:
        """Of its predictions, "segm" or "bbox"; {} where there are none."""
        return {} if self.predictions is None else mapping(self.predictions.scores.get(kind))


def subjects_of(runs: Sequence[Run], predictions: Sequence[Predictions]) -> list[Subject]:
    """The subjects, runs first, each list in the order that it was given.

    Predictions join the run in whose folder their weights lie; what joins none stands alone.

    Raises:
        ConfigError: more than fit on a page.
    """
    left = list(predictions)
    pairs: list[tuple[Run | None, Predictions | None]] = []
    for run in runs:
        mine = next((p for p in left if _made_with(p, run)), None)
        if mine is not None:
            left.remove(mine)
        pairs.append((run, mine))
    pairs += [(None, one) for one in left]
    if len(pairs) > MOST:
        raise ConfigError(
            f"{len(pairs)} runs and predictions, and {MOST} fit on a page",
            todo="give fewer folders",
        )
    folders = [(run or one).folder for run, one in pairs]  # type: ignore[union-attr]
    return [
        Subject(name=name, style=f"c{k}", run=run, predictions=one)
        for k, (name, (run, one)) in enumerate(zip(short_names(folders), pairs, strict=True))
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """As few last parts of the paths as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for num in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-num:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(one)} ({k})" for k, one in enumerate(parts, start=1)]


def key(subjects: Sequence[Subject]) -> Markup:
    """Which line is whose."""
    items = [el("li", marker(subject), el("bdi", subject.name)) for subject in subjects]
    return el("ul", *items, class_="legend subjects")


def marker(subject: Subject) -> Markup:
    """A piece of its line."""
    path = el("path", d="M1 5L39 5", class_=f"line {subject.style}")
    return el("svg", path, viewBox="0 0 40 10", class_="marker", aria_hidden="true")


def _made_with(predictions: Predictions, run: Run) -> bool:
    weights = mapping(predictions.manifest.get("options")).get("weights")
    home = run.folder.resolve()
    if home in predictions.folder.resolve().parents:
        return True
    if not isinstance(weights, str) or not weights:
        return False
    place = Path(weights).resolve()
    return place == home or home in place.parents
