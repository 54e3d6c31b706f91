"""Where the images of a prediction job come from: splits of data sets, folders, globs, lists, URIs.

Only names and places are gathered here; no image is opened. The order is fixed by the input alone,
so the same command gives the same image ids. Shards (tars, parquet) are in `shard_sources`.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymrcnn import rundir, storage
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.images import image_folders, resolve_image
from raymrcnn.errors import DataError
from raymrcnn.infer.inputs import ROWS_AT_ONCE, columns_of, limited
from raymrcnn.infer.shard_sources import PARQUET_SUFFIX, TAR_SUFFIX, images_of_shards

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm",
     ".jp2"}
)  # fmt: skip
SHARD_SUFFIXES = frozenset({TAR_SUFFIX, PARQUET_SUFFIX})
LIST_SUFFIX = ".txt"
_WRITTEN = (rundir.IMAGES, rundir.FAILURES, rundir.PART_GLOB, rundir.FAILED_GLOB)

Named = tuple[str, str]  # what an image is called, and where it is


def images_of_split(
    index: CocoIndex, root: Path | None, split: str, limit: int = 0
) -> Iterator[pa.Table]:
    """Every image of a split, in the order of its annotation file.

    An image that is missing, or whose name leads out of the data root, stays in the list: it
    becomes a failure of its own.

    Args:
        index: of the split.
        root: of a data set of single files; None: the images lie in shards, without a uri each.
        split: its name.
        limit: only the first so many; 0: all.

    Raises:
        DataError: the split is empty, or not one of its images is there.
    """
    if not index.num_images:
        raise DataError("the split has no images", where=index.path)
    num_rows = min(index.num_images, limit) if limit else index.num_images
    place: Callable[[str], str] = _nowhere if root is None else _Places(root, split).of
    if root is not None and not any(
        os.path.exists(place(index.file_name(i))) for i in range(num_rows)
    ):
        first, second, *_ = image_folders(root, split)
        raise DataError(
            f"none of the {num_rows} images is there, the first being {index.file_name(0)}",
            where=str(root),
            todo=f"put them into {first} or {second}",
        )
    return _tables_of_split(index, num_rows, place)


def _tables_of_split(
    index: CocoIndex, num_rows: int, place: Callable[[str], str]
) -> Iterator[pa.Table]:
    for start in range(0, num_rows, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, num_rows))
        names = [index.file_name(i) for i in range(rows.start, rows.stop)]
        yield columns_of(
            len(names),
            image_id=pa.array(index.image_ids[rows], pa.int64()),
            file_name=pa.array(names, pa.string()),
            uri=pa.array([place(name) for name in names], pa.string()),
            width=pa.array(index.widths[rows], pa.int32()),
            height=pa.array(index.heights[rows], pa.int32()),
        )


def _nowhere(name: str) -> str:
    return ""


class _Places:
    """`resolve_image` with each folder listed once, for a million names."""

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root, split
        self._listed: list[tuple[str, frozenset[str]]] = []
        for folder in image_folders(root, split):
            path = os.path.abspath(folder)
            if os.path.isdir(path):
                self._listed.append((path, frozenset(os.listdir(path))))

    def of(self, name: str) -> str:
        """The path of an image, or "" where the name leads out of the data root."""
        for folder, there in self._listed:
            if name in there:
                return os.path.join(folder, name)
        try:
            return os.fspath(resolve_image(self._root, self._split, name))
        except DataError:
            return ""


def images_named(
    patterns: Sequence[str], limit: int = 0, out: Path | str = ""
) -> Iterator[pa.Table]:
    """Images of folders, globs, list files, files and shards, on this machine or behind URIs.

    A folder is searched through; one without images may hold tars or parquet files instead. A
    list (.txt) has a path or a URI a line. Ids are 1, 2, ... in the order of the sorted places, or
    of the sorted shards and the rows in them; a parquet file may bring its own in `image_id`.
    Names are relative to the folder given. What `infer` wrote into a predictions folder that lies
    in the folder given is left out.

    Args:
        patterns: of the images.
        limit: only the first so many; 0: all.
        out: the predictions folder of this job, also before it is one.

    Raises:
        DataError: nothing is there, a list, a folder or a shard cannot be read, or a path is not
            UTF-8.
        ConfigError: a URI of a kind that pyarrow does not know, or the home of nobody.
    """
    found: list[Iterable[Named]] = []
    for pattern in patterns:
        named = iter(_expand(pattern, str(out)))
        head = list(islice(named, 1))
        if not head:
            raise DataError(
                "no image is there",
                where=pattern,
                todo=f"give a folder, a glob in quotes, a {LIST_SUFFIX} list, files or shards",
            )
        found += [head, named]
    names, uris = _sorted_once(found)
    shards = _are_shards(uris)
    if pc.any(shards).as_py() and not pc.all(shards).as_py():
        first = uris.filter(shards)[0].as_py()
        raise DataError("images and shards cannot be one job", where=first, todo="give either")
    if shards[0].as_py():
        return limited(
            images_of_shards(list(zip(names.to_pylist(), uris.to_pylist(), strict=True))), limit
        )
    return limited(_tables_named(names, uris), limit)


def _tables_named(names: pa.Array, uris: pa.Array) -> Iterator[pa.Table]:
    for start in range(0, len(uris), ROWS_AT_ONCE):
        some = uris.slice(start, ROWS_AT_ONCE)
        yield columns_of(
            len(some),
            image_id=pa.array(np.arange(start + 1, start + 1 + len(some)), pa.int64()),
            file_name=names.slice(start, ROWS_AT_ONCE),
            uri=some,
        )


def _are_shards(uris: pa.Array) -> pa.Array:
    bare = pc.utf8_lower(pc.replace_substring_regex(uris, r"\?.*$", ""))
    return pc.or_(pc.ends_with(bare, TAR_SUFFIX), pc.ends_with(bare, PARQUET_SUFFIX))


def _sorted_once(found: Iterable[Iterable[Named]]) -> tuple[pa.Array, pa.Array]:
    """Names and places of all, sorted by place; of one that comes twice the first name is kept."""
    names, uris = [], []
    every = (one for some in found for one in some)
    while chunk := list(islice(every, ROWS_AT_ONCE)):
        _require_utf8(chunk)
        names.append(pa.array([name for name, _ in chunk], pa.string()))
        uris.append(pa.array([uri for _, uri in chunk], pa.string()))
    order = pc.sort_indices(pa.chunked_array(uris))  # stable
    name = pa.chunked_array(names).take(order).combine_chunks()
    uri = pa.chunked_array(uris).take(order).combine_chunks()
    fresh = pc.not_equal(uri.slice(1), uri.slice(0, len(uri) - 1))
    kept = pa.concat_arrays([pa.array([True]), fresh])
    return name.filter(kept), uri.filter(kept)


def _require_utf8(chunk: Iterable[Named]) -> None:
    for _, uri in chunk:
        try:
            uri.encode()
        except UnicodeEncodeError:
            raise DataError(
                "the path is not UTF-8, and results could not name it",
                where=os.fsencode(uri).decode(errors="replace"),
                todo="rename it",
            ) from None


def _expand(pattern: str, out: str) -> Iterable[Named]:
    """(name, place) of every image, or every shard, that a pattern stands for."""
    if storage.is_uri(pattern):
        return _expand_uri(pattern, out)
    path = rundir.home_expanded(pattern)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", where=pattern) from None

    @functools.cache
    def is_predictions(folder: str) -> bool:
        there = os.path.join(os.path.abspath(base), folder).rstrip("/")
        names = (rundir.MANIFEST, rundir.IMAGES)
        return there == out or all(os.path.exists(os.path.join(there, name)) for name in names)

    if is_folder:
        base, below = path, _walk(path)
    elif is_file:
        return _listed(path) if path.suffix == LIST_SUFFIX else [(path.name, os.path.abspath(path))]
    elif glob.has_magic(pattern):
        base = _fixed_part(pattern)
        files = glob.glob(os.path.expanduser(pattern), recursive=True)
        below = iter([p for p in files if os.path.isfile(p)])
    else:
        return []
    names = _not_written((os.path.relpath(p, base) for p in below), is_predictions)
    wanted = _wanted(names) if is_folder else names
    return ((name, os.path.abspath(os.path.join(base, name))) for name in wanted)


def _expand_uri(uri: str, out: str) -> Iterable[Named]:
    bare, mark, query = uri.partition("?")
    if storage.size(uri) is not None:  # whatever its name
        if _suffix(uri) == LIST_SUFFIX:
            folder = posixpath.dirname(bare) + mark + query
            return _lines(storage.read(uri), uri, lambda text: storage.join(folder, text))
        return [(posixpath.basename(bare), uri)]
    base, pattern, names = bare, "", storage.files_below(uri)
    if not names and glob.has_magic(bare):
        base = bare[: bare.rindex("/", 0, _first_magic(bare)) + 1]
        pattern = bare[len(base) :]
        names = storage.files_below(base.rstrip("/") + mark + query)
    there = set(names)

    @functools.cache
    def is_predictions(folder: str) -> bool:
        known = (posixpath.join(folder, name) for name in (rundir.MANIFEST, rundir.IMAGES))
        is_out = storage.join(base, folder).rstrip("/") == out.partition("?")[0].rstrip("/")
        return is_out or there.issuperset(known)

    names = list(_not_written(names, is_predictions))
    if pattern:
        wanted = pattern.split("/")
        names = [name for name in names if _matches(name.split("/"), wanted)]
    else:
        names = _wanted(names)
    return [(name, storage.join(base.rstrip("/") + mark + query, name)) for name in names]


def _first_magic(text: str) -> int:
    return min(text.index(one) for one in "*?[" if one in text)


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether `glob` would find a file: `*` stays within a folder, `**` is any number of them."""
    if not pattern or not name:
        return not name and (not pattern or list(pattern) == ["**"])
    hidden = name[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or (not hidden and _matches(name[1:], pattern))
    fits = not hidden and fnmatch.fnmatchcase(name[0], pattern[0])
    return fits and _matches(name[1:], pattern[1:])


def _not_written(names: Iterable[str], is_predictions: Callable[[str], bool]) -> Iterator[str]:
    """The files, relative to the folder given, that are no predictions and no drawings of them."""
    for name in names:
        folder, file = os.path.split(name)
        above, last = os.path.split(folder)
        if any(fnmatch.fnmatchcase(file, written) for written in _WRITTEN):
            if is_predictions(folder):
                continue
        elif last == rundir.OVERLAYS and is_predictions(above):
            continue
        yield name


def _wanted(names: Iterable[str]) -> list[str]:
    """The images among files, or the shards where there is no image."""
    images, shards = [], []
    for name in names:
        suffix = _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            images.append(name)
        elif suffix in SHARD_SUFFIXES:
            shards.append(name)
    return images or shards


def _suffix(path: str) -> str:
    bare = path.partition("?")[0] if storage.is_uri(path) else path
    return os.path.splitext(bare)[1].lower()


def _walk(folder: Path) -> Iterator[str]:
    """The files below a folder and behind links to folders; each folder is searched once."""
    seen, waiting = set(), [os.fspath(folder)]
    while waiting:
        for base, folders, files in os.walk(waiting.pop(0), onerror=_refuse):
            there = os.stat(base)
            if (there.st_dev, there.st_ino) in seen:
                folders.clear()
                continue
            seen.add((there.st_dev, there.st_ino))
            folders.sort()
            inside = [os.path.join(base, name) for name in folders]
            waiting += filter(os.path.islink, inside)  # into which os.walk does not go
            for name in files:
                yield os.path.join(base, name)


def _refuse(error: OSError) -> None:
    """Without this, a folder that may not be read would be passed over in silence."""
    raise DataError(f"cannot read the folder ({error.strerror})", where=str(error.filename))


def _listed(path: Path) -> Iterator[Named]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the list ({error.strerror})", where=str(path)) from None
    base = os.path.abspath(path.parent)
    return _lines(data, str(path), lambda text: os.path.join(base, os.path.expanduser(text)))


def _lines(data: bytes, where: str, place: Callable[[str], str]) -> Iterator[Named]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            "is not a list of paths: no UTF-8 text", where=where, todo="write one path a line"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if "\0" in name:
            raise DataError("is not a list of paths", where=f"{where}:{number}")
        # A listed image that is missing is a failure of that image, not of the list.
        yield name, name if storage.is_uri(name) else place(name)


def _fixed_part(pattern: str) -> Path:
    parts = []
    for part in Path(os.path.expanduser(pattern)).parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts) if parts else Path()
