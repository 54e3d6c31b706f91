"""COCO 2017 fetched from a small copy of its host: whole at the end, or not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import raymrcnn.data.coco2017 as coco2017
import raymrcnn.download as fetching
from raymrcnn.cli.main import app
from raymrcnn.data.coco import open_split
from raymrcnn.data.coco2017 import IMAGES, LABELS, fetch_coco
from raymrcnn.data.images import resolve_image
from raymrcnn.data.unpack import Limits, members_of, unpack
from raymrcnn.errors import FetchError, OutputError

from .small_web import Web, serve

IMAGE = os.urandom(40_000)  # as incompressible as a photograph
LIMITS = Limits(files=100, bytes=10 << 20)


def zipped(files: dict[str, bytes], **about: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in about.items():
                setattr(entry, key, value)
            archive.writestr(entry, data)
    return stream.getvalue()


def document(num_images: int) -> bytes:
    return json.dumps(
        {
            "images": [
                {"id": k, "file_name": f"{k:012d}.jpg", "width": 8, "height": 6}
                for k in range(1, num_images + 1)
            ],
            "annotations": [],
            "categories": [{"id": 1, "name": "person"}],
        }
    ).encode()


CONTENT = {
    "/annotations/annotations_trainval2017.zip": zipped(
        {
            "annotations/instances_train2017.json": document(6),
            "annotations/instances_val2017.json": document(3),
            "annotations/captions_val2017.json": b"{}",
        }
    ),
    "/zips/train2017.zip": zipped(
        {"train2017/": b"", **{f"train2017/{k:012d}.jpg": IMAGE + bytes([k]) for k in range(1, 7)}}
    ),
    "/zips/val2017.zip": zipped(
        {"val2017/": b"", **{f"val2017/{k:012d}.jpg": IMAGE + bytes([9, k]) for k in range(1, 4)}}
    ),
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host, and the published numbers of what it has."""
    monkeypatch.setattr(fetching, "FIRST_WAIT_S", 0.001)
    for table in (IMAGES, LABELS):
        for split in ("train2017", "val2017"):
            old = table[split]
            body = CONTENT[old.path]
            monkeypatch.setitem(table, split, replace(
                old, size=len(body), sha256=hashlib.sha256(body).hexdigest(), unpacked=1 << 20,
            ))  # fmt: skip
    with serve(dict(CONTENT)) as web:
        yield web


def files_of(root: Path) -> set[str]:
    return {
        str(p.relative_to(root))
        for p in root.rglob("*")
        if not p.is_dir() and not p.name.endswith(".lock")
    }


LAYOUT = {
    "annotations/captions_val2017.json",
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "fetched.json",
    "train2017.txt",
    "val2017.txt",
    *(f"train2017/{k:012d}.jpg" for k in range(1, 7)),
    *(f"val2017/{k:012d}.jpg" for k in range(1, 4)),
}


def test_the_layout_is_the_references_and_a_second_call_asks_for_nothing(
    web: Web, tmp_path: Path
) -> None:
    root = tmp_path / "coco"
    lines: list[str] = []
    done = fetch_coco(root, ["train2017", "val2017"], mirror=web.url, progress=lines.append)
    assert files_of(root) == LAYOUT
    assert {p: os.readlink(root / "images" / p) for p in ("train2017", "val2017")} == {
        "train2017": "../train2017",
        "val2017": "../val2017",
    }
    assert (root / "val2017.txt").read_text().splitlines() == [
        f"./images/val2017/{k:012d}.jpg" for k in range(1, 4)
    ]
    assert done.num_images == {"train2017": 6, "val2017": 3}
    assert any("MB" in line for line in lines) and "done" in lines[-1]
    for name in (root / "val2017.txt").read_text().split():
        assert (root / name).is_file()
    index = open_split(root, "train2017")
    assert resolve_image(root, "train2017", index.file_name(2)).read_bytes() == IMAGE + b"\x03"
    asked = len(web.does.asked)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    again = fetch_coco(root, ["train2017", "val2017"], mirror=web.url)
    assert again.fetched == () and len(again.there) == 3
    assert len(web.does.asked) == asked
    assert {p: t for p, t in before.items() if p.is_file()} == {
        p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()
    }


