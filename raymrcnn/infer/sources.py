"""Where the images of a prediction job come from: a split of a data set, folders, globs, lists.

Only names are gathered here; no image is opened. The order is fixed by the input alone, so the
same command gives the same image ids.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.images import image_folders, resolve_image
from raymrcnn.errors import DataError
from raymrcnn.structures import ImageRef

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
LIST_SUFFIX = ".txt"


def images_of_split(index: CocoIndex, root: Path, split: str, limit: int = 0) -> list[ImageRef]:
    """Every image of a split, in the order of its annotation file.

    An image that is missing, or whose name leads out of the data root, stays in the list: it
    becomes a failure of its own.

    Raises:
        DataError: the split is empty, or not one of its images is there.
    """
    if not index.num_images:
        raise DataError("the split has no images", where=index.path)
    rows = range(min(index.num_images, limit) if limit else index.num_images)
    refs = [
        ImageRef(
            image_id=int(index.image_ids[i]),
            file_name=index.file_name(i),
            uri=_uri_inside(root, split, index.file_name(i)),
            width=int(index.widths[i]),
            height=int(index.heights[i]),
        )
        for i in rows
    ]
    if not any(os.path.exists(ref.uri) for ref in refs):
        first, second, *_ = image_folders(root, split)
        raise DataError(
            f"none of the {len(refs)} images is there, the first being {refs[0].file_name}",
            where=str(root),
            todo=f"put them into {first} or {second}",
        )
    return refs


def images_named(patterns: Sequence[str], limit: int = 0) -> list[ImageRef]:
    """Images of folders (searched through), globs, list files (.txt, one path a line) and files.

    Ids are 1, 2, ... in the sorted order of the paths; names are relative to the folder given.

    Raises:
        DataError: nothing is there, a list or a folder cannot be read, or a path is not UTF-8.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        named = _expand(pattern)
        if not named:
            raise DataError(
                "no image is there",
                where=pattern,
                todo=f"give a folder, a glob in quotes, a {LIST_SUFFIX} list or files",
            )
        found.update({uri: name for name, uri in named if uri not in found})
    uris = sorted(found)[: limit or None]
    _require_utf8(uris)
    return [
        ImageRef(image_id=k, file_name=found[uri], uri=uri) for k, uri in enumerate(uris, start=1)
    ]


def _expand(pattern: str) -> list[tuple[str, str]]:
    """(name, absolute path) of every image that a pattern stands for."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return _named(_walk(path), path)
    if path.is_file():
        return _listed(path) if path.suffix == LIST_SUFFIX else _named([path], path.parent)
    if glob.has_magic(pattern):
        files = [Path(p) for p in glob.glob(os.path.expanduser(pattern), recursive=True)]
        return _named([p for p in files if p.is_file()], _fixed_part(pattern))
    return []


def _walk(folder: Path) -> Iterable[Path]:
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(base, name)


def _refuse(error: OSError) -> None:
    """Without this, a folder that may not be read would be passed over in silence."""
    raise DataError(f"cannot read the folder ({error.strerror})", where=str(error.filename))


def _listed(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the list ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError:
        raise DataError(
            "is not a list of paths: no UTF-8 text", where=str(path), todo="write one path a line"
        ) from None
    named = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if "\0" in text:
            raise DataError("is not a list of paths", where=f"{path}:{number}")
        # A listed image that is missing is a failure of that image, not of the list.
        named.append((text, str((path.parent / Path(text).expanduser()).absolute())))
    return named


def _require_utf8(uris: Iterable[str]) -> None:
    for uri in uris:
        try:
            uri.encode()
        except UnicodeEncodeError:
            raise DataError(
                "the path is not UTF-8, and results could not name it",
                where=os.fsencode(uri).decode(errors="replace"),
                todo="rename it",
            ) from None


def _named(paths: Iterable[Path], base: Path) -> list[tuple[str, str]]:
    return [(os.path.relpath(p, base), str(p.absolute())) for p in paths]


def _fixed_part(pattern: str) -> Path:
    parts = []
    for part in Path(os.path.expanduser(pattern)).parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts) if parts else Path()


def _uri_inside(root: Path, split: str, name: str) -> str:
    """The path of an image, or "" where the name leads out of the data root."""
    try:
        return os.fspath(resolve_image(root, split, name))
    except DataError:
        return ""
