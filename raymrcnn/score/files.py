"""Scores of what lies in files: the parts of a predictions folder, or a COCO results file.

Works in one process and reads a few hundred images at a time; `on_ray` spreads the same functions
over a cluster. This module refuses predictions in which an image comes twice.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymrcnn import storage
from raymrcnn.errors import DataError
from raymrcnn.masks import segmentation_to_rle
from raymrcnn.rows import coco_results, iter_detections, parquet_file
from raymrcnn.rundir import PART_GLOB, SCORES
from raymrcnn.score.coco import IOU_TYPES, Matcher, Scores, merge
from raymrcnn.score.truth import GroundTruth, Ints, rows_of, some_ids

# Which images count: all of the ground truth; only those that have a row of results; or those
# with these ids (what a job was given, say, some of which failed). Where an image that counts has
# no row, nothing was detected in it.
Images = Literal["all", "predicted"] | npt.NDArray[np.int64]
State = dict[str, bytes]
Place = Path | str  # of a folder or a file: on this machine, or a URI

_IMAGES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How to match; what `Matcher` says of each."""

    iou_types: Sequence[str] = IOU_TYPES
    detail: bool = False
    skip_bad: bool = False

    def matcher(self, truth: GroundTruth) -> Matcher:
        """A new matcher for the categories of a ground truth."""
        return Matcher(
            truth.categories,
            self.iou_types,
            detail=self.detail,
            skip_bad=self.skip_bad,
            frequencies=truth.frequencies,
        )


def score_parts(
    paths: Sequence[Place],
    truth: GroundTruth,
    *,
    images: Images = "all",
    asked: Asked = Asked(),  # noqa: B008 (frozen)
) -> Scores:
    """The scores of parquet files that `raymrcnn infer` wrote.

    Raises:
        DataError: a file cannot be read, an image comes twice or is unknown, or a detection or an
            annotation is malformed.
    """
    state, found = match_parts(paths, truth, asked)
    refuse_repeated(found, os.path.dirname(paths[0]) if paths else "predictions")
    rest = match_undetected(undetected(truth, found, images), truth, asked)
    return merge([state, rest])


def part_files(folder: Place) -> list[Place]:
    """The results files of a predictions folder, sorted by name.

    Raises:
        DataError: there are none, or the storage does not answer.
    """
    if isinstance(folder, Path):
        found: list[Place] = [*sorted(folder.glob(PART_GLOB))]
        there = folder.is_dir()
    else:
        names = storage.names(folder)
        found = [storage.join(folder, name) for name in fnmatch.filter(names, PART_GLOB)]
        there = bool(names)
    if not found:
        raise DataError(
            f"no {PART_GLOB} in it" if there else "no such folder",
            where=str(folder),
            todo="give a folder that `raymrcnn infer` wrote",
        )
    return found


def write_scores(folder: Place, scores: Scores) -> None:
    """Commit the `scores.json` of a predictions folder.

    Raises:
        OutputError: the disk or the storage refuses.
    """
    text = json.dumps(scores.to_json(), indent=2) + "\n"
    storage.write(storage.join(os.fspath(folder), SCORES), text.encode())


def read_scores(folder: Place) -> Any:
    """The `scores.json` of a predictions folder as a document; None where there is none.

    Raises:
        DataError: it is not JSON, or the storage does not answer.
    """
    place = storage.join(os.fspath(folder), SCORES)
    if storage.size(place) is None:
        return None
    try:
        return json.loads(storage.read(place))
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=place) from None


def match_parts(paths: Iterable[Place], truth: GroundTruth, asked: Asked) -> tuple[State, Ints]:
    """The state of the images in some files, and their ids in the order of the files."""
    matcher = asked.matcher(truth)
    found = [np.zeros(0, np.int64)]
    for path in paths:
        first_row = 0
        for table in _tables(path):
            rows = list(iter_detections(table, str(path), first_row))
            first_row += table.num_rows
            ids = np.array([row.image_id for row in rows], np.int64)
            refuse_repeated(ids, str(path))
            truth_images, annotations = truth.to_coco_dicts(rows_of(truth, ids, str(path)))
            detections = [entry for row in rows for entry in coco_results(row)]
            matcher.update(truth_images, annotations, detections, str(path), truth.path)
            found.append(ids)
    return matcher.state(), np.concatenate(found)


def match_undetected(rows: Ints, truth: GroundTruth, asked: Asked) -> State:
    """The state of images, given by their rows, in which nothing was detected."""
    matcher = asked.matcher(truth)
    for i in range(0, len(rows), _IMAGES_AT_ONCE):
        matcher.update(*truth.to_coco_dicts(rows[i : i + _IMAGES_AT_ONCE]), [], truth=truth.path)
    return matcher.state()


def undetected(truth: GroundTruth, found: Ints, images: Images) -> Ints:
    """The rows of the images that count but are not among those found.

    Raises:
        DataError: an image that counts is unknown.
    """
    if isinstance(images, str):
        images = truth.image_ids if images == "all" else found
    return rows_of(truth, images[~np.isin(images, found)], "images to score")


def refuse_repeated(ids: Ints, where: str) -> None:
    """Refuse predictions that hold an image more than once.

    Raises:
        DataError: naming the images.
    """
    unique, times = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise DataError(
            f"images come more than once: {some_ids(unique[times > 1])}",
            where=where,
            todo="remove what another run left in the folder",
        )


def _tables(path: Place) -> Iterator[pa.Table]:
    with parquet_file(path) as file:
        for batch in file.iter_batches(_IMAGES_AT_ONCE):
            yield pa.Table.from_batches([batch])


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[int]


