"""Where the images of a prediction job come from: splits of data sets, folders, globs, lists, URIs.

Only names and places are gathered here; no image is opened. The order is fixed by the input alone,
so the same command gives the same image ids. Shards (tars, parquet) are in `shard_sources`.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymrcnn import storage
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


def images_named(patterns: Sequence[str], limit: int = 0) -> Iterator[pa.Table]:
    """Images of folders, globs, list files, files and shards, on this machine or behind URIs.

    A folder is searched through; one without images may hold tars or parquet files instead. A
    list (.txt) has a path or a URI a line. Ids are 1, 2, ... in the order of the sorted places, or
    of the sorted shards and the rows in them; a parquet file may bring its own in `image_id`.
    Names are relative to the folder given.

    Raises:
        DataError: nothing is there, a list, a folder or a shard cannot be read, or a path is not
            UTF-8.
        ConfigError: a URI of a kind that pyarrow does not know.
    """
    found: list[Iterable[Named]] = []
    for pattern in patterns:
        named = iter(_expand(pattern))
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


def _expand(pattern: str) -> Iterable[Named]:
    """(name, place) of every image, or every shard, that a pattern stands for."""
    if storage.is_uri(pattern):
        return _expand_uri(pattern)
    path = Path(pattern).expanduser()
    if path.is_dir():
        return _named(_wanted(_walk(path), str(path)), path)
    if path.is_file():
        return _listed(path) if path.suffix == LIST_SUFFIX else _named([str(path)], path.parent)
    if glob.has_magic(pattern):
        files = glob.glob(os.path.expanduser(pattern), recursive=True)
        return _named([p for p in files if os.path.isfile(p)], _fixed_part(pattern))
    return []


def _expand_uri(uri: str) -> Iterable[Named]:
    bare, mark, query = uri.partition("?")
    if glob.has_magic(bare):
        fixed = bare[: bare.rindex("/", 0, _first_magic(bare)) + 1]
        pattern = bare[len(fixed) :]
        below = storage.files_below(fixed.rstrip("/") + mark + query)
        names = [name for name in below if fnmatch.fnmatchcase(name, pattern)]
        return [(name, storage.join(fixed.rstrip("/") + mark + query, name)) for name in names]
    if storage.size(uri) is not None:
        if _suffix(uri) == LIST_SUFFIX:
            folder = posixpath.dirname(bare) + mark + query
            return _lines(storage.read(uri), uri, lambda text: storage.join(folder, text))
        return [(posixpath.basename(bare), uri)]
    names = list(_wanted(storage.files_below(uri), uri))
    return [(name, storage.join(uri, name)) for name in names]


def _first_magic(text: str) -> int:
    return min(text.index(one) for one in "*?[" if one in text)


def _wanted(paths: Iterable[str], where: str) -> list[str]:
    """The images among files, or the shards where there is no image."""
    images, shards = [], []
    for path in paths:
        suffix = _suffix(path)
        if suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in SHARD_SUFFIXES:
            shards.append(path)
    return images or shards


def _suffix(path: str) -> str:
    bare = path.partition("?")[0] if storage.is_uri(path) else path
    return os.path.splitext(bare)[1].lower()


def _walk(folder: Path) -> Iterator[str]:
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
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


def _named(paths: Iterable[str], base: Path) -> Iterator[Named]:
    for path in paths:
        yield os.path.relpath(path, base), os.path.abspath(path)


def _fixed_part(pattern: str) -> Path:
    parts = []
    for part in Path(os.path.expanduser(pattern)).parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts) if parts else Path()
