"""Files behind a URI: the few operations that data, runs and predictions need, through pyarrow.

A name is a URI (`s3://bucket/folder?region=...`, `gs://`, `hdfs://`, `abfs://`, `file:///`), or a
path of this machine. Object stores have no rename: a write is one upload, visible when it is whole
(on Azure an empty file stands there before, which `names` leaves out); HDFS shows files while they
are written, and there a write is a rename.
Nothing is cached here; only `remove` and `remove_below` delete. What takes a `Place` does on a path
of this machine what `rundir` does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raymrcnn import rundir
from raymrcnn.errors import ConfigError, DataError, OutputError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: `Path` takes the other away
_CHUNK_BYTES = 1 << 20
_SHOWN_WHILE_WRITTEN = ("hdfs",)

Place = Path | str  # a path of this machine, or a URI


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Whether a name is a URI, rather than a path."""
    return _URI.match(str(text)) is not None


def join(uri: str, *names: str) -> str:
    """What lies below a URI or a path; a URI's query (`?region=...`) stays at the end."""
    if not is_uri(uri):
        return os.path.join(uri, *names)
    base, mark, query = uri.partition("?")
    return posixpath.join(base, *names) + mark + query


def place(text: str | os.PathLike[str]) -> Path | str:
    """A URI as it is given, or the absolute path of what is on this machine.

    Raises:
        ConfigError: the home of a user that this machine does not know.
    """
    return str(text) if is_uri(text) else rundir.home_expanded(text).absolute()


def settled(text: str | os.PathLike[str]) -> Place:
    """As `place`, but a URI of this machine's own files is the path that it means."""
    found = place(text)
    if isinstance(found, Path):
        return found
    system, path = open_uri(found)
    base, mark, query = found.partition("?")
    # A trailing slash names the same place, and would make another name of it.
    return Path(path) if isinstance(system, fs.LocalFileSystem) else base.rstrip("/") + mark + query


def below(where: Place, *names: str) -> Place:
    """What lies below a place."""
    return join(where, *names) if isinstance(where, str) else where.joinpath(*names)


def name_of(where: Place) -> str:
    """The last part of a place."""
    return posixpath.basename(str(where).partition("?")[0].rstrip("/"))


