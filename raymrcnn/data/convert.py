"""Data sets of labelme, VOC and YOLO into COCO's layout, and COCO's into those of labelme and YOLO.

An image with a bad object is left out as a whole, or the conversion is refused: trained on without
it, the image would teach that the object is background. Every fault is told with its file and
object. This module refuses to write into a folder that holds anything.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from raymrcnn.data.coco import CocoIndex, splits
from raymrcnn.data.foreign import labelme, yolo
from raymrcnn.data.foreign.records import Labelled, Shape, Source, Written, described
from raymrcnn.data.foreign.voc import VocFolder
from raymrcnn.data.layout import Placer, require_new, write_document, write_root
from raymrcnn.data.store import ImageStore, open_dataset
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.masks import segmentation_to_rle

COCO = "coco"
READERS: dict[str, Any] = {
    "labelme": labelme.LabelmeFolder,
    "voc": VocFolder,
    "yolo": yolo.YoloFolder,
}
TARGETS = (COCO, "labelme", "yolo")
Progress = Callable[[int, int], object]
Made = TypeVar("Made")


@dataclass(kw_only=True)
class Converted:
    """What was written."""

    root: str
    source: str  # formats
    target: str
    num_images: dict[str, int] = field(default_factory=dict)  # by split
    num_objects: dict[str, int] = field(default_factory=dict)
    num_empty: dict[str, int] = field(default_factory=dict)  # images without an object
    categories: list[str] = field(default_factory=list)
    images_are: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # images, each with what is wrong
    num_crowds_left_out: int = 0  # YOLO has none

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert.

    Args:
        source: format of the data; empty: told from its content.
        target: format to write; empty: COCO, and from COCO YOLO.
        splits: those to take; empty: all.
        categories: names in the order of their ids; empty: the source's own order, or sorted.
        skip_bad: leave out images that are wrong, and list them.
        images: how images come to the new folder; see `layout.PLACES`.
    """

    source: str = ""
    target: str = ""
    splits: Sequence[str] = ()
    categories: Sequence[str] = ()
    skip_bad: bool = False
    images: str = "link"


def recognised(root: Path) -> str:
    """The format of a data set, by what its files hold.

    Raises:
        DataError: none that is known, or several.
    """
    if not root.exists():
        raise DataError("no such folder", where=str(root))
    if root.is_dir() and splits(root):
        return COCO  # by names that nothing else has, before large files are looked into
    found = [name for name, reader in READERS.items() if reader.recognises(root)]
    if len(found) == 1:
        return found[0]
    names = ", ".join((COCO, *READERS))
    raise DataError(
        f"could be {' or '.join(found)}" if found else f"holds no data set of {names}",
        where=str(root),
        todo="say which: --from NAME" if found else "give the folder that has the annotations",
    )


def convert(root: Path, out: Path, options: Options, progress: Progress | None = None) -> Converted:
    """Write a data set in another format.

    Args:
        root: of the data set, or its `data.yaml`.
        out: root of the new one.
        options: how.
        progress: told the images done and all images, now and then.

    Raises:
        ConfigError: formats that cannot be, no such split, or a category that is not listed.
        DataError: the data set is none of its format; or, without `skip_bad`, an image is wrong.
        OutputError: there is something at `out`, or the disk refuses.
    """
    kind = options.source or recognised(root)
    target = options.target or ("yolo" if kind == COCO else COCO)
    if kind not in (COCO, *READERS) or target not in TARGETS or COCO not in (kind, target) \
            or kind == target:  # fmt: skip
        raise ConfigError(
            f"{kind} is not converted to {target}",
            todo=f"from {', '.join(READERS)} to coco; from coco to {' or '.join(TARGETS[1:])}",
        )
    require_new(out)
    source = CocoSource(root, options.splits) if kind == COCO else READERS[kind](root)
    chosen = _chosen(source, options.splits, root)
    told = Converted(root=str(out), source=kind, target=target)
    placer = Placer(out, options.images)
    job = _Job(source, chosen, told, placer, tuple(options.categories), options.skip_bad, progress)

    def write(folder: Path) -> None:
        placer.root = folder
        WRITERS[target](job, folder)

    write_root(out, write)
    told.images_are = dict(placer.counts)
    return told


