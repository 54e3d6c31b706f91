"""Which images a job is given, under which ids, and what is no answer to that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusing_disks import NOBODY

from raymrcnn.data.coco import open_split
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.infer import sources
from raymrcnn.infer.inputs import refs_in
from raymrcnn.structures import ImageRef


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in a folder and two below it, among other files."""
    root = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "day 1/c.jpeg", "day 1/deep/d.webp", "day 2/é.tif"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("notes.txt", "day 1/thumbs.db", "c.jpg.part", "jpg"):
        (root / name).touch()
    return root


ALL = ["a.PNG", "b.jpg", "day 1/c.jpeg", "day 1/deep/d.webp", "day 2/é.tif"]


def images_named(patterns: Sequence[str], limit: int = 0, out: Path | str = "") -> list[ImageRef]:
    return [ref for table in sources.images_named(patterns, limit, out) for ref in refs_in(table)]


def names(refs: list[ImageRef]) -> list[str]:
    return [ref.file_name for ref in refs]


# Folders, globs, lists, files


def test_a_folder_is_searched_through_for_images(folder: Path) -> None:
    refs = images_named([str(folder)])
    assert names(refs) == ALL
    assert [ref.image_id for ref in refs] == [1, 2, 3, 4, 5]
    assert [ref.uri for ref in refs] == [str(folder / name) for name in ALL]
    assert {(ref.width, ref.height) for ref in refs} == {(0, 0)}


