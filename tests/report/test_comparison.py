"""Several runs and predictions on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from report_folders import Folders, write_predictions, write_run
from test_page import Page

from raymrcnn import rundir
from raymrcnn.errors import ConfigError
from raymrcnn.report.collect import read_predictions, read_run
from raymrcnn.report.comparison.differences import differing, flat
from raymrcnn.report.comparison.subjects import short_names, subjects_of
from raymrcnn.report.page import write_report

SECTIONS = [
    "glance", "scores", "categories", "mistakes", "training", "images", "recipes", "machines",
    "again",
]  # fmt: skip


@pytest.fixture
def several(folders: Folders, tmp_path: Path) -> list[Path]:
    """Two runs, and the predictions of each, which differ."""
    other = tmp_path / "other"
    other.mkdir()
    write_run(other / "run", folders.root, 60)
    write_predictions(other / "predictions", folders.root, worse=9)
    for run, found in (
        (folders.run, folders.predictions),
        (other / "run", other / "predictions"),
    ):
        manifest = json.loads((found / rundir.MANIFEST).read_text())
        manifest["options"]["weights"] = str(run / "checkpoints" / "step-0000400")
        (found / rundir.MANIFEST).write_text(json.dumps(manifest))
    document = json.loads((other / "run" / rundir.RUN_JSON).read_text())
    document["recipe"]["optim"]["base_lr"] = 0.123
    document["hardware"] = {"cpu": "another"}
    (other / "run" / rundir.RUN_JSON).write_text(json.dumps(document))
    scores = json.loads((other / "predictions" / rundir.SCORES).read_text())
    scores["segm"]["AP"] = 0.25
    (other / "predictions" / rundir.SCORES).write_text(json.dumps(scores))
    return [folders.run, other / "run", folders.predictions, other / "predictions"]


def test_two_runs_fill_all_sections(several: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(several, tmp_path / "c.html", resamples=10))
    assert page.sections() == SECTIONS
    assert "Not in this report" not in page.text
    assert "0.250 −0.182" in page.text  # 0.432 before
    assert re.search(r"\[[−+]0\.\d{3}, [−+]?0\.\d{3}\]", page.text)
    assert "optim.base_lr" in page.text and "0.123" in page.text
    assert "training hardware.cpu" in page.text
    assert page.count("article", class_="card shot") == 6
    ids = page.ids()
    assert len(ids) == len(set(ids))
    assert page.text.count("raymrcnn train") == page.text.count("raymrcnn infer") == 2


def test_names_in_folders_are_never_run(several: list[Path], tmp_path: Path) -> None:
    hostile = several[1].parent / "<script>alert(1)<&script>"
    several[1].rename(hostile)
    page = Page(write_report([several[0], hostile], tmp_path / "c.html"))
    assert page.count("script") == 1
    assert "<script>alert(1)<&script>" in page.text
    assert "<script>alert" not in page.source


def test_predictions_join_the_run_that_made_their_weights(several: list[Path]) -> None:
    runs = [read_run(folder) for folder in several[:2]]
    predictions = [read_predictions(folder) for folder in several[:1:-1]]  # the other way round
    pairs = subjects_of(runs, predictions)
    assert [one.predictions for one in pairs] == predictions[::-1]
    assert len({one.name for one in pairs}) == 2
    alone = subjects_of(runs[:1], predictions)
    assert [(one.run is None, one.folder) for one in alone] == [
        (False, several[0]), (True, several[3]),
    ]  # fmt: skip


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert short_names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]


def test_runs_alone_and_predictions_alone_are_compared(several: list[Path]) -> None:
    target = write_report(several[:2])
    assert target == several[0] / "comparison.html"
    page = Page(target)
    assert page.sections() == ["glance", "training", "recipes", "machines", "again"]
    assert "Scores: no predictions folder with scores.json was given." in page.text
    page = Page(write_report(several[2:]))
    assert page.sections() == [s for s in SECTIONS if s not in ("training", "recipes")]
    assert not (several[0] / "report.html").exists()


def test_differences_have_no_interval_without_ground_truth_or_with_other_images(
    several: list[Path], folders: Folders
) -> None:
    manifest = json.loads((several[3] / rundir.MANIFEST).read_text())
    manifest["fingerprint"] = {"limit": 16}
    (several[3] / rundir.MANIFEST).write_text(json.dumps(manifest))
    part = several[3] / rundir.part_name(1)
    part.unlink()
    (several[3] / rundir.IMAGES).unlink()
    page = Page(write_report(several, resamples=10))
    assert "is about other images than" in page.text
    assert "[" not in page.text.partition("Categories")[2].partition("Mistakes")[0]
    shutil.rmtree(folders.root)
    page = Page(write_report(several, resamples=10))
    assert "Differences have no intervals: the annotations cannot be read" in page.text


def test_more_than_fit_on_a_page_are_refused(several: list[Path], tmp_path: Path) -> None:
    many = []
    for k in range(9):
        shutil.copytree(several[0], tmp_path / f"run-{k}")
        many.append(tmp_path / f"run-{k}")
    with pytest.raises(ConfigError, match="9 runs and predictions, and 8 fit on a page"):
        write_report(many)
    page = Page(write_report(many[:8]))
    assert all(f"line c{k}" in page.source for k in range(8))


def test_what_differs_is_found_also_where_it_is_missing() -> None:
    one = flat({"optim": {"base_lr": 0.1, "steps": [1, 2]}, "name": "a", "seed": None})
    other = flat({"optim": {"base_lr": 0.1, "steps": [1, 3]}, "seed": 0})
    assert differing([one, other]) == [
        ("optim.steps", ["[1, 2]", "[1, 3]"]), ("name", ["a", "–"]), ("seed", ["–", "0"]),
    ]  # fmt: skip
