"""Zip archives from elsewhere, unpacked: nothing leaves the folder, and no file is half there.

Every name is checked before the first byte is written. A file is written under a temporary name and
renamed when its checksum is right; what an earlier call unpacked is compared by its checksum and
kept. This module refuses archives that hold links, names that lead elsewhere, or more than was
announced.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raymrcnn import rundir
from raymrcnn.errors import FetchError

_CHUNK = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# A deflate stream cannot grow more than 1032 times (RFC 1951: 258 bytes from 2 bits); what people
# archive stays far below this, and what is made to fill a disk does not.
_MOST_GROWTH = 200
_SMALL = 1 << 20  # files that may grow as they like

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most."""

    files: int
    bytes: int  # unpacked, all together


def members_of(archive: Path, top: str, limits: Limits) -> list[zipfile.ZipInfo]:
    """The files of an archive, proved harmless; reads its directory alone.

    Args:
        archive: a zip file.
        top: the one folder that it may hold.
        limits: of all files together.

    Raises:
        FetchError: it is damaged, or refused; names the file in it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(archive, error) from None
    if len(entries) > limits.files:
        raise FetchError(
            f"holds {len(entries)} files, and at most {limits.files} are unpacked",
            where=str(archive),
        )
    seen: set[str] = set()
    total = 0
    for entry in entries:
        why = _fault(entry, top, seen)
        if why:
            raise FetchError(
                f"{entry.filename[:200]!r} in it {why}; nothing was unpacked",
                where=str(archive),
                todo="remove it, and fetch it from another place",
            )
        seen.add(entry.filename.rstrip("/"))
        total += entry.file_size
    if total > limits.bytes:
        raise FetchError(
            f"would unpack to {total >> 20} MiB, and at most {limits.bytes >> 20} are; nothing was "
            "unpacked",
            where=str(archive),
        )
    return [entry for entry in entries if not entry.is_dir()]


def unpack(
    archive: Path, into: Path, members: list[zipfile.ZipInfo], on_bytes: OnBytes | None = None
) -> None:
    """Write the files of an archive below a folder, going on where an earlier call ended.

    Args:
        archive: a zip file.
        into: the folder; it is created.
        members: what `members_of` said of the archive.
        on_bytes: told the bytes that are there and all bytes, now and then.

    Raises:
        FetchError: the archive is damaged, or is another than its directory says.
        OutputError: the disk is full, or refuses.
    """
    total, done = sum(entry.file_size for entry in members), 0
    with rundir.disk_errors(into):
        into.mkdir(parents=True, exist_ok=True)
        folders: set[Path] = set()
        try:
            with zipfile.ZipFile(archive) as opened:
                for k, entry in enumerate(members, start=1):
                    target = into / entry.filename
                    if target.parent not in folders:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        folders.add(target.parent)
                    if not _is_there(target, entry):
                        _write(opened, entry, target)
                    done += entry.file_size
                    if on_bytes is not None and (k % 50 == 0 or k == len(members)):
                        on_bytes(done, total)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _damaged(archive, error) from None


def _fault(entry: zipfile.ZipInfo, top: str, seen: set[str]) -> str:
    """Why a member is refused; empty where it is harmless."""
    name = entry.filename
    parts = name.rstrip("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    faults = {
        "has a name that leads out of the folder": name.startswith(("/", "\\"))
        or any(part in ("", ".", "..") for part in parts)
        or any(c in name for c in "\\:\0"),
        f"does not lie in {top}/": parts[0] != top or (len(parts) == 1 and not entry.is_dir()),
        "is there twice": name.rstrip("/") in seen,
        "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted": bool(entry.flag_bits & 1),
        "is packed in a way that is not read": entry.compress_type not in _METHODS,
        "would grow too much when it is unpacked": entry.file_size > _SMALL
        and entry.file_size > _MOST_GROWTH * max(entry.compress_size, 1),
    }
    return next((why for why, found in faults.items() if found), "")


def _is_there(target: Path, entry: zipfile.ZipInfo) -> bool:
    """Whether a file was unpacked whole before."""
    try:
        if target.is_symlink() or target.stat().st_size != entry.file_size:
            return False
        found = 0
        with target.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found = zlib.crc32(chunk, found)
        return found == entry.CRC
    except FileNotFoundError:
        return False


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Write one file; reading to its end checks its CRC, and never gives more than its size."""
    part = target.with_name(rundir.TMP_PREFIX + target.name)
    with opened.open(entry) as source, part.open("wb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
    os.replace(part, target)


def _damaged(archive: Path, error: BaseException) -> FetchError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return FetchError(
        f"is no whole zip archive ({text})",
        where=str(archive),
        todo="remove it, and fetch it again",
    )
