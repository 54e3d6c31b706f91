"""COCO 2017 from its publishers' addresses, as a data set that `train` and `infer` take.

    ROOT/annotations/instances_train2017.json ...   all files of the archive
    ROOT/train2017/*.jpg, ROOT/val2017/*.jpg
    ROOT/images/train2017 -> ../train2017           links, for programs that look there
    ROOT/train2017.txt                              ./images/train2017/000000000009.jpg, a line each
    ROOT/fetched.json                               what is whole; written after each archive

That is the layout of Cambricon's model zoo sample (its README, "prepare the data set"; the lists
are those of the YOLO samples that share the folder). A folder or a file takes its name when it is
whole. This module refuses to touch what it did not write.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raymrcnn import rundir
from raymrcnn.data.unpack import Limits, members_of, unpack
from raymrcnn.download import SPARE, Checks, download, mirrored
from raymrcnn.errors import ConfigError, OutputError

RECORD = "fetched.json"
ANNOTATIONS = "annotations"
ONLY = ("annotations", "images")
_HOST = "http://images.cocodataset.org"  # the host has no certificate of its own name
_PARALLEL = 4
_MOST_FILES = 200_000


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One published file.

    Args:
        path: on the publisher's host.
        size: bytes.
        sha256: in hexadecimal.
        top: the one folder in it.
        unpacked: bytes of its files, about; the archive's own directory is believed later.
    """

    path: str
    size: int
    sha256: str
    top: str
    unpacked: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.rpartition("/")[2]


