"""Each damage is found with its kind and id and nothing else is; the cleaned copy has no error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raymrcnn.data.check.copy import list_name, write_clean_copy
from raymrcnn.data.check.findings import KINDS
from raymrcnn.data.verify import Lookers, verify
from raymrcnn.errors import DataError, OutputError

from .damages import DAMAGES, OTHER, SPLIT, apply, write_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    write_whole(root)
    return root


def test_the_whole_set_has_no_finding(whole: Path) -> None:
    report = verify(whole, SPLIT, against=[OTHER])
    assert report.findings == ()
    assert (report.num_images, report.num_annotations, report.num_unannotated_images) == (5, 7, 1)


def test_every_kind_of_finding_is_among_the_damages() -> None:
    tried = {kind for _, found in DAMAGES.values() for kind, _ in found}
    assert set(KINDS) - tried == {"mask-malformed"}  # an outline of two million pixels
    assert len(DAMAGES) >= 60


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_and_mended(name: str, whole: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "clean"
    expected = apply(name, whole, root)
    report = verify(root, SPLIT, against=[OTHER])
    assert {(f.kind, f.id) for f in report.findings} == expected
    entries = json.loads((root / f"annotations/instances_{SPLIT}.json").read_text())
    for finding in report.findings:
        assert finding.file
        assert finding.fix
        if finding.section != "images" or finding.id >= 0:
            entry = entries[finding.section][finding.position]
            assert entry.get("id") == finding.id or finding.id == -1
    copy = write_clean_copy(root, SPLIT, report, out)
    again = verify(out, SPLIT)
    assert again.ok, again.findings
    listed = {kind for change in copy.changes for kind in change.kinds}
    # What referred to a mended entry is whole again by that.
    told = {f.kind for f in report.findings if f.level != "note"}
    assert told - listed <= {"unknown-image", "unknown-category"}
    assert listed or not told


@pytest.mark.parametrize(
    "name",
    [
        "a box without width", "a box of corners instead of sides", "a box moved", "no box",
        "a box with NaN", "a box outside the image", "no area", "an area of 0", "an area too large",
        "a polygon that is not in a list", "points as pairs", "an empty polygon",
        "an image id that is text with digits", "the same object twice", "a crowd flag of 2",
        "an image without a width", "an image id twice, the same file", "an area of NaN",
    ],
)  # fmt: skip
def test_what_is_sure_is_as_it_was_before_the_damage(
    name: str, whole: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "data", tmp_path / "clean"
    apply(name, whole, root)
    write_clean_copy(root, SPLIT, verify(root, SPLIT), out)
    place = f"annotations/instances_{SPLIT}.json"
    before, after = (json.loads((folder / place).read_text()) for folder in (whole, out))
    assert after == before


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("a file cut short", {("images", 1), ("annotations", 1), ("annotations", 2)}),
        ("a name with ..", {("images", 2), ("annotations", 3), ("annotations", 4)}),
        ("an image of another size", {("images", 1), ("annotations", 1), ("annotations", 2)}),
        ("no mask", {("annotations", 5)}),
        ("runs of another size", {("annotations", 3)}),
        ("an image that is not listed", {("annotations", 5)}),
        ("one file under two ids", {("images", 4)}),
        ("a polygon that crosses itself", set()),
        ("one of two polygons too short", set()),
    ],
)
def test_what_cannot_be_saved_is_dropped_and_nothing_else(
    name: str, dropped: set[tuple[str, int]], whole: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "data", tmp_path / "clean"
    apply(name, whole, root)
    copy = write_clean_copy(root, SPLIT, verify(root, SPLIT), out)
    assert {(c.section, c.id) for c in copy.changes if c.action == "dropped"} == dropped
    kept = json.loads((out / f"annotations/instances_{SPLIT}.json").read_text())
    for section, num in (("images", 5), ("annotations", 7)):
        lost = sum(1 for where, _ in dropped if where == section)
        assert len(kept[section]) == num - lost
    assert kept["info"] == {"year": 2024}
    assert sorted(p.name for p in (out / SPLIT).iterdir()) == sorted(
        image["file_name"] for image in kept["images"]
    )


def test_a_copy_is_made_once_and_nothing_is_overwritten(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean"
    report = verify(whole, SPLIT)
    first = write_clean_copy(whole, SPLIT, report, out)
    assert (out / SPLIT / "1.png").is_symlink()
    stamp = (out / list_name(SPLIT)).stat().st_mtime_ns
    again = write_clean_copy(whole, SPLIT, report, out)
    assert again.reused
    assert again.changes == first.changes
    assert (out / list_name(SPLIT)).stat().st_mtime_ns == stamp
    with pytest.raises(OutputError, match="in another way is there already"):
        write_clean_copy(whole, SPLIT, report, out, copy_images=True)
    write_clean_copy(whole, OTHER, verify(whole, OTHER), out, copy_images=True)  # beside it
    assert not (out / OTHER / "11.png").is_symlink()
    with pytest.raises(OutputError, match="no copy of --fix"):
        write_clean_copy(whole, SPLIT, report, Path(shutil.copytree(whole, tmp_path / "mine")))
    assert sorted(p.name for p in out.iterdir()) == [
        "annotations", "fixed-t.json", "fixed-v.json", SPLIT, OTHER,
    ]  # fmt: skip


def test_a_copy_that_was_killed_is_made_again(whole: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "clean", verify(whole, SPLIT)
    write_clean_copy(whole, SPLIT, report, out)
    marker = json.loads((out / list_name(SPLIT)).read_text())["source_sha256"]
    (out / list_name(SPLIT)).unlink()
    (out / SPLIT / ".raymrcnn-fix").write_text(marker)
    assert not write_clean_copy(whole, SPLIT, report, out).reused
    assert verify(out, SPLIT).ok


def test_a_split_of_which_nothing_is_left_is_refused(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "data"))
    for path in (root / SPLIT).iterdir():
        path.unlink()
    with pytest.raises(DataError, match="nothing is left of the split"):
        write_clean_copy(root, SPLIT, verify(root, SPLIT), tmp_path / "clean")
    assert list((tmp_path / "clean").iterdir()) == []


@pytest.mark.ray
def test_the_same_is_found_by_any_number_of_tasks_in_the_same_order(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    apply("one file under two ids", whole, root)
    for k, content in ((1, b""), (2, b"no image"), (5, None)):
        path = root / SPLIT / f"{k}.png"
        path.unlink() if content is None else path.write_bytes(content)
    here = verify(root, SPLIT, against=[OTHER])
    assert len(here.findings) > 3
    from raymrcnn.data.check import on_ray

    monkeypatch.setattr(on_ray, "_AT_ONCE", 2)  # images a task: several tasks
    told: list[tuple[int, int]] = []
    spread = verify(
        root, SPLIT, against=[OTHER], lookers=Lookers(on_ray=True, num_workers=2),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert spread == here
    assert told[-1] == (7, 7)


def test_the_docs_name_every_kind() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []


def test_objects_that_a_merge_of_images_doubles_are_dropped(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "data"))
    path = root / f"annotations/instances_{SPLIT}.json"
    document = json.loads(path.read_text())
    document["images"][3]["file_name"] = "3.png"
    document["annotations"][5].update(
        {k: document["annotations"][4][k] for k in ("category_id", "segmentation", "bbox", "area")}
    )
    path.write_text(json.dumps(document))
    copy = write_clean_copy(root, SPLIT, verify(root, SPLIT), tmp_path / "clean")
    told = {(c.section, c.id, c.action) for c in copy.changes}
    assert told == {("images", 4, "dropped"), ("annotations", 6, "dropped"),
                    ("annotations", 7, "mended"), ("annotations", 6, "mended")}  # fmt: skip
    kept = json.loads((tmp_path / f"clean/annotations/instances_{SPLIT}.json").read_text())
    assert [a["image_id"] for a in kept["annotations"] if a["id"] in (5, 7)] == [3, 3]
