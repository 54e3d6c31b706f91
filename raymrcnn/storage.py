"""Files behind a URI: the few operations that data, runs and predictions need, through pyarrow.

A name is a URI (`s3://bucket/folder?region=...`, `gs://`, `hdfs://`, `abfs://`, `file:///`), or a
path of this machine. Object stores have no rename: a write is one upload, visible when it is whole.
Nothing is cached here, and only `remove` deletes.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import shutil
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raymrcnn import rundir
from raymrcnn.errors import ConfigError, DataError, OutputError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: `Path` takes the other away
_CHUNK_BYTES = 1 << 20


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
    """A URI as it is given, or the absolute path of what is on this machine."""
    return str(text) if is_uri(text) else Path(text).expanduser().absolute()


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
    """Names of what lies in a folder, sorted; empty where there is none.

    Raises:
        DataError: the storage does not answer.
    """
    system, path = open_uri(uri)
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None
    return sorted(item.base_name for item in found)


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
        with system.open_output_stream(path) as stream:
            stream.write(data)
    except (pa.ArrowException, OSError) as error:
        raise _unwritable(uri, error) from None


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
        with source.open("rb") as data, system.open_output_stream(path) as stream:
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