class CocoSource:
    """Splits of a data set in COCO's layout as images with objects.

    Args:
        root: of the data set.
        names: of the splits; empty: all.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        known = splits(root)
        self._open: dict[str, tuple[CocoIndex, ImageStore]] = {}
        self.splits: dict[str, list[Any]] = {}
        found: dict[int, str] = {}
        for name in sorted(known):
            if names and name not in names:
                continue
            index, store = self._open[name] = open_dataset(root, name)
            self.splits[name] = [(name, i) for i in range(index.num_images)]
            found.update({category.id: category.name for category in index.categories})
        self._names = found
        self.categories: list[str] | None = list(dict.fromkeys(found[k] for k in sorted(found)))

    def read(self, item: tuple[str, int]) -> Labelled:
        """One image; see `records.Source`."""
        split, i = item
        index, store = self._open[split]
        name = index.file_name(i)
        width, height = int(index.widths[i]), int(index.heights[i])
        source = store.read(int(index.image_ids[i]), name)
        if isinstance(source, Path) and not source.is_file():
            raise DataError("the image is not there", where=str(source))
        shapes = []
        of_image = index.annotations_of(i)
        for k in range(len(of_image)):
            mask = index.segmentation(of_image.first + k)
            where = f"{index.path}: annotation {of_image.ids[k]}"
            about: dict[str, Any] = {
                "category": self._names[int(of_image.category_ids[k])],
                "crowd": bool(of_image.iscrowd[k]),
            }
            if isinstance(mask, list):
                segmentation_to_rle(mask, height, width, where)  # refuses what is malformed
                shapes.append(Shape(**about, polygons=[p.tolist() for p in mask]))
            else:
                rle = segmentation_to_rle(mask, height, width, where)
                shapes.append(Shape(**about, rle=rle))
        return Labelled(source=source, name=name, width=width, height=height, shapes=shapes)


@dataclass
class _Job:
    source: Source
    splits: Mapping[str, list[Any]]
    told: Converted
    placer: Placer
    categories: tuple[str, ...]
    skip_bad: bool
    progress: Progress | None
    done: int = 0

    def each(
        self, split: str, place_in: str, make: Callable[[Labelled], Made]
    ) -> Iterator[tuple[Labelled, Made]]:
        """The images of a split that are right, with what `make` made of each; faults are noted.

        An image is placed after `make` was content with it.
        """
        total = sum(len(items) for items in self.splits.values())
        for numbers in (self.told.num_images, self.told.num_objects, self.told.num_empty):
            numbers[split] = 0
        for item in self.splits[split]:
            try:
                image = self.source.read(item)
                self._check_categories(image)
                made = make(image)
                self.placer.place(image.source, place_in, image.name)
            except DataError as error:
                self.told.left_out.append(
                    f"{error.where}: {error.what}" if error.where else error.what
                )
            else:
                yield image, made
            self.done += 1
            if self.progress and (self.done % 20 == 0 or self.done == total):
                self.progress(self.done, total)

    def count(self, split: str, one: Written) -> None:
        """Count an image that was written."""
        told = self.told
        told.num_images[split] += 1
        told.num_objects[split] += one.objects
        told.num_empty[split] += not one.objects
        told.num_crowds_left_out += one.crowds_left_out

    def end(self) -> None:
        """Refuse the whole where something was wrong and nothing may be left out."""
        faults = self.told.left_out
        if faults and not self.skip_bad:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise DataError(
                f"{faults[0]}{more}", todo="mend it, or give --skip-bad, which leaves out such "
                "images and lists them",
            )  # fmt: skip
        if not sum(self.told.num_images.values()):
            raise DataError("no image is left" if faults else "there is no image",
                            where=self.told.source)  # fmt: skip
        if not sum(self.told.num_objects.values()):
            raise DataError("no image has an object", where=self.told.source,
                            todo="are the labels where this format has them?")  # fmt: skip

    def _check_categories(self, image: Labelled) -> None:
        known = self.categories or self.source.categories
        for shape in image.shapes:
            if known and shape.category not in known:
                raise DataError(f"{shape.category!r} is none of the categories", where=image.name)


def _chosen(source: Source, names: Sequence[str], root: Path) -> dict[str, list[Any]]:
    for name in names:
        if name not in source.splits:
            raise ConfigError(
                f"no split {name!r}", where=str(root), todo=f"there are {', '.join(source.splits)}"
            )
    return {k: v for k, v in source.splits.items() if not names or k in names}


def _to_coco(job: _Job, folder: Path) -> None:
    """annotations/instances_SPLIT.json and SPLIT/."""
    entries: dict[str, tuple[list[bytes], list[tuple[str, bytes]]]] = {}
    for split in job.splits:
        images: list[bytes] = []
        annotations: list[tuple[str, bytes]] = []
        for image, objects in job.each(split, split, _described):
            k = len(images) + 1
            about = {"id": k, "file_name": image.name, "width": image.width, "height": image.height}
            images.append(msgspec.json.encode(about))
            for shape, mask in objects:
                one = {"id": len(annotations) + 1, "image_id": k, **mask}
                one["iscrowd"] = int(shape.crowd)
                annotations.append((shape.category, msgspec.json.encode(one)))
            job.count(split, Written(objects=len(objects)))
        entries[split] = images, annotations
    job.end()
    every = Counter(name for _, annotations in entries.values() for name, _ in annotations)
    names = list(job.categories) or job.source.categories or sorted(every)
    ids = {name: k for k, name in enumerate(names, start=1)}
    for split, (images, annotations) in entries.items():
        write_document(folder / "annotations" / f"instances_{split}.json", {}, {
            "categories": (msgspec.Raw(msgspec.json.encode({"id": k, "name": n}))
                           for n, k in ids.items()),
            "images": map(msgspec.Raw, images),
            "annotations": (msgspec.Raw(b'{"category_id":%d,%b' % (ids[name], entry[1:]))
                            for name, entry in annotations),
        })  # fmt: skip
    job.told.categories = names


def _described(image: Labelled) -> list[tuple[Shape, dict[str, Any]]]:
    """The objects of an image with their masks, boxes and areas."""
    return [
        (shape, described(shape, image.width, image.height,
                          f"{image.name}: object {k} ({shape.category})"))
        for k, shape in enumerate(image.shapes, start=1)
    ]  # fmt: skip


def _to_yolo(job: _Job, folder: Path) -> None:
    """images/SPLIT/, labels/SPLIT/ and data.yaml."""
    names = list(job.categories) or job.source.categories or []
    numbers = {name: k for k, name in enumerate(names)}
    for split in job.splits:
        labels = folder / "labels" / split
        write = functools.partial(yolo.write_labels, labels, numbers)
        for _, one in job.each(split, f"images/{split}", write):
            job.count(split, one)
    job.end()
    yolo.write_data_file(folder / "data.yaml", list(job.splits), names)
    job.told.categories = names


def _to_labelme(job: _Job, folder: Path) -> None:
    """SPLIT/ with an image and a JSON file each."""
    for split in job.splits:
        write = functools.partial(labelme.write_labelme, folder / split)
        for _, one in job.each(split, split, write):
            job.count(split, one)
    job.end()
    job.told.categories = job.source.categories or []


WRITERS: dict[str, Callable[[_Job, Path], None]] = {
    COCO: _to_coco,
    "yolo": _to_yolo,
    "labelme": _to_labelme,
}
