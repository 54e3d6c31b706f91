"""Files from the web: fetched in pieces that survive cuts, checked, and whole or not there.

What has come lies in `NAME.part`, and what it is a part of in `NAME.part.json`; the same call goes
on with it, and starts anew where the server's file changed. Refuses other protocols than HTTP(S)
and a redirection from HTTPS to HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raymrcnn.errors import ConfigError, FetchError, OutputError
from raymrcnn.rundir import disk_errors

TIMEOUT_S = 60.0
TRIES = 4  # in a row that bring nothing
FIRST_WAIT_S = 1.0  # doubled after each
SPARE = 64 << 20  # bytes left free on the disk
_CHUNK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that another try may mend

OnProgress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What is known of a file before it comes; empty: not published.

    Args:
        sha256: its SHA-256 in hexadecimal, or the first digits of it.
        md5: its MD5 in hexadecimal.
        size: bytes.
    """

    sha256: str = ""
    md5: str = ""
    size: int | None = None


class _Cut(Exception):
    """The connection ended before the file did, or could not be made."""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any,
                         newurl: str) -> Any:  # fmt: skip
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it leads from HTTPS to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def mirrored(url: str, mirror: str | None) -> str:
    """The address of the same path under a mirror.

    Args:
        url: as published.
        mirror: http(s)://HOST[/FOLDER] that stands for the host of `url`; None: no mirror.

    Raises:
        ConfigError: the mirror is no such address.
    """
    if not mirror:
        return url
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
        raise ConfigError(
            f"{mirror!r} is no address", where="--mirror", todo="give http(s)://HOST[/FOLDER]"
        )
    return mirror.rstrip("/") + urlsplit(url).path


def download(
    url: str, path: Path, checks: Checks = Checks(), on_progress: OnProgress | None = None
) -> bool:
    """Bring `url` to `path`, going on with what an earlier call left.

    Another process at the same file is waited for, and its file taken.

    Args:
        url: http or https.
        path: the file to be.
        checks: what it must be.
        on_progress: called with the bytes that are here, and the bytes of all if they are known.

    Returns:
        Whether anything was fetched; False: it was there.

    Raises:
        FetchError: the server refuses, cannot be reached, or gives another file than was published.
        OutputError: the disk is full, or refuses.
    """
    with disk_errors(path), _locked(path):
        if path.exists():
            _require(path, checks, where=str(path))
            return False
        part = _Part(url, path)
        _bring(part, checks, on_progress)
        try:
            _require(part.file, checks, where=url)
        except FetchError:
            part.remove()  # to go on with it would end the same
            raise
        os.replace(part.file, path)
        part.remove()
        return True


def text_at(url: str) -> str:
    """A small text, as the MD5 that stands beside some files.

    Raises:
        FetchError: it cannot be had.
    """
    try:
        with _open(urllib.request.Request(url)) as answer:
            return str(answer.read(4096).decode("ascii", errors="replace")).strip()
    except (_Cut, urllib.error.HTTPError) as error:
        raise FetchError(f"could not be fetched ({_reason(error)})", where=url) from None


