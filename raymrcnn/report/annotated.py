"""What a data set says of its images, for people: a page or a picture of photographs with masks.

Draws what the annotation file has, right or wrong: its boxes beside its masks, crowds, and what
`raymrcnn data verify` found. A mask that cannot be drawn and an image that cannot be read are
named; entries that are none are left to `verify`. This module refuses to choose images by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn import rundir
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.select import Wanted, drawn, rows_of
from raymrcnn.data.store import ImageStore, open_dataset
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.masks import bitmap_to_rle, segmentation_to_rle
from raymrcnn.report import annotated_page, sheet
from raymrcnn.report.photos import photo_of, pixels_of
from raymrcnn.structures import Detections

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], object]
DEFAULT_NUMBER = 24
MOST_IMAGES = {".html": 400, ".png": 120}  # of some 60 kB, and of 0.3 megapixels each
_SIDE_PX = 480  # of a photograph on the page


@dataclass(frozen=True, kw_only=True)
class Viewed:
    """What was drawn."""

    file: str
    num_images: int
    num_objects: int
    image_ids: list[int]
    notes: list[str] = field(default_factory=list)  # what could not be drawn

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


def view(
    data: Path | str,
    split: str,
    out: Path,
    wanted: Wanted,
    *,
    findings: Path | None = None,
    kinds: Sequence[str] = (),
    progress: Progress | None = None,
) -> Viewed:
    """Draw images of a split into one file.

    Args:
        data: root of the data set, of single images or sharded.
        split: name of the split.
        out: a name that ends in .html or .png.
        wanted: which images; without a number 24 of them, and of a list as many as may be.
        findings: what `raymrcnn data verify --json` wrote: only images that it names.
        kinds: of findings; empty: all.
        progress: told the images done and all images.

    Raises:
        ConfigError: another name, no such category, or no image fits.
        DataError: the split or the findings cannot be read.
        OutputError: the disk refuses.
    """
    most = MOST_IMAGES.get(out.suffix.lower())
    if most is None:
        raise ConfigError(f"{out.name} is neither .html nor .png", where="--out")
    if (wanted.number or 0) > most:
        raise ConfigError(f"takes {most} images at most", where=out.name, todo="a smaller --number")
    index, store = open_dataset(data, split, check=False, malformed=[])
    remarks = _remarks(index, findings, kinds) if findings else {}
    if findings:
        wanted = replace(wanted, listed=tuple(map(str, remarks)))
    fitting = rows_of(index, replace(wanted, number=None))
    number = wanted.number or (most if wanted.listed else DEFAULT_NUMBER)
    rows = drawn(index, fitting, number, wanted.seed)
    rows = rows[np.argsort(index.image_ids[rows], kind="stable")]
    names = {category.id: category.name for category in index.categories}
    scene = annotated_page.Scene(
        title=f"{Path(str(data)).name or data} · {split}",
        about=f"{len(rows)} of {index.num_images} images"
        + (f", drawn with seed {wanted.seed}" if len(rows) < len(fitting) else ""),
        names=names,
    )
    drawings = _drawn(index, store, rows, remarks, progress)
    if out.suffix.lower() == ".png":
        shown, notes = sheet.write_sheet(out, drawings, names)
    else:
        photos = ((replace(card, photo=photo_of(f"p{card.image_id}", pixels, _SIDE_PX))
                   if pixels is not None else card) for card, pixels in drawings)  # fmt: skip
        shown = list(photos)
        notes = [note for card in shown for note in card.notes]
        rundir.prepare_output(out.parent)
        rundir.write_text(out, annotated_page.page(scene, shown))
    return Viewed(
        file=str(out),
        num_images=len(shown),
        num_objects=sum(len(card.found.scores) for card in shown),
        image_ids=[card.image_id for card in shown],
        notes=notes,
    )


def _drawn(
    index: CocoIndex,
    store: ImageStore,
    rows: npt.NDArray[np.int64],
    remarks: Mapping[int, list[str]],
    progress: Progress | None,
) -> Any:
    """Cards without photographs, and pixels [height, width, 3]; None where they cannot be read."""
    for done, i in enumerate(rows.tolist(), start=1):
        image_id = int(index.image_ids[i])
        card = _card(index, i, remarks.get(image_id, []))
        try:
            pixels = pixels_of(store.read(image_id, card.found.file_name), card.found)
        except DataError as error:
            note = f"image {image_id} ({card.found.file_name}) is not shown: {error.what}"
            card, pixels = replace(card, notes=[note, *card.notes]), None
        yield card, pixels
        if progress:
            progress(done, len(rows))


def _card(index: CocoIndex, i: int, remarks: list[str]) -> annotated_page.Card:
    """The objects of image i, as the file has them."""
    height, width = int(index.heights[i]), int(index.widths[i])
    found = index.annotations_of(i)
    empty = bitmap_to_rle(np.zeros((height, width), np.uint8))
    rles, notes = [], []
    for k in range(len(found)):
        try:
            mask = index.segmentation(found.first + k)
            rles.append(segmentation_to_rle(mask, height, width))
        except DataError as error:
            rles.append(empty)
            notes.append(f"annotation {found.ids[k]}: only its box is drawn: {error.what}")
    corners = found.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    return annotated_page.Card(
        image_id=int(index.image_ids[i]),
        found=Detections(
            image_id=int(index.image_ids[i]), file_name=index.file_name(i), width=width,
            height=height, boxes=np.nan_to_num(corners).astype(np.float32),
            scores=np.ones(len(found), np.float32), category_ids=found.category_ids, rles=rles,
        ),
        annotation_ids=found.ids.tolist(),
        crowds=found.iscrowd.tolist(),
        remarks=remarks,
        notes=notes,
    )  # fmt: skip


def _remarks(index: CocoIndex, path: Path, kinds: Sequence[str]) -> dict[int, list[str]]:
    """Messages of findings by the image that they are of."""
    document = rundir.read_json(path)
    entries = document.get("findings") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError("holds no findings", where=str(path),
                        todo="write it with `raymrcnn data verify --json`")  # fmt: skip
    image_of = dict(zip(index.columns.ids.tolist(), index.annotation_images.tolist(), strict=True))
    known = set(index.image_ids.tolist())
    found: dict[int, list[str]] = {}
    for entry in entries:
        kind, number = str(entry.get("kind")), entry.get("id")
        if kinds and kind not in kinds:
            continue
        row = image_of.get(number, -1) if entry.get("section") == "annotations" else -1
        image_id = int(index.image_ids[row]) if row >= 0 else number
        if (row >= 0 or entry.get("section") == "images") and image_id in known:
            found.setdefault(image_id, []).append(str(entry.get("message")))
    if not found:
        what = "no finding is of an image of this split"
        raise ConfigError(what if not kinds else f"{what} and of {', '.join(kinds)}",
                          where=str(path))  # fmt: skip
    return found