_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Result(msgspec.Struct):
    image_id: _Id
    category_id: _Id
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Rle | list[list[float]] | None = None


def score_coco_json(
    truth: GroundTruth,
    path: Place,
    *,
    images: Literal["all", "predicted"] = "all",
    iou_types: Sequence[str] | None = None,
    detail: bool = False,
    skip_bad: bool = False,
) -> Scores:
    """The scores of a COCO results file; arguments and errors as of `match_coco_json`."""
    state, _ = match_coco_json(
        truth, path, images=images, iou_types=iou_types, detail=detail, skip_bad=skip_bad
    )
    return merge([state])


def match_coco_json(
    truth: GroundTruth,
    path: Place,
    *,
    images: Literal["all", "predicted"] = "all",
    iou_types: Sequence[str] | None = None,
    detail: bool = False,
    skip_bad: bool = False,
    notes: list[str] | None = None,
) -> tuple[State, Ints]:
    """The state and image ids of a COCO results file.

    It is a list of image_id, category_id, score, and bbox or segmentation or both.

    Args:
        truth: the ground truth.
        path: of the results file.
        images: "all", or "predicted" for those that the file names.
        iou_types: what to score; by default what all results have.
        detail: see `Matcher`.
        skip_bad: see `Matcher`.
        notes: gets a line where some detections have a mask, or a box, and others none, so that it
            is not scored.

    Raises:
        DataError: the file cannot be read or is malformed, or as `score_parts`.
    """
    results = _read_results(path)
    kinds = _kinds(results, iou_types, str(path))
    if notes is not None and iou_types is None:
        notes += _left_out(results)
    of_image: dict[int, list[_Result]] = defaultdict(list)
    for result in results:
        of_image[result.image_id].append(result)
    predicted = rows_of(truth, sorted(of_image), str(path))
    rows = np.arange(len(truth.image_ids)) if images == "all" else predicted
    asked = Asked(iou_types=kinds, detail=detail, skip_bad=skip_bad)
    matcher = asked.matcher(truth)
    for i in range(0, max(1, len(rows)), _IMAGES_AT_ONCE):
        listed, annotations = truth.to_coco_dicts(rows[i : i + _IMAGES_AT_ONCE])
        detections = [
            _entry(result, image, str(path))
            for image in listed
            for result in of_image.get(image["id"], ())
        ]
        matcher.update(listed, annotations, detections, str(path), truth.path)
    return matcher.state(), truth.image_ids[rows]


def _read_results(path: Place) -> list[_Result]:
    try:
        content = path.read_bytes() if isinstance(path, Path) else storage.read(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    try:
        return msgspec.json.decode(content, type=list[_Result])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            _said(str(error), content),
            where=str(path),
            todo="give a COCO results file: a list of "
            "{image_id, category_id, score, bbox or segmentation}",
        ) from None


def _said(message: str, content: bytes) -> str:
    """A decoder's message in words: where, then what."""
    at = re.search(r"\(byte (\d+)\)", message)
    if at and re.match(rb"-?(NaN|Infinity)", content[int(at[1]) :]):
        return f"a number at byte {at[1]} is not finite"
    size = len(content)
    # An invalid character behind the end: a number was cut.
    if "truncated" in message or re.search(rf"invalid \w+ \(byte {size}\)", message):
        return f"the JSON is cut short: it ends within a value at byte {size}"
    if "malformed" in message:
        return f"not JSON: {message.removeprefix('JSON is malformed: ')}"
    found = re.fullmatch(r"(.*) - at `\$(.*)`", message, re.DOTALL)
    what, place = found.groups() if found else (message, "")
    return f"{place.strip('.') or 'top level'}: {what[:1].lower()}{what[1:]}"


def _kinds(results: list[_Result], iou_types: Sequence[str] | None, where: str) -> Sequence[str]:
    lacking = {
        "bbox": next((i for i, r in enumerate(results) if r.bbox is None), None),
        "segm": next((i for i, r in enumerate(results) if not r.segmentation), None),
    }
    kinds = [k for k in IOU_TYPES if lacking[k] is None] if iou_types is None else iou_types
    for kind in kinds:
        i = lacking[kind]
        if i is not None:
            name = "bbox" if kind == "bbox" else "segmentation"
            raise DataError(
                f"detection {i} (image {results[i].image_id}) has no {name}", where=where
            )
    if not kinds:
        raise DataError(
            "the detections have neither all a bbox nor all a segmentation", where=where
        )
    return kinds


def _left_out(results: list[_Result]) -> list[str]:
    """What is not scored because some detections lack it, in a line."""
    lacking = {
        "masks": sum(not result.segmentation for result in results),
        "boxes": sum(result.bbox is None for result in results),
    }
    return [
        f"{name} are not scored: {number} of {len(results)} detections have none"
        for name, number in lacking.items()
        if 0 < number < len(results)
    ]


def _entry(result: _Result, image: dict[str, Any], where: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "image_id": result.image_id,
        "category_id": result.category_id,
        "score": result.score,
    }
    if result.bbox is not None:
        entry["bbox"] = list(result.bbox)
    mask = result.segmentation
    if isinstance(mask, _Rle) and isinstance(mask.counts, str):
        entry["segmentation"] = {"size": list(mask.size), "counts": mask.counts}
    elif mask:
        form = {"size": mask.size, "counts": mask.counts} if isinstance(mask, _Rle) else mask
        height, width = image["height"], image["width"]
        counts = segmentation_to_rle(form, height, width, f"{where}: image {result.image_id}")
        entry["segmentation"] = {"size": [height, width], "counts": counts}
    return entry
