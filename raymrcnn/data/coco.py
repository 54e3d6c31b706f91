"""The index of a COCO data set: what the annotation file says, sorted by image, ready to ask.

Holds arrays only, so that it opens hundreds of thousands of annotations in little memory and
crosses process borders as a few buffers. This module refuses annotations that refer to nothing
and ids that are given twice; what is merely doubtful is for `raymrcnn data verify` to list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn.data.coco_columns import NO_MASK, POLYGONS, Columns, Segmentations, read_columns
from raymrcnn.data.malformed import Malformed
from raymrcnn.errors import DataError
from raymrcnn.masks import rle_areas, segmentation_to_rle
from raymrcnn.structures import Category

# Name of the one split of a data set that keeps its only annotation file in its root.
WHOLE = "all"

_Ints = npt.NDArray[np.int64]
Segmentation = list[npt.NDArray[np.float64]] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A reference or an id that makes the data set ambiguous."""

    kind: str
    id: int  # of the image, annotation or category
    message: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageAnnotations:
    """The annotations of one image, in the order of the file."""

    first: int  # the row of the first one; the others follow
    ids: _Ints
    category_ids: _Ints
    iscrowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]  # square pixels, NaN where the file gives none
    boxes: npt.NDArray[np.float64]  # [num, 4] x, y, width, height in pixels, as in the file

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CocoIndex:
    """One annotation file. Images keep the order of the file; annotations are sorted by image.

    Images and annotations are named by their row, 0 to `num_images` or `num_annotations` - 1.
    """

    path: str
    categories: tuple[Category, ...]  # sorted by id
    first_annotation: _Ints  # [num_images + 1]: image i has the rows from i to i + 1
    annotation_images: _Ints  # [num_annotations] row of the image, -1 where there is none
    file_rows: _Ints  # [num_annotations] the place of each among those that were read
    columns: Columns  # annotations sorted by image, otherwise as in the file

    @staticmethod
    def open(
        path: Path, *, check: bool = True, malformed: list[Malformed] | None = None
    ) -> CocoIndex:
        """Read an annotation file.

        Args:
            path: a file of COCO's "object detection" form.
            check: refuse the faults that `faults` lists; without, all queries still work.
            malformed: takes what is malformed and left out; without it the first one is refused.

        Raises:
            DataError: the file cannot be read, is not of that form, lists no image or category,
                or has a fault.
        """
        columns = read_columns(path, malformed)
        if not len(columns.image_ids):
            raise DataError("the annotation file lists no images", where=str(path))
        if not columns.category_table:
            raise DataError("the annotation file lists no categories", where=str(path))
        index = _sorted_by_image(path, columns)
        found = index.faults() if check else []
        if found:
            more = f" (and {len(found) - 1} more faults)" if len(found) > 1 else ""
            raise DataError(
                found[0].message + more,
                where=str(path),
                todo="`raymrcnn data verify` lists them all",
            )
        return index

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return self.columns.fingerprint

    @property
    def num_images(self) -> int:
        """Images in the file, annotated or not."""
        return len(self.columns.image_ids)

    @property
    def num_annotations(self) -> int:
        """Annotations in the file, crowds included."""
        return len(self.columns.ids)

    @property
    def image_ids(self) -> _Ints:
        """int64 [num_images], in the order of the file."""
        return self.columns.image_ids

    @property
    def widths(self) -> npt.NDArray[np.int32]:
        """int32 [num_images], pixels."""
        return self.columns.widths

    @property
    def heights(self) -> npt.NDArray[np.int32]:
        """int32 [num_images], pixels."""
        return self.columns.heights

    @property
    def frequencies(self) -> dict[int, str]:
        """LVIS's "r", "c" or "f" of each category, by id; empty where the file is not LVIS's."""
        return self.columns.federation.frequencies if self.columns.federation else {}

    @property
    def label_of_category(self) -> dict[int, int]:
        """Category ids to labels 1, 2, ... in the order of the ids; 0 is background."""
        return {category.id: k for k, category in enumerate(self.categories, start=1)}

    def file_name(self, i: int) -> str:
        """The name of image i, relative to the folder of its split."""
        start, stop = self.columns.name_ends[i : i + 2]
        return self.columns.name_bytes[start:stop].tobytes().decode()

    def images_with_ids(self, image_ids: npt.ArrayLike) -> _Ints:
        """The rows of images, int64, by their ids.

        Raises:
            DataError: an id that the file does not list.
        """
        wanted = np.asarray(image_ids, np.int64)
        rows = _lookup(self.image_ids, wanted)
        if (rows < 0).any():
            raise DataError(f"no image has the id {wanted[rows < 0][0]}", where=self.path)
        return rows

    def annotations_of(self, i: int) -> ImageAnnotations:
        """The annotations of image i; views, not copies."""
        start, stop = self.first_annotation[i : i + 2].tolist()
        columns = self.columns
        return ImageAnnotations(
            first=start,
            ids=columns.ids[start:stop],
            category_ids=columns.category_ids[start:stop],
            iscrowd=columns.iscrowd[start:stop],
            areas=columns.areas[start:stop],
            boxes=columns.boxes[start:stop],
        )

    def segmentation(self, j: int) -> Segmentation:
        """The mask of annotation j as the file gives it.

        Returns:
            Polygons, each float64 [2 * num_points] x, y, x, y, ... in pixels; or an RLE with
            "size" [height, width] and "counts" as `str` (compressed) or `list[int]`.

        Raises:
            DataError: the file gives none.
        """
        masks = self.columns.segmentations
        if masks.kinds[j] == NO_MASK:
            raise self._maskless(np.asarray([j]))
        return masks.polygons(j) if masks.kinds[j] == POLYGONS else masks.run_lengths(j)

    def require_masks(self, rows: npt.ArrayLike | None = None) -> None:
        """Refuse annotations (all, or those of these rows) without a mask.

        Raises:
            DataError: how many have none, and the first one's id.
        """
        masks = self.columns.segmentations
        empty = (masks.kinds == NO_MASK) | (
            (masks.kinds == POLYGONS) & (masks.rows[:, 0] == masks.rows[:, 1])
        )
        chosen = np.arange(self.num_annotations) if rows is None else np.asarray(rows, np.int64)
        lacking = chosen[empty[chosen]]
        if len(lacking):
            raise self._maskless(lacking)

    def to_coco_dicts(
        self, image_rows: Sequence[int] | _Ints
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The images and their annotations as the plain dictionaries of the file.

        Numbers are those of the file to the last bit. A missing `iscrowd` becomes 0; a missing
        `area` the number of pixels of the mask, or the area of the box where there is no mask or a
        malformed one; a missing mask stays missing. Other fields of the file are not kept.
        """
        images, annotations = [], []
        federation = self.columns.federation
        for i in image_rows:
            image_id, height = int(self.image_ids[i]), int(self.heights[i])
            width = int(self.widths[i])
            image = {
                "id": image_id,
                "width": width,
                "height": height,
                "file_name": self.file_name(i),
            }
            images.append(image | (federation.of_image(i) if federation else {}))
            start, stop = self.first_annotation[i : i + 2].tolist()
            annotations += [self._coco_dict(j, image_id, height, width) for j in range(start, stop)]
        return images, annotations

    def faults(self) -> list[Fault]:
        """Ids that are given twice and references to nothing, in the order of the file."""
        columns = self.columns
        category_ids = np.asarray([c for c, _ in columns.category_table], np.int64)
        found = [
            Fault(kind="duplicate-category", id=k, message=f"the category id {k} is given twice")
            for k in _repeated(category_ids)
        ]
        found += [
            Fault(kind="duplicate-image", id=k, message=f"the image id {k} is given twice")
            for k in _repeated(columns.image_ids)
        ]
        found += [
            Fault(
                kind="duplicate-annotation", id=k, message=f"the annotation id {k} is given twice"
            )
            for k in _repeated(columns.ids)
        ]
        for kind, refers_to, known in (
            ("image", columns.image_id_of, self.annotation_images >= 0),
            ("category", columns.category_ids, _lookup(category_ids, columns.category_ids) >= 0),
        ):
            found += [
                Fault(
                    kind=f"unknown-{kind}",
                    id=int(columns.ids[j]),
                    message=f"annotation {columns.ids[j]} names {kind} {refers_to[j]}, "
                    "which the file does not list",
                )
                for j in np.flatnonzero(~known)
            ]
        return found

    def _coco_dict(self, j: int, image_id: int, height: int, width: int) -> dict[str, Any]:
        columns = self.columns
        entry: dict[str, Any] = {
            "id": int(columns.ids[j]),
            "image_id": image_id,
            "category_id": int(columns.category_ids[j]),
            "iscrowd": int(columns.iscrowd[j]),
            "area": float(columns.areas[j]),
            "bbox": columns.boxes[j].tolist(),
        }
        if columns.segmentations.kinds[j] != NO_MASK:
            mask = self.segmentation(j)
            entry["segmentation"] = (
                [polygon.tolist() for polygon in mask] if isinstance(mask, list) else mask
            )
        if np.isnan(columns.areas[j]):
            entry["area"] = self._area(entry, height, width)
        return entry

    def _area(self, entry: dict[str, Any], height: int, width: int) -> float:
        if not entry.get("segmentation"):
            return float(entry["bbox"][2] * entry["bbox"][3])
        try:
            rle = segmentation_to_rle(entry["segmentation"], height, width, self.path)
        except DataError:  # whoever uses the mask will say so
            return float(entry["bbox"][2] * entry["bbox"][3])
        return float(rle_areas([rle], height, width, self.path)[0])

    def _maskless(self, rows: _Ints) -> DataError:
        return DataError(
            f"{len(rows)} annotations have no mask, the first being annotation "
            f"{self.columns.ids[rows[0]]}",
            where=self.path,
            todo="Mask R-CNN needs polygons or RLE for each object; "
            "`raymrcnn data verify` lists those without",
        )


def open_split(root: Path, split: str) -> CocoIndex:
    """The index of a split: `annotations/instances_{split}.json` or `instances_{split}.json`.

    A data set with a single `instances.json` in its root has the one split "all".

    Raises:
        DataError: no such folder or split (with those that exist), or as `CocoIndex.open`.
    """
    return CocoIndex.open(annotation_file(root, split))


def annotation_file(root: Path, split: str) -> Path:
    """The annotation file of a split; raises as `open_split`."""
    if not root.is_dir():
        raise DataError("no such folder", where=str(root), todo="give the root of a COCO data set")
    known = splits(root)
    if split in known:
        return known[split]
    if not known:
        raise DataError(
            f"no annotation file annotations/instances_{split}.json",
            where=str(root),
            todo="give the root of a COCO data set; `raymrcnn data synth` writes a small one",
        )
    raise DataError(
        f"no split {split!r}", where=str(root), todo=f"there are {', '.join(sorted(known))}"
    )


def splits(root: Path) -> dict[str, Path]:
    """The splits of a data set and their annotation files."""
    found = {WHOLE: root / "instances.json"} if (root / "instances.json").is_file() else {}
    for folder in (root, root / "annotations"):
        for path in folder.glob("instances_*.json"):
            found[path.stem.removeprefix("instances_")] = path
    return found


def _sorted_by_image(path: Path, columns: Columns) -> CocoIndex:
    rows = _lookup(columns.image_ids, columns.image_id_of)
    order = np.argsort(rows, kind="stable")
    masks = columns.segmentations
    sorted_columns = Columns(
        **{
            **vars(columns),
            **{
                name: getattr(columns, name)[order]
                for name in ("ids", "image_id_of", "category_ids", "iscrowd", "areas", "boxes")
            },
            "segmentations": Segmentations(
                **{**vars(masks), "kinds": masks.kinds[order], "rows": masks.rows[order]}
            ),
        }
    )
    sorted_rows = rows[order]
    return CocoIndex(
        path=str(path),
        categories=tuple(Category(id=k, name=n) for k, n in sorted(columns.category_table)),
        first_annotation=np.searchsorted(sorted_rows, np.arange(len(columns.image_ids) + 1)),
        annotation_images=sorted_rows,
        file_rows=order,
        columns=sorted_columns,
    )


def _lookup(table: _Ints, wanted: _Ints) -> _Ints:
    """The first row of `table` that holds each wanted id, or -1."""
    order = np.argsort(table, kind="stable")
    place = np.searchsorted(table, wanted, sorter=order).clip(max=len(table) - 1)
    rows = order[place]
    return np.where(table[rows] == wanted, rows, -1)


def _repeated(ids: _Ints) -> list[int]:
    values, counts = np.unique(ids, return_counts=True)
    return [int(v) for v in values[counts > 1]]