def cache_folder() -> Path:
    """Where copies of what is behind URIs are kept on this machine."""
    chosen = os.environ.get("RAYMRCNN_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raymrcnn"


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path on it; one connection a process and address.

    Raises:
        ConfigError: no such kind of storage, or a malformed URI.
    """
    if not is_uri(uri):
        return fs.LocalFileSystem(), os.path.abspath(uri)
    base, mark, query = uri.partition("?")
    if "://" not in base:
        raise ConfigError(f"{uri} has one slash where a URI has two", todo="write SCHEME://PLACE")
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    system, root = _connected(f"{scheme}://{host}{slash}{mark}{query}")
    return system, posixpath.join(root, path) if path else root


@functools.lru_cache(maxsize=32)
def _connected(address: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(address)  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            f"cannot open {address.partition('?')[0]} ({one_line(error)})",
            todo="give a path, or a URI that pyarrow reads: s3://, gs://, abfs://, hdfs://",
        ) from None


def size(uri: str) -> int | None:
    """Bytes of a file; None where there is none.

    Raises:
        DataError: the storage does not answer.
    """
    system, path = open_uri(uri)
    try:
        info = system.get_file_info(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    return int(info.size) if info.type == fs.FileType.File else None


def names(uri: str) -> list[str]:
    """Names of what lies in a folder, but empty files, sorted; none where there is no such folder.

    Raises:
        DataError: the storage does not answer.
    """
    system, path = open_uri(uri)
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    return sorted(i.base_name for i in found if i.type != fs.FileType.File or i.size)


def read(uri: str, start: int = 0, length: int | None = None) -> bytes:
    """A file, or `length` bytes of it from `start` on.

    Raises:
        DataError: missing, shorter, or the storage does not answer.
    """
    system, path = open_uri(uri)
    try:
        with system.open_input_file(path) as stream:
            wanted = stream.size() - start if length is None else length
            data: bytes = stream.read_at(wanted, start)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    if len(data) != wanted:
        raise DataError(f"ends at byte {start + len(data)}", where=uri, todo="copy it again")
    return data


def open_file(uri: str) -> pa.NativeFile:
    """A file to read ranges of, from several threads; raises as `read`."""
    system, path = open_uri(uri)
    try:
        return system.open_input_file(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None


def write(uri: str, data: bytes) -> None:
    """Commit a file: there whole afterwards, or not at all.

    Raises:
        OutputError: the storage refuses.
    """
    system, path = open_uri(uri)
    if isinstance(system, fs.LocalFileSystem):
        rundir.prepare_output(Path(path).parent)
        rundir.write_atomic(Path(path), functools.partial(_fill, data=data))
        return
    try:
        with _whole(system, path) as target, system.open_output_stream(target) as stream:
            stream.write(data)
    except (pa.ArrowException, OSError) as error:
        raise _unwritable(uri, error) from None


@contextlib.contextmanager
def _whole(system: fs.FileSystem, path: str) -> Iterator[str]:
    """Where to write a file so that it is there whole or not at all."""
    if system.type_name not in _SHOWN_WHILE_WRITTEN:
        yield path
        return
    folder, name = posixpath.split(path)
    written = posixpath.join(folder, rundir.TMP_PREFIX + name)
    yield written
    with contextlib.suppress(FileNotFoundError):
        system.delete_file(path)  # a rename does not replace there
    system.move(written, path)


def remove(uri: str) -> None:
    """Delete a file; one that is not there is no error.

    Raises:
        OutputError: the storage refuses.
    """
    system, path = open_uri(uri)
    try:
        system.delete_file(path)
    except FileNotFoundError:
        return
    except (pa.ArrowException, OSError) as error:
        raise _unwritable(uri, error) from None


def remove_below(uri: str) -> None:
    """Delete a folder with all that is in it; one that is not there is no error.

    Raises:
        OutputError: the storage refuses.
    """
    system, path = open_uri(uri)
    try:
        system.delete_dir(path)
    except FileNotFoundError:
        return
    except (pa.ArrowException, OSError) as error:
        raise _unwritable(uri, error) from None


def prepare(where: Place) -> None:
    """Prove that a folder can be written.

    Raises:
        OutputError: it cannot.
    """
    if isinstance(where, Path):
        rundir.prepare_output(where)
        return
    probe = join(where, rundir.PROBE)
    write(probe, b"raymrcnn")
    remove(probe)


def exists(where: Place) -> bool:
    """Whether there is such a file; raises as `size`."""
    return where.exists() if isinstance(where, Path) else size(where) is not None


def version_of(where: Place) -> int:
    """Changes when a file does; 0 where there is none. Raises as `size`."""
    system, path = open_uri(str(where))
    try:
        info = system.get_file_info(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(str(where), error) from None
    return int(info.mtime_ns) if info.type == fs.FileType.File else 0


def read_text(where: Place) -> str:
    """A text file; raises as `read`."""
    return read(str(where)).decode("utf-8", errors="replace")


def write_text(where: Place, text: str) -> None:
    """Commit a text file; raises as `write`."""
    if isinstance(where, Path):
        rundir.write_text(where, text)
    else:
        write(where, text.encode("utf-8"))


def read_json(where: Place) -> Any:
    """A JSON file that raymrcnn wrote.

    Raises:
        DataError: missing, not JSON, or the storage does not answer.
    """
    if isinstance(where, Path):
        return rundir.read_json(where)
    try:
        return json.loads(read(where))
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=where) from None


def write_json(where: Place, document: Any) -> None:
    """Commit a JSON file, indented; raises as `write`."""
    write_text(where, json.dumps(document, indent=2) + "\n")


def files_below(uri: str) -> list[str]:
    """Names of all files in a folder and its folders, relative to it, sorted; raises as `names`."""
    system, path = open_uri(uri)
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    return sorted(
        os.path.relpath(item.path, path) for item in found if item.type == fs.FileType.File
    )


def upload(source: Path, uri: str) -> None:
    """Commit a local file, in pieces; raises as `write`."""
    system, path = open_uri(uri)
    if isinstance(system, fs.LocalFileSystem):
        rundir.prepare_output(Path(path).parent)
        rundir.write_atomic(Path(path), functools.partial(_copy, source))
        return
    try:
        with (
            source.open("rb") as data,
            _whole(system, path) as target,
            system.open_output_stream(target) as stream,
        ):
            shutil.copyfileobj(data, stream, _CHUNK_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise _unwritable(uri, error) from None


def download(uri: str, target: Path) -> None:
    """Copy a file here, in pieces.

    Raises:
        DataError: missing, or the storage does not answer.
        OSError: of the local disk.
    """
    system, path = open_uri(uri)
    try:
        stream = system.open_input_stream(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    with stream, target.open("wb") as file:
        while True:
            try:
                chunk = stream.read(_CHUNK_BYTES)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(uri, error) from None
            if not chunk:
                return
            file.write(chunk)


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def one_line(error: BaseException) -> str:
    """An error of a storage, short."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unreadable(uri: str, error: BaseException) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("no such file", where=uri)
    return DataError(f"cannot read ({one_line(error)})", where=uri)


def _unwritable(uri: str, error: BaseException) -> OutputError:
    return OutputError(
        f"cannot write ({one_line(error)})", where=uri, todo="what is there stays valid"
    )