# Source of sizes and SHA-256: tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt.
_TRAINVAL = Archive(
    path="/annotations/annotations_trainval2017.zip",
    size=252_907_541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    top=ANNOTATIONS,
    unpacked=840_000_000,
)
_TEST = Archive(
    path="/annotations/image_info_test2017.zip",
    size=1_144_034,
    sha256="e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
    top=ANNOTATIONS,
    unpacked=16_000_000,
)
IMAGES = {
    "train2017": Archive(
        path="/zips/train2017.zip",
        size=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        top="train2017",
        unpacked=19_500_000_000,
    ),
    "val2017": Archive(
        path="/zips/val2017.zip",
        size=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        top="val2017",
        unpacked=830_000_000,
    ),
    "test2017": Archive(
        path="/zips/test2017.zip",
        size=6_646_970_404,
        sha256="c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba",
        top="test2017",
        unpacked=6_700_000_000,
    ),
}
LABELS = {"train2017": _TRAINVAL, "val2017": _TRAINVAL, "test2017": _TEST}


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is in the root now."""

    root: str
    splits: tuple[str, ...]
    fetched: tuple[str, ...]  # archives that this call brought
    there: tuple[str, ...]  # archives that were there
    num_images: dict[str, int]  # by split, where its images are there
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


class _Stopped(Exception):
    """Another archive failed, or the user wants to stop; what has come stays."""


def fetch_coco(
    root: Path,
    splits: Sequence[str],
    *,
    only: str = "",
    mirror: str | None = None,
    keep_archives: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Fetched:
    """Bring splits of COCO 2017 here; a call that was cut goes on, and a second one does nothing.

    Args:
        root: of the data set.
        splits: of `IMAGES`.
        only: one of `ONLY`: without the others; empty: both.
        mirror: http(s)://HOST[/FOLDER] that stands for the publisher's host.
        keep_archives: leave the zip files in the root.
        progress: told one line about all archives, now and then.

    Raises:
        ConfigError: no such split.
        FetchError: an archive cannot be had, is another than was published, or is hostile.
        OutputError: too little room (found before anything is written), the disk refuses, or
            something is in the way that was not fetched here.
    """
    archives = _wanted(splits, only)
    urls = {a.name: mirrored(_HOST + a.path, mirror) for a in archives}
    existing = _record(root)
    missing = [a for a in archives if not _is_whole(root, a, existing.get(a.name))]
    for archive in missing:
        _require_free_place(root, archive, existing.get(archive.name))
    _require_room(root, missing)
    rundir.prepare_output(root)
    with rundir.exclusive(root):
        job = _Job(root, existing, _Line(progress), keep_archives)
        _all(job, [(archive, urls[archive.name]) for archive in missing])
    notes = _finish(root, [s for s in splits if only != ANNOTATIONS])
    return Fetched(
        root=str(root),
        splits=tuple(splits),
        fetched=tuple(a.name for a in missing),
        there=tuple(a.name for a in archives if a not in missing),
        num_images={s: job.record[IMAGES[s].name]["files"] for s in splits
                    if IMAGES[s].name in job.record},
        notes=tuple(notes),
    )  # fmt: skip


def _wanted(splits: Sequence[str], only: str) -> list[Archive]:
    for split in splits:
        if split not in IMAGES:
            raise ConfigError(
                f"COCO 2017 has no split {split!r}",
                where="--split",
                todo=f"there are {', '.join(IMAGES)}",
            )
    if only and only not in ONLY:
        raise ConfigError(f"{only!r} is neither {' nor '.join(ONLY)}", where="--only")
    found = [LABELS[s] for s in splits if only != "images"]
    found += [IMAGES[s] for s in splits if only != ANNOTATIONS]
    return list(dict.fromkeys(found))


def _record(root: Path) -> dict[str, Any]:
    document = rundir.read_json(root / RECORD) if (root / RECORD).is_file() else {}
    entries = document.items() if isinstance(document, dict) else ()
    return {
        k: v for k, v in entries if isinstance(v, dict) and {"whole", "files", "sizes"} <= set(v)
    }


def _is_whole(root: Path, archive: Archive, entry: Any) -> bool:
    """Whether all files that the record tells of an archive are there."""
    if not entry or not entry["whole"] or entry["sha256"] != archive.sha256:
        return False
    if archive.top == ANNOTATIONS:
        return all(
            (root / name).is_file() and (root / name).stat().st_size == size
            for name, size in entry["sizes"].items()
        )
    folder = root / archive.top
    return folder.is_dir() and sum(1 for _ in os.scandir(folder)) >= int(entry["files"])


def _require_free_place(root: Path, archive: Archive, entry: Any) -> None:
    """Refuse to write over what is not ours."""
    if entry or not root.exists():
        return
    names = {archive.top}
    if archive.top == ANNOTATIONS:
        names = {f"{ANNOTATIONS}/instances_{s}.json" for s, a in LABELS.items() if a == archive}
    for name in sorted(names):
        if (root / name).exists():
            raise OutputError(
                "is there already, and was not fetched here",
                where=str(root / name),
                todo="choose another --out, or move it away",
            )


def _require_room(root: Path, archives: Sequence[Archive]) -> None:
    """Refuse before anything is written: archives and what is in them lie there together."""
    needed = 0
    for archive in archives:
        here = sum(p.stat().st_size for p in _parts(root, archive) if p.exists())
        unpacked = _bytes_below(_work(root, archive))
        if archive.top != ANNOTATIONS:
            unpacked += _bytes_below(root / archive.top)
        needed += max(archive.size - here, 0) + max(archive.unpacked - unpacked, 0)
    place = root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if archives and needed + SPARE > free:
        raise OutputError(
            f"{needed / 1e9:.1f} GB are needed (archives and what is in them), and "
            f"{free / 1e9:.1f} GB are free",
            where=str(place),
            todo="make room, choose another --out, or fewer: --split val2017",
        )


def _work(root: Path, archive: Archive) -> Path:
    """Where an archive is unpacked before it takes its name; found again by the next call."""
    return root / f"{rundir.TMP_PREFIX}{archive.top}-{archive.sha256[:8]}"


def _bytes_below(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _parts(root: Path, archive: Archive) -> tuple[Path, Path]:
    return root / archive.name, root / f"{archive.name}.part"


class _Line:
    """The state of all archives in one line; told from several threads."""

    def __init__(self, progress: Callable[[str], object] | None) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._states: dict[str, str] = {}
        self._first: dict[str, int] = {}  # bytes that were here before
        self._now: dict[str, int] = {}
        self._began = time.monotonic()

    def coming(self, name: str, here: int, total: int | None) -> None:
        of = f"/{total / 1e6:.0f}" if total else ""
        doing = "checking" if here == total else f"{here / 1e6:.0f}{of} MB"
        with self._lock:
            self._first.setdefault(name, here)
            self._now[name] = here
            came = sum(self._now.values()) - sum(self._first.values())
            rate = came / 1e6 / max(time.monotonic() - self._began, 1e-3)
        self.say(name, doing, f"{rate:.1f} MB/s")

    def say(self, name: str, doing: str, tail: str = "") -> None:
        with self._lock:
            self._states[name] = doing
            if self._progress is not None:
                line = "; ".join(f"{k}: {v}" for k, v in self._states.items())
                self._progress(f"{line}; {tail}" if tail else line)


@dataclass
class _Job:
    """What the threads of one call share."""

    root: Path
    record: dict[str, Any]
    line: _Line
    keep_archives: bool
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def go_on(self) -> None:
        if self.stop.is_set():
            raise _Stopped

    def note(self, name: str, entry: dict[str, Any]) -> None:
        with self.lock:
            self.record[name] = entry
            rundir.write_json(self.root / RECORD, self.record)


def _all(job: _Job, pairs: Sequence[tuple[Archive, str]]) -> None:
    """Bring archives side by side; the first failure stops the others."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        futures: list[Future[None]] = [pool.submit(_one, job, a, url) for a, url in pairs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            job.stop.set()
    failed = [f.exception() for f in futures if f.exception() is not None]
    real = [error for error in failed if not isinstance(error, _Stopped)]
    if real:
        assert real[0] is not None
        raise real[0]