def test_cut_connections_are_gone_on_with_by_the_next_call_too(web: Web, tmp_path: Path) -> None:
    web.does.cuts = {"/zips/val2017.zip": [50_000, *[0] * 10]}
    with pytest.raises(FetchError, match=r"50000 bytes are here; the same command goes on"):
        fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    assert not (tmp_path / "val2017").exists()
    web.does.cuts, web.does.asked = {}, []
    fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    assert web.does.asked == [("/zips/val2017.zip", "bytes=50000-")]
    assert len(list((tmp_path / "val2017").iterdir())) == 3


def test_annotations_alone_and_archives_kept(web: Web, tmp_path: Path) -> None:
    fetch_coco(tmp_path, ["val2017"], only="annotations", mirror=web.url, keep_archives=True)
    assert [path for path, _ in web.does.asked] == ["/annotations/annotations_trainval2017.zip"]
    assert (tmp_path / "annotations_trainval2017.zip").is_file()
    assert not (tmp_path / "val2017.txt").exists() and not (tmp_path / "images").exists()
    fetch_coco(tmp_path, ["val2017"], mirror=web.url)  # the images are added
    assert [path for path, _ in web.does.asked[1:]] == ["/zips/val2017.zip"]


def test_another_file_than_was_published_is_refused_and_nothing_of_it_is_left(
    web: Web, tmp_path: Path
) -> None:
    body = bytearray(CONTENT["/zips/val2017.zip"])
    body[1000] ^= 1
    web.does.files["/zips/val2017.zip"] = bytes(body)
    with pytest.raises(FetchError, match="its SHA256 is"):
        fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    assert not (tmp_path / "val2017").exists()
    assert not list(tmp_path.glob("val2017.zip*"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(coco2017.shutil, "disk_usage", lambda _: usage)
    root = tmp_path / "coco"
    with pytest.raises(OutputError, match=r"GB are needed .* and 0\.0 GB are free"):
        fetch_coco(root, ["train2017", "val2017"], mirror=web.url)
    assert not root.exists() and web.does.asked == []


def test_a_disk_that_fills_up_leaves_what_the_next_call_goes_on_with(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = os.replace

    def full_at_the_third(source: Any, target: Any) -> None:
        if str(target).endswith(".jpg"):
            written.append(Path(target).name)
            if len(written) == 3:
                raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("raymrcnn.data.unpack.os.replace", full_at_the_third)
    with pytest.raises(OutputError, match="No space left on device"):
        fetch_coco(tmp_path, ["train2017"], only="images", mirror=web.url)
    assert not (tmp_path / "train2017").exists()
    # What is unpacked already needs no room again: 80 kB of the megabyte that was announced.
    needed = coco2017.SPARE + (1 << 20) - 80_000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(coco2017.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    web.does.asked, written[:] = [], ["", "", "", ""]
    fetch_coco(tmp_path, ["train2017"], only="images", mirror=web.url)
    assert web.does.asked == []  # the archive is here and right
    assert len(written) - 4 == 4, "the two that were whole are kept"
    assert len(list((tmp_path / "train2017").iterdir())) == 6


def test_a_kill_between_the_folder_and_its_record_is_mended(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = coco2017._Job.note

    def killed(job: Any, name: str, entry: dict[str, Any]) -> None:
        if entry["whole"]:
            raise KeyboardInterrupt
        real(job, name, entry)

    monkeypatch.setattr(coco2017._Job, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    monkeypatch.setattr(coco2017._Job, "note", real)
    (tmp_path / "val2017/000000000002.jpg").write_bytes(b"cut")
    fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    assert (tmp_path / "val2017/000000000002.jpg").read_bytes() == IMAGE + bytes([9, 2])
    (tmp_path / "val2017/000000000001.jpg").unlink()  # whole, and then something went
    done = fetch_coco(tmp_path, ["val2017"], only="images", mirror=web.url)
    assert done.fetched == ("val2017.zip",)
    assert len(list((tmp_path / "val2017").iterdir())) == 3


def test_what_was_there_before_is_left_alone(web: Web, tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/mine.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="was not fetched here"):
        fetch_coco(tmp_path, ["val2017"], mirror=web.url)
    assert web.does.asked == [] and files_of(tmp_path) == {"val2017/mine.jpg"}


def test_the_command(web: Web, tmp_path: Path) -> None:
    words = ["data", "fetch", "--out", str(tmp_path / "c"), "--mirror", web.url]
    done = CliRunner().invoke(app, [*words, "--split", "val2017"])
    assert done.exit_code == 0, done.output
    assert "3 images of val2017" in done.stdout
    done = CliRunner().invoke(app, [*words, "--split", "val2017", "--json"])
    assert json.loads(done.stdout)["fetched"] == []
    for extra, said in (
        (["--split", "val2014"], "COCO 2017 has no split 'val2014'"),
        (["--only", "labels"], "neither annotations nor images"),
    ):
        wrong = CliRunner().invoke(app, [*words, *extra])
        assert (wrong.exit_code, said in wrong.stderr) == (2, True), wrong.output
    web.does.files.clear()
    failed = CliRunner().invoke(app, words)
    assert failed.exit_code == 1 and "the server answers 404" in failed.stderr


LINK = {"external_attr": 0o120777 << 16}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (zipped({"../evil": b"x"}), "leads out of the folder"),
        (zipped({"t/../../evil": b"x"}), "leads out of the folder"),
        (zipped({"/etc/evil": b"x"}), "leads out of the folder"),
        (zipped({"t/a\\..\\..\\evil": b"x"}), "leads out of the folder"),
        (zipped({"C:/evil": b"x"}), "leads out of the folder"),
        (zipped({"other/file": b"x"}), "does not lie in t/"),
        (zipped({"t": b"x"}), "does not lie in t/"),
        (zipped({"t/link": b"/etc/passwd"}, **LINK), "is a link or a device"),
        (zipped({"t/bomb": bytes(5 << 20)}), "would grow too much"),
        (zipped({f"t/{k}": bytes(900_000) for k in range(20)}), "would unpack to 17 MiB"),
        (zipped({f"t/{k}": b"" for k in range(101)}), "holds 101 files"),
        (b"PK\x03\x04 and nothing more", "is no whole zip archive"),
        (b"", "is no whole zip archive"),
        (zipped({"t/a": b"x" * 5000})[:-30], "is no whole zip archive"),
    ],
)
def test_a_hostile_archive_is_refused_before_a_byte_is_written(
    body: bytes, said: str, tmp_path: Path
) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(body)
    with pytest.raises(FetchError, match=said) as caught:
        members_of(archive, "t", LIMITS)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("t/a", b"1")
        opened.writestr("t/a", b"2")
    with pytest.raises(FetchError, match="is there twice"):
        members_of(archive, "t", LIMITS)


def test_an_archive_that_lies_about_a_file_gives_no_file(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    body = bytearray(zipped({"t/a": IMAGE, "t/b": IMAGE}))
    wrong = zlib.crc32(b"something else").to_bytes(4, "little")
    at = body.index(b"PK\x01\x02", body.index(b"PK\x01\x02") + 1)
    body[at + 16 : at + 20] = wrong
    archive.write_bytes(bytes(body))
    members = members_of(archive, "t", LIMITS)
    with pytest.raises(FetchError, match="is no whole zip archive"):
        unpack(archive, tmp_path / "out", members)
    assert (tmp_path / "out/t/a").read_bytes() == IMAGE
    assert not (tmp_path / "out/t/b").exists()