def test_ids_do_not_depend_on_where_or_how_the_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    for pattern in ("photos", "./photos/", f"{folder}/"):
        assert images_named([pattern]) == images_named([str(folder)])
    monkeypatch.setenv("HOME", str(folder.parent))
    assert images_named(["~/photos"]) == images_named([str(folder)])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("*.[jP][pN][gG]", ["a.PNG", "b.jpg"]),
        ("day */*.jp*g", ["day 1/c.jpeg"]),
        ("**/*.webp", ["day 1/deep/d.webp"]),
        ("day 1/**/*.*e*", ["c.jpeg", "deep/d.webp"]),  # names start where the pattern does
    ],
)
def test_a_glob_names_what_it_matches(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names(images_named([f"{folder}/{pattern}"])) == expected


def test_files_and_folders_together_come_once_each_and_sorted(folder: Path) -> None:
    files = [str(folder / "b.jpg"), str(folder / "a.PNG"), str(folder / "b.jpg")]
    assert names(images_named(files)) == ["a.PNG", "b.jpg"]
    assert names(images_named([*files, str(folder)])) == ALL
    assert images_named([*files, str(folder)]) == images_named([str(folder), *reversed(files)])


def test_any_single_file_is_taken_at_its_word(folder: Path) -> None:
    assert names(images_named([str(folder / "jpg")])) == ["jpg"]


def test_a_list_is_read_from_its_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["# chosen by hand", "b.jpg", "", f"{folder}/a.PNG", "day 2/é.tif\r", "gone.jpg"]
    (folder / "list.txt").write_bytes("\n".join(lines).encode("utf-8-sig"))
    monkeypatch.chdir("/")
    refs = images_named([str(folder / "list.txt")])
    assert [ref.uri for ref in refs] == [
        str(folder / name) for name in ("a.PNG", "b.jpg", "day 2/é.tif", "gone.jpg")
    ]  # one that is missing is a failure of its own, later
    assert names(refs)[1:] == ["b.jpg", "day 2/é.tif", "gone.jpg"]


def test_a_limit_takes_the_first(folder: Path) -> None:
    assert images_named([str(folder)], 2) == images_named([str(folder)])[:2]
    assert images_named([str(folder)], 99) == images_named([str(folder)])


@pytest.mark.parametrize("pattern", ["{}", "{}/**/*.jpg", "{}/**/*.p*"])
@pytest.mark.parametrize("out", ["predictions", "."])
def test_what_was_drawn_and_written_among_the_images_is_no_input(
    folder: Path, pattern: str, out: str
) -> None:
    before = images_named([pattern.format(folder)])
    other = folder / "day 2/labels"  # of another job
    for place in (folder / out, other):
        (place / "overlays").mkdir(parents=True)
        for name in ("images.parquet", "part-000000000.parquet", "overlays/000000-b.jpg"):
            (place / name).touch()
    (other / "manifest.json").touch()
    assert images_named([pattern.format(folder)], out=folder / out) == before
    drawn = images_named([str(other / "overlays")])  # asked for by name
    assert names(drawn) == ["000000-b.jpg"]


def test_shards_are_told_from_parts_of_predictions(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (shards / "predictions").mkdir(parents=True)
    for place in (shards, shards / "predictions"):
        pq.write_table(pa.table({"uri": [f"/{place.name}/a.jpg"]}), place / "part-00000.parquet")
    assert len(images_named([str(shards)])) == 2
    (ref,) = images_named([str(shards)], out=shards / "predictions")
    assert ref.uri == "/shards/a.jpg"


def test_linked_folders_are_searched_once_each(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other/deep").mkdir(parents=True)
    (tmp_path / "other/deep/x.jpg").touch()
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "day 1/again").symlink_to(tmp_path / "other")
    (folder / "day 1/round").symlink_to(folder)
    (tmp_path / "other/back").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    refs = images_named([str(folder)])
    assert names(refs) == [*ALL, "linked/deep/x.jpg"]
    assert refs[-1].uri == str(folder / "linked/deep/x.jpg")


def nothing(folder: Path) -> str:
    return str(folder / "nothing")


def a_glob_of_nothing(folder: Path) -> str:
    return f"{folder}/*.gif"


def an_empty_folder(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


def a_list_of_nothing(folder: Path) -> str:
    (folder / "list.txt").write_text("# none\n\n")
    return str(folder / "list.txt")


@pytest.mark.parametrize(
    "make",
    [nothing, a_glob_of_nothing, an_empty_folder, a_list_of_nothing],
    ids=lambda f: f.__name__,
)
def test_a_source_without_an_image_is_refused_by_name(
    folder: Path, make: Callable[[Path], str]
) -> None:
    pattern = make(folder)
    with pytest.raises(DataError, match="no image is there") as caught:
        images_named([str(folder / "b.jpg"), pattern])
    assert caught.value.where == pattern


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a picture", b"a.jpg\n\0b.jpg\n"])
def test_a_list_that_is_no_text_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a list of paths") as caught:
        images_named([str(path)])
    assert str(path) in str(caught.value)


def test_a_path_that_is_not_utf8_is_refused_and_can_be_printed(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb"):
        pass
    with pytest.raises(DataError, match="not UTF-8") as caught:
        images_named([str(folder)])
    assert str(caught.value).encode()
    assert "caf" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what it may not read itself")
def test_a_folder_that_may_not_be_read_is_not_passed_over(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and path != path.parent:
            path.chmod(path.stat().st_mode | 0o055)
    (folder / "day 1").chmod(0o700)
    (folder / "list.txt").touch(0o600)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(DataError, match="cannot read the folder .Permission denied") as caught:
            images_named([str(folder)])
        with pytest.raises(DataError, match="cannot read the list .Permission denied"):
            images_named([str(folder / "list.txt")])
    finally:
        os.seteuid(0)
    assert caught.value.where == str(folder / "day 1")


def test_places_that_cannot_be_asked_for_are_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="~nobody-here/x: no user of this machine"):
        images_named(["~nobody-here/x"])
    with pytest.raises(DataError, match="cannot read .File name too long"):
        images_named([f"{folder}/{'n' * 300}"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what it may not read itself")
def test_a_place_in_a_folder_that_may_not_be_entered_is_one_line(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and path != path.parent:
            path.chmod(path.stat().st_mode | 0o055)
    (folder / "day 1").chmod(0o700)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(DataError, match="c.jpeg: cannot read .Permission denied"):
            images_named([str(folder / "day 1/c.jpeg")])
    finally:
        os.seteuid(0)


# Splits


def write_split(root: Path, file_names: list[str], places: list[str]) -> Path:
    images = [
        {"id": 10 * k, "file_name": name, "width": 40 + k, "height": 30}
        for k, name in enumerate(file_names, start=1)
    ]
    document: dict[str, Any] = {
        "images": images[::-1],  # an order of its own
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(document))
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    return root


def of_split(root: Path, limit: int = 0) -> list[ImageRef]:
    tables = sources.images_of_split(open_split(root, "val2017"), root, "val2017", limit)
    return [ref for table in tables for ref in refs_in(table)]


@pytest.mark.parametrize("place", ["val2017", "images/val2017", "images", "."])
def test_a_split_lists_its_images_in_each_layout(tmp_path: Path, place: str) -> None:
    root = write_split(tmp_path, ["a.jpg", "b.jpg"], [f"{place}/a.jpg", f"{place}/b.jpg"])
    b, a = of_split(root)
    where = str(root / place)
    assert b == ImageRef(image_id=20, file_name="b.jpg", uri=f"{where}/b.jpg", width=42, height=30)
    assert a == ImageRef(image_id=10, file_name="a.jpg", uri=f"{where}/a.jpg", width=41, height=30)
    assert of_split(root, 1) == of_split(root)[:1]


def test_a_missing_image_stays_in_the_list(tmp_path: Path) -> None:
    root = write_split(tmp_path, ["a.jpg", "b.jpg"], ["val2017/a.jpg"])
    assert [ref.uri for ref in of_split(root)] == [
        str(root / "val2017/b.jpg"), str(root / "val2017/a.jpg")]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../../etc/passwd", "../x\0.jpg", ""]
)
def test_a_name_that_leads_out_of_the_root_is_never_a_path(tmp_path: Path, name: str) -> None:
    root = write_split(tmp_path / "data", ["a.jpg", name], ["val2017/a.jpg"])
    hostile, good = of_split(root)
    assert hostile.uri == ""
    assert hostile.file_name == name
    assert good.uri


def test_a_name_may_go_up_and_down_within_its_folder(tmp_path: Path) -> None:
    root = write_split(tmp_path, ["day/../a.jpg"], ["val2017/a.jpg"])
    assert of_split(root)[0].uri == str(root / "val2017/a.jpg")


def test_a_name_too_long_for_the_file_system_is_a_missing_image(tmp_path: Path) -> None:
    root = write_split(tmp_path, ["a.jpg", "n" * 300 + ".jpg"], ["val2017/a.jpg"])
    assert len(of_split(root)) == 2


def test_a_split_of_which_no_image_is_there_is_refused(tmp_path: Path) -> None:
    root = write_split(tmp_path, ["a.jpg", "b.jpg"], ["train2017/a.jpg"])
    with pytest.raises(DataError, match="none of the 2 images is there") as caught:
        of_split(root)
    assert str(root / "val2017") in str(caught.value)
    assert "b.jpg" in str(caught.value)