def _one(job: _Job, archive: Archive, url: str) -> None:
    name, file = archive.name, job.root / archive.name

    def coming(here: int, total: int | None) -> None:
        job.go_on()
        job.line.coming(name, here, total)

    def unpacking(done: int, total: int) -> None:
        job.go_on()
        job.line.say(name, f"unpacked {done / 1e6:.0f}/{total / 1e6:.0f} MB")

    job.go_on()
    download(url, file, Checks(sha256=archive.sha256, size=archive.size), coming)
    limits = Limits(files=_MOST_FILES, bytes=2 * archive.unpacked)
    members = members_of(file, archive.top, limits)
    entry = {
        "sha256": archive.sha256,
        "url": url,
        "files": len(members),
        "bytes": sum(member.file_size for member in members),
        "sizes": {m.filename: m.file_size for m in members} if archive.top == ANNOTATIONS else {},
    }
    job.note(name, {"whole": False, **entry})
    if archive.top != ANNOTATIONS and (job.root / archive.top).exists():
        unpack(file, job.root, members, unpacking)  # fetched here before: what is gone of it
    else:
        work = _work(job.root, archive)
        unpack(file, work, members, unpacking)
        with rundir.disk_errors(job.root):
            _commit(job.root, archive, work, [member.filename for member in members])
    job.note(name, {"whole": True, **entry})
    if not job.keep_archives:
        file.unlink(missing_ok=True)
        file.with_name(f".{name}.lock").unlink(missing_ok=True)
    job.line.say(name, "done")


def _commit(root: Path, archive: Archive, work: Path, names: Sequence[str]) -> None:
    """Give what was unpacked its names: files of a common folder singly, images as a folder."""
    if archive.top == ANNOTATIONS:
        (root / ANNOTATIONS).mkdir(exist_ok=True)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / name, root / name)
    else:
        os.replace(work / archive.top, root / archive.top)
    shutil.rmtree(work, ignore_errors=True)


def _finish(root: Path, splits: Sequence[str]) -> list[str]:
    """Links and lists of the splits whose images are there; returns what could not be made."""
    notes = []
    for split in splits:
        names = sorted(entry.name for entry in os.scandir(root / split))
        lines = "".join(f"./images/{split}/{name}\n" for name in names)
        place = root / f"{split}.txt"
        if not place.is_file() or place.read_text(encoding="utf-8") != lines:
            rundir.write_text(place, lines)
        link = root / "images" / split
        with rundir.disk_errors(link):
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink() or link.exists():
                if not link.exists() or not link.samefile(root / split):
                    notes.append(f"{link} is something else, and was left alone")
                continue
            with contextlib.suppress(FileExistsError):
                try:
                    link.symlink_to(Path("..", split), target_is_directory=True)
                except PermissionError:  # what vfat and some network disks say
                    notes.append(f"this disk takes no links: {link} was left out")
    return notes
