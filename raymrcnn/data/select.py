"""Parts of a data set as data sets of their own: a subset, or splits for training and validation.

What is chosen depends on ids, names and a seed, never on the order of the annotation file; entries
keep their ids and all their fields. Images are not decoded. This module refuses to write into a
folder that holds anything.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.layout import Document, Placer, read_document, require_new, write_root
from raymrcnn.data.store import ImageStore, open_dataset
from raymrcnn.data.stratify import draw_key, stratify
from raymrcnn.errors import ConfigError, DataError

_Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], object]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What was written."""

    root: str
    num_images: dict[str, int]  # by split
    num_objects: dict[str, int]  # by split, crowds included
    # Name of a category to the images of each split that have it, in the order of `num_images`.
    categories: dict[str, list[int]]
    images_are: dict[str, int]  # hard links, symbolic links, copies
    num_groups: int = 0  # of images that were kept together
    num_ungrouped: int = 0  # images whose name the pattern did not match

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which images a subset takes; all that is given must hold.

    Args:
        number: of images, drawn by the seed; None: all that fit.
        seed: of the draw.
        categories: names: images with an object of one of these, and these objects alone.
        listed: images among these: ids, file names, or paths that end in one; None: any.
        min_objects: objects in an image, crowds not counted; with `categories` of those.
        all_objects: with `categories`, keep the other objects of the images, too.
    """

    number: int | None = None
    seed: int = 0
    categories: tuple[str, ...] = ()
    listed: tuple[str, ...] | None = None
    min_objects: int = 0
    all_objects: bool = False


def subset(
    data: Path | str,
    split: str,
    out: Path,
    wanted: Wanted,
    *,
    images: str = "link",
    progress: Progress | None = None,
) -> Selected:
    """Write some images of a split as a data set with that split.

    Args:
        data: root of the data set, of single images or sharded.
        split: name of the split.
        out: root of the new data set.
        wanted: which images.
        images: how they come there; see `layout.PLACES`.
        progress: told the images done and all images, now and then.

    Raises:
        ConfigError: no such category, or fewer images fit than are wanted.
        DataError: the split has faults, or an image file is missing.
        OutputError: there is something at `out`, or the disk refuses.
    """
    require_new(out)
    index, store = open_dataset(data, split)
    category_ids = _categories(index, wanted.categories)
    rows = rows_of(index, wanted)
    kept = np.ones(index.num_annotations, bool)
    if category_ids and not wanted.all_objects:
        kept = np.isin(index.columns.category_ids, list(category_ids))
    else:
        category_ids = {category.id for category in index.categories}
    return _write(index, store, read_document(data, split), out, {split: rows}, kept, category_ids,
                  images, progress)  # fmt: skip


def rows_of(index: CocoIndex, wanted: Wanted) -> _Ints:
    """The rows of the images that are wanted, by their ids.

    Raises:
        ConfigError: no such category, none fits, or fewer than are wanted.
        DataError: an id that no image has.
    """
    columns, fits = index.columns, np.ones(index.num_images, bool)
    chosen = _categories(index, wanted.categories)
    counted = ~columns.iscrowd & (index.annotation_images >= 0)
    if chosen:
        of_chosen = np.isin(columns.category_ids, list(chosen)) & (index.annotation_images >= 0)
        fits &= _per_image(index, of_chosen) > 0
        counted &= of_chosen
    if wanted.min_objects:
        fits &= _per_image(index, counted) >= wanted.min_objects
    if wanted.listed is not None:
        among = np.zeros(index.num_images, bool)
        among[_listed(index, wanted.listed)] = True
        fits &= among
    rows = np.flatnonzero(fits)
    if wanted.number is not None and wanted.number > len(rows):
        raise ConfigError(
            f"{wanted.number} images are wanted, and {len(rows)} of {index.num_images} fit",
            todo="want fewer, or ask for less of them",
        )
    if not len(rows):
        raise ConfigError("no image fits", where=index.path, todo="ask for less of them")
    if wanted.number is not None:
        rows = drawn(index, rows, wanted.number, wanted.seed)
    return rows[np.argsort(index.image_ids[rows], kind="stable")]


def drawn(index: CocoIndex, rows: _Ints, number: int, seed: int) -> _Ints:
    """Some of the rows of images, or all where there are no more: drawn by id and seed."""
    ids = index.image_ids
    return np.array(sorted(rows.tolist(), key=lambda i: draw_key(seed, ids[i]))[:number])


def split(
    data: Path | str,
    source: str,
    out: Path,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    group: str = "",
    images: str = "link",
    progress: Progress | None = None,
) -> Selected:
    """Write a split as several, each image in exactly one, each category spread over all.

    Args:
        data: root of the data set, of single images or sharded.
        source: name of the split.
        out: root of the new data set.
        fractions: names of the new splits and their shares, which add up to 1.
        seed: of the draw.
        group: a regular expression, searched in file names: images of which it matches the same
            text (its groups, where it has some) come into the same split. Empty: none.
        images: how they come there; see `layout.PLACES`.
        progress: told the images done and all images, now and then.

    Raises:
        ConfigError: the fractions or the pattern cannot be, or there are too few images.
        DataError: the split has faults, or an image file is missing.
        OutputError: there is something at `out`, or the disk refuses.
    """
    _check_fractions(fractions)
    require_new(out)
    index, store = open_dataset(data, source)
    if index.num_images < len(fractions):
        raise ConfigError(
            f"{index.num_images} images cannot be split in {len(fractions)}", where=index.path
        )
    units, ungrouped = _units(index, group)
    has = _presence(index)
    counts = np.array([has[unit].sum(axis=0) for unit in units], np.int64)
    keys = [draw_key(seed, min(index.image_ids[unit].tolist())) for unit in units]
    splits = stratify(counts, [len(unit) for unit in units], list(fractions.values()), keys)
    rows = {
        name: np.sort(np.concatenate([np.zeros(0, np.int64),
                                      *(u for u, f in zip(units, splits, strict=True) if f == k)]))
        for k, name in enumerate(fractions)
    }  # fmt: skip
    empty = [name for name, found in rows.items() if not len(found)]
    if empty:
        raise ConfigError(
            f"nothing is left for {empty[0]}: {len(units)} groups of {index.num_images} images",
            todo="larger fractions, or a --group that matches fewer together",
        )
    kept, ids = np.ones(index.num_annotations, bool), {c.id for c in index.categories}
    done = _write(index, store, read_document(data, source), out, rows, kept, ids, images, progress)
    told = {"num_groups": len(units) - ungrouped, "num_ungrouped": ungrouped} if group else {}
    return Selected(**{**vars(done), **told})


def _categories(index: CocoIndex, names: Sequence[str]) -> set[int]:
    """The ids of categories by their names."""
    known: dict[str, set[int]] = {}
    for category in index.categories:
        known.setdefault(category.name, set()).add(category.id)
    for name in names:
        if name not in known:
            listed = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
            raise ConfigError(
                f"no category {name!r}", where="--category", todo=f"there are {listed}"
            )
    return set().union(*(known[name] for name in names))


def _listed(index: CocoIndex, listed: Sequence[str]) -> list[int]:
    """The rows of images that are listed by id or by name."""
    by_id = {str(k): i for i, k in enumerate(index.image_ids.tolist())}
    by_name: dict[str, list[int]] = {}
    for i in range(index.num_images):
        name = index.file_name(i)
        for key in {name, posixpath.basename(name)}:
            by_name.setdefault(key, []).append(i)
    rows = []
    for entry in listed:
        found = [by_id[entry]] if entry in by_id else by_name.get(entry, [])
        found = found or by_name.get(posixpath.basename(entry), [])
        if len(found) != 1:
            what = f"{len(found)} images have" if found else "no image has"
            raise DataError(f"{what} the id or the name {entry!r}", where=index.path)
        rows += found
    return rows


def _per_image(index: CocoIndex, chosen: npt.NDArray[np.bool_]) -> _Ints:
    """Annotations among the chosen ones in each image."""
    return np.bincount(index.annotation_images[chosen], minlength=index.num_images)


def _presence(index: CocoIndex) -> npt.NDArray[np.bool_]:
    """[num_images, num_categories]: whether an image has an object, no crowd, of a category."""
    ids = np.array([category.id for category in index.categories])
    whole = ~index.columns.iscrowd
    has = np.zeros((index.num_images, len(ids)), bool)
    column = np.searchsorted(ids, index.columns.category_ids[whole])
    has[index.annotation_images[whole], column] = True
    return has


def _units(index: CocoIndex, group: str) -> tuple[list[_Ints], int]:
    """Rows of images that stay together, and the number of images that stand alone."""
    if not group:
        return [np.array([i]) for i in range(index.num_images)], index.num_images
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(f"{group!r} is no pattern ({error})", where="--group") from None
    found: dict[object, list[int]] = {}
    alone = 0
    for i in range(index.num_images):
        match = pattern.search(index.file_name(i))
        alone += match is None
        key = (match.groups() or match[0]) if match else int(index.image_ids[i])
        found.setdefault(key, []).append(i)
    if alone == index.num_images:
        raise ConfigError(
            f"{group!r} matches no file name, as {index.file_name(0)!r}", where="--group"
        )
    return [np.array(rows) for rows in found.values()], alone


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name for a split", where="--fractions")
        if not 0 < share < 1:
            raise ConfigError(f"{name}={share:g} is no share between 0 and 1", where="--fractions")
    total = math.fsum(fractions.values())
    if len(fractions) < 2 or abs(total - 1) > 1e-6:
        raise ConfigError(
            f"the shares add up to {total:g}, not 1", where="--fractions",
            todo="as train=0.8,val=0.2",
        )  # fmt: skip


def _write(
    index: CocoIndex,
    store: ImageStore,
    document: Document,
    out: Path,
    rows: Mapping[str, _Ints],
    kept: npt.NDArray[np.bool_],
    category_ids: set[int],
    images: str,
    progress: Progress | None,
) -> Selected:
    """Write splits of images by their rows, with the annotations that are kept."""
    every = np.concatenate(list(rows.values()))
    store.check(index, every.tolist())
    objects: dict[str, int] = {}
    placer = Placer(out, images)

    def write(root: Path) -> None:
        placer.root, done = root, 0
        for name, chosen in rows.items():
            mine = kept & np.isin(index.annotation_images, chosen)
            objects[name] = int(mine.sum())
            document.write(
                root / "annotations" / f"instances_{name}.json",
                index.image_ids[chosen].tolist(), index.columns.ids[mine].tolist(), category_ids,
            )  # fmt: skip
            for i in chosen.tolist():
                file_name = index.file_name(i)
                placer.place(store.read(int(index.image_ids[i]), file_name), name, file_name)
                done += 1
                if progress and (done % 100 == 0 or done == len(every)):
                    progress(done, len(every))

    write_root(out, write)
    has = _presence(index)
    return Selected(
        root=str(out),
        num_images={name: len(chosen) for name, chosen in rows.items()},
        num_objects=objects,
        categories={
            category.name: [int(has[chosen, k].sum()) for chosen in rows.values()]
            for k, category in enumerate(index.categories)
            if category.id in category_ids
        },
        images_are=dict(placer.counts),
    )
