"""Where the image files of a split are, and how one is read: from a folder or from shards.

The root of a data set is a path of this machine or a URI. A store is small and crosses process
borders; what it has open belongs to the process. Nothing is decoded here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raymrcnn import rundir, storage
from raymrcnn.data import shard_cache
from raymrcnn.data.coco import CocoIndex, annotation_file
from raymrcnn.data.images import image_folders, inside_root, resolve_image
from raymrcnn.data.malformed import Malformed
from raymrcnn.data.shards import MANIFEST, Manifest, read_index, read_manifest
from raymrcnn.errors import DataError

_Ints = npt.NDArray[np.int64]
_OPEN_SHARDS = 64  # files or connections that a process holds


class ImageStore(Protocol):
    """The image files of a split."""

    def read(self, image_id: int, file_name: str) -> bytes | Path:
        """The bytes of an image file, or the path of it.

        Raises:
            DataError: it is not there, or its name leads out of the data root.
        """
        ...

    def check(self, index: CocoIndex, image_rows: Iterable[int] | None = None) -> None:
        """Refuse a split of which images (those of these rows, or any) are missing.

        Opens no image.

        Raises:
            DataError: how many of them are missing, and the first few.
        """
        ...


@dataclass(frozen=True)
class FolderImages:
    """Single files, in the folders of `image_folders`."""

    root: Path
    split: str

    def read(self, image_id: int, file_name: str) -> Path:  # noqa: D102
        return resolve_image(self.root, self.split, file_name)

    def check(self, index: CocoIndex, image_rows: Iterable[int] | None = None) -> None:  # noqa: D102
        check_images_exist(index, self.root, self.split, image_rows)


class ShardedImages:
    """Images in the shards that `raymrcnn data shard` writes.

    Shards of this machine are read where they are. Of remote ones single images are read by range,
    while a thread brings the shards into this node's cache.

    Args:
        root: of the data set, a path or a URI.
        split: name of the split.
        manifest: of the split.

    Raises:
        DataError: the index of the shards is damaged.
    """

    def __init__(self, root: str, split: str, manifest: Manifest) -> None:
        self.root, self.split, self.manifest = root, split, manifest
        self._ids, self._places = read_index(root, split, manifest)
        self._remote = storage.is_uri(root)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_fetcher"}

    @functools.cached_property
    def _fetcher(self) -> shard_cache.Fetcher:
        return shard_cache.Fetcher(frozenset(shard.sha256 for shard in self.manifest.shards))

    def read(self, image_id: int, file_name: str) -> bytes:  # noqa: D102
        row = int(np.searchsorted(self._ids, image_id))
        if row == len(self._ids) or self._ids[row] != image_id:
            raise DataError(
                f"image {image_id} ({file_name}) is in no shard",
                where=self.root,
                todo="write the shards again from the whole split",
            )
        number, offset, length = self._places[row].tolist()
        return _range(self._place_of(number), offset, length)

    def check(self, index: CocoIndex, image_rows: Iterable[int] | None = None) -> None:  # noqa: D102
        rows = np.arange(index.num_images) if image_rows is None else np.fromiter(image_rows, int)
        missing = rows[~np.isin(index.image_ids[rows], self._ids)]
        if len(missing):
            names = ", ".join(index.file_name(int(i)) for i in missing[:5])
            raise DataError(
                f"{len(missing)} of {len(rows)} images are in no shard: {names}",
                where=self.root,
                todo="write the shards again from the whole split",
            )

    def _place_of(self, number: int) -> str:
        """The shard here, or, until it is here, where it comes from."""
        shard = self.manifest.shards[number]
        uri = storage.join(self.root, self.split, shard.name)
        if not self._remote:
            return uri
        here = shard_cache.kept(shard)
        if here is not None:
            return os.fspath(here)
        self._fetcher.ask(uri, shard)
        return uri


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _opened(place: str, thread: int) -> Any:
    """A local file, or a remote one with its connection; one a thread, so reads do not queue."""
    return storage.open_file(place) if storage.is_uri(place) else open(place, "rb")  # noqa: SIM115


def _range(place: str, offset: int, length: int) -> bytes:
    try:
        stream = _opened(place, threading.get_ident())
        if storage.is_uri(place):
            data: bytes = stream.read_at(length, offset)
        else:
            data = os.pread(stream.fileno(), length, offset)
    except OSError as error:
        raise DataError(f"cannot read ({storage.one_line(error)})", where=place) from None
    if len(data) != length:
        raise DataError("the shard is cut short", where=place, todo="copy it again")
    return data


def open_dataset(
    root: Path | str,
    split: str,
    *,
    check: bool = True,
    malformed: list[Malformed] | None = None,
) -> tuple[CocoIndex, ImageStore]:
    """The annotations and the images of a split, of whatever form.

    Args:
        root: of the data set: a path, or a URI of a sharded one.
        split: name of the split.
        check: refuse the faults that `CocoIndex.faults` lists.
        malformed: as of `CocoIndex.open`.

    Raises:
        DataError: no such folder, split or annotation file; a manifest or an index is damaged; or
            the annotations are not those that the shards were written with.
        ConfigError: the URI cannot be opened.
    """
    place = os.fspath(root)
    manifest = read_manifest(place, split)
    if manifest is None and storage.is_uri(place):
        raise DataError(
            f"no {split}/{MANIFEST} there",
            where=place,
            todo="`raymrcnn data shard --out URI` writes one; folders of single images must be "
            "on a disk or mounted",
        )
    index = open_annotations(root, split, check=check, malformed=malformed)
    if manifest is None:
        return index, FolderImages(Path(root), split)
    if manifest.annotations != index.fingerprint:
        raise DataError(
            "the shards were written with other annotations",
            where=index.path,
            todo="put the old file back, or write the shards again",
        )
    return index, ShardedImages(place, split, manifest)


def open_annotations(
    root: Path | str,
    split: str,
    *,
    check: bool = True,
    malformed: list[Malformed] | None = None,
) -> CocoIndex:
    """The annotations alone; see `open_dataset`."""
    if storage.is_uri(root):
        place: Path | str = storage.join(os.fspath(root), "annotations", f"instances_{split}.json")
    else:
        place = annotation_file(Path(root), split)
    return open_annotation_file(place, check=check, malformed=malformed)


def open_annotation_file(
    place: Path | str, *, check: bool = True, malformed: list[Malformed] | None = None
) -> CocoIndex:
    """The index of a COCO annotation file, a path or a URI; see `CocoIndex.open`."""
    if not storage.is_uri(place):
        return CocoIndex.open(Path(place), check=check, malformed=malformed)
    uri = os.fspath(place)
    with tempfile.TemporaryDirectory(prefix="raymrcnn-") as folder:
        local = Path(folder, f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.json")
        with rundir.disk_errors(folder):
            storage.download(uri, local)
        index = CocoIndex.open(local, check=check, malformed=malformed)
        return dataclasses.replace(index, path=uri)


def check_images_exist(
    index: CocoIndex, root: Path, split: str, image_rows: Iterable[int] | None = None
) -> None:
    """Refuse a split of which image files are missing; lists each folder once, opens nothing.

    Args:
        index: of the split.
        root: of the data set.
        split: name of the split.
        image_rows: the images that matter; None: all.

    Raises:
        DataError: how many of them are missing and the first few, or a name that leads out of the
            data root.
    """
    rows = range(index.num_images) if image_rows is None else image_rows
    folders = image_folders(root, split)
    listings: dict[str, frozenset[str]] = {}
    missing, asked = [], 0
    for i in rows:
        asked += 1
        name = index.file_name(int(i))
        paths = (str(inside_root(root, folder, name)) for folder in folders)
        if not any(_is_listed(path, listings) for path in paths):
            missing.append(name)
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {asked} image files are missing: {some}",
            where=str(root),
            todo=f"put them into {folders[0]} or {folders[1]}",
        )


def _is_listed(path: str, listings: dict[str, frozenset[str]]) -> bool:
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = frozenset(os.listdir(folder))
        except OSError:
            listings[folder] = frozenset()
    return name in listings[folder]
