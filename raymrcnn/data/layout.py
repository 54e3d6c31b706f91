"""A new data set in COCO's layout, out of parts of others: its folder appears when it is whole.

Images are hard links, links or copies of those that are there; entries of annotation files are
copied byte for byte, whatever fields they have. This module refuses to write into a folder that
holds anything.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from raymrcnn import rundir, storage
from raymrcnn.data.coco import annotation_file
from raymrcnn.data.images import inside_root
from raymrcnn.errors import ConfigError, DataError, OutputError

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES}


def _hard(source: Path, target: Path) -> str:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return _copy(source, target)
    return "hard links"


def _symbolic(source: Path, target: Path) -> str:
    target.symlink_to(source.resolve())
    return "symbolic links"


def _copy(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    return "copies"


# What --images chooses among; hard links become copies where a file system has none.
PLACES: dict[str, Callable[[Path, Path], str]] = {
    "link": _hard,
    "symlink": _symbolic,
    "copy": _copy,
}


class Placer:
    """Brings images into the folders of a new data set, and counts how.

    Args:
        root: of the new data set.
        way: one of `PLACES`.

    Raises:
        ConfigError: no such way.
    """

    def __init__(self, root: Path, way: str) -> None:
        if way not in PLACES:
            raise ConfigError(f"{way!r} is none of {', '.join(PLACES)}", where="--images")
        self.root, self._place = root, PLACES[way]
        self.counts: Counter[str] = Counter()
        self._folders: set[Path] = set()
        self._placed: dict[Path, Path] = {}

    def place(self, source: bytes | Path, folder: str, name: str) -> None:
        """Bring one image to `root/folder/name`; once, where entries share a file.

        Raises:
            DataError: the name leads out of the data set, is taken, or the image is not there.
        """
        target = inside_root(self.root, self.root / folder, name)
        if target.parent not in self._folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(target.parent)
        if isinstance(source, Path) and self._placed.get(target) == source:
            return
        try:
            if isinstance(source, bytes):
                with target.open("xb") as file:
                    file.write(source)
                self.counts["copies"] += 1
            elif target.exists():
                raise FileExistsError
            else:
                self.counts[self._place(source, target)] += 1
                self._placed[target] = source
        except FileNotFoundError:
            raise DataError("the image is not there", where=str(source)) from None
        except FileExistsError:
            raise DataError(
                f"two images would be {folder}/{name}", where=str(self.root), todo="rename one"
            ) from None


def require_new(out: Path) -> None:
    """Refuse a place that holds anything.

    Raises:
        OutputError: it is a file, or a folder that is not empty.
    """
    with rundir.disk_errors(out):
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise OutputError("is a file", where=str(out), todo="choose another --out")
        if out.is_dir() and any(out.iterdir()):
            raise OutputError(
                "the folder is not empty", where=str(out), todo="choose another --out"
            )


def write_root(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that becomes `out`, or nothing.

    Raises:
        OutputError: there is something at `out`, or the disk refuses.
    """
    require_new(out)
    rundir.prepare_output(out.parent)
    rundir.write_folder_atomic(out, write)


class _Id(msgspec.Struct, gc=False):
    id: int


class Document:
    """An annotation file as its entries are written, by their ids.

    Args:
        data: the bytes of the file, which was read as an index before.
    """

    def __init__(self, data: bytes) -> None:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        self.images = _by_id(fields.pop("images"))
        self.annotations = _by_id(fields.pop("annotations"))
        self.categories = _by_id(fields.pop("categories"))
        self.about = dict(sorted(fields.items()))  # info, licenses, and whatever else

    def write(
        self,
        path: Path,
        image_ids: Iterable[int],
        annotation_ids: Iterable[int],
        category_ids: Iterable[int],
    ) -> None:
        """Write these entries, each kind sorted by its id, and all that the file says besides."""
        write_document(path, self.about, {
            "categories": (self.categories[k] for k in sorted(category_ids)),
            "images": (self.images[k] for k in sorted(image_ids)),
            "annotations": (self.annotations[k] for k in sorted(annotation_ids)),
        })  # fmt: skip


def read_document(root: Path | str, split: str) -> Document:
    """The annotation file of a split, from a folder or behind a URI.

    Raises:
        DataError: it cannot be read.
    """
    if storage.is_uri(root):
        return Document(storage.read(storage.join(str(root), "annotations",
                                                  f"instances_{split}.json")))  # fmt: skip
    return Document(annotation_file(Path(root), split).read_bytes())


def write_document(
    path: Path, about: Mapping[str, msgspec.Raw], lists: Mapping[str, Iterable[msgspec.Raw]]
) -> None:
    """Write an annotation file entry by entry, so that it is never in memory as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        mark = b"{"
        for name, value in about.items():
            file.write(mark + msgspec.json.encode(name) + b":" + bytes(value))
            mark = b",\n"
        for name, entries in lists.items():
            file.write(mark + msgspec.json.encode(name) + b":[")
            mark = b",\n"
            between = b"\n"
            for entry in entries:
                file.write(between + bytes(entry))
                between = b",\n"
            file.write(b"]")
        file.write(b"}\n")
        file.flush()
        os.fsync(file.fileno())


def _by_id(entries: msgspec.Raw) -> dict[int, msgspec.Raw]:
    decode = msgspec.json.Decoder(_Id).decode
    return {decode(e).id: e for e in msgspec.json.decode(entries, type=list[msgspec.Raw])}