class _Part:
    """What of a file has come, and the server's word for which file that is."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.file = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".part.json")
        self.validator, self.total = "", None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text())
            if note["url"] == url:
                self.validator, self.total = str(note["validator"]), note["total"]
        if not self.validator:
            self.begin("", None)

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def begin(self, validator: str, total: int | None) -> None:
        """Throw away what has come; a file of this validator and size comes now."""
        self.validator, self.total = validator, total
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(b"")
        self._note.write_text(json.dumps({"url": self.url, "validator": validator, "total": total}))

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _bring(part: _Part, checks: Checks, on_progress: OnProgress | None) -> None:
    tries, wait = 0, FIRST_WAIT_S
    while True:
        before = part.size
        try:
            _take(part, checks, on_progress)
            return
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING:
                raise FetchError(
                    f"the server answers {error.code} {error.reason}",
                    where=part.url,
                    todo="give --mirror URL, or fetch it elsewhere and give the file",
                ) from None
            reason = _reason(error)
        except _Cut as error:
            reason = str(error)
        tries, wait = (tries + 1, wait * 2) if part.size <= before else (1, FIRST_WAIT_S)
        if tries >= TRIES:
            raise FetchError(
                f"could not be fetched ({reason}); {part.size} bytes are here",
                where=part.url,
                todo="the same command goes on; or give --mirror URL",
            )
        time.sleep(wait)


def _take(part: _Part, checks: Checks, on_progress: OnProgress | None) -> None:
    """One connection's worth.

    Raises:
        _Cut: it ended early.
    """
    have = part.size
    if part.total is not None and have == part.total:
        return
    request = urllib.request.Request(part.url)
    if have and part.validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", part.validator)
    try:
        answer = _open(request)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.begin("", None)  # more is here than there: another file
        raise _Cut("the server's file changed") from None
    with answer:
        if answer.status != 206 or not _continues(answer, have, part.total):
            length = answer.headers.get("Content-Length")
            part.begin(_validator(answer.headers), int(length) if length else None)
            if answer.status == 206:
                raise _Cut("the server answered with another part")
        _require_size(part, checks)
        with part.file.open("ab") as file:
            while chunk := _read(answer):
                file.write(chunk)
                if on_progress is not None:
                    on_progress(file.tell(), part.total)
            file.flush()
            os.fsync(file.fileno())
    if part.total is not None and part.size != part.total:
        raise _Cut("the connection was cut")


def _continues(answer: Any, have: int, total: int | None) -> bool:
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == have and found[2] in ("*", str(total))


def _validator(headers: Any) -> str:
    """What If-Range takes: a strong ETag, else the date."""
    etag = headers.get("ETag", "")
    return str(etag if etag.startswith('"') else headers.get("Last-Modified", ""))


def _require_size(part: _Part, checks: Checks) -> None:
    if part.total is None:
        return
    if checks.size is not None and part.total != checks.size:
        total = part.total
        part.remove()
        raise FetchError(
            f"has {total} bytes, and {checks.size} were published", where=part.url,
            todo="try another --mirror",
        )  # fmt: skip
    needed, free = part.total - part.size, shutil.disk_usage(part.file.parent).free
    if needed + SPARE > free:
        raise OutputError(
            f"{needed >> 20} MiB are to come, and {free >> 20} MiB are free",
            where=str(part.file.parent),
            todo="make room, or choose another --out",
        )


def _open(request: urllib.request.Request) -> Any:
    if urlsplit(request.full_url).scheme not in ("http", "https"):
        raise ConfigError("only http and https are fetched", where=request.full_url)
    try:
        return urllib.request.build_opener(_NoDowngrade).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_reason(error)) from None


def _read(answer: Any) -> bytes:
    try:
        return bytes(answer.read(_CHUNK))
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_reason(error)) from None


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", "") or error).split()) or type(error).__name__


def _require(path: Path, checks: Checks, *, where: str) -> None:
    """Raise FetchError unless the file is what was published."""
    size = path.stat().st_size
    if checks.size is not None and size != checks.size:
        raise _other(f"has {size} bytes, and {checks.size} were published", where)
    for name, wanted in (("sha256", checks.sha256), ("md5", checks.md5)):
        if wanted:
            with path.open("rb") as file:
                found = _digest(file, name)
            if not found.startswith(wanted.lower()):
                raise _other(f"its {name.upper()} is {found}, and {wanted} was published", where)


def _digest(file: Any, name: str) -> str:
    """Of a file that need not fit into memory; `hashlib.file_digest` came after Python 3.10."""
    digest = hashlib.new(name)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _other(what: str, where: str) -> FetchError:
    todo = "try another --mirror" if "://" in where else "remove it, and fetch it again"
    return FetchError(what, where=where, todo=todo)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes at the same file; a kill lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
