"""Some predicted images for people: drawn overlays as JPEG files, and one page to look through.

Which images is decided before any is read: the first ones of a job, or a seeded sample. The page
holds thumbnails and outlines and needs nothing beside itself. What cannot be shown is named. This
module refuses to judge: it knows no ground truth.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from raymrcnn import rundir
from raymrcnn.data.fetch import Fetcher
from raymrcnn.data.shards import read_manifest
from raymrcnn.data.store import ImageStore, ShardedImages
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.overlay import draw_detections
from raymrcnn.report import collect
from raymrcnn.report.photos import Photo, photo_of, pixels_of
from raymrcnn.report.predicted import gallery_page
from raymrcnn.report.size import fitted
from raymrcnn.rows import iter_detections
from raymrcnn.structures import Detections

GALLERY = "gallery.html"
MIN_SCORE = 0.5
_JPEG_QUALITY = 88
_OVERLAY_GLOB = "[0-9]" * 6 + "-*.jpg"
_MOST_ON_PAGE = 200
_FEW = 24  # up to so many have larger thumbnails
_THUMBNAIL_PX, _LARGE_PX = 480, 800


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn, and what could not be."""

    overlays: list[Path]
    gallery: Path
    notes: list[str]


def draw(
    folder: Path, count: int, *, sample_seed: int | None = None, min_score: float = MIN_SCORE
) -> Drawn:
    """Draw images of a predictions folder into its `overlays/`, and write its `gallery.html`.

    Args:
        folder: that `raymrcnn infer` wrote.
        count: how many images.
        sample_seed: draw a sample with this seed; None: the first ones.
        min_score: of what is drawn; on the page a slider chooses, and starts here.

    Raises:
        DataError: the folder is damaged.
        OutputError: the disk refuses.
    """
    manifest = rundir.read_json(folder / rundir.MANIFEST)
    names = {int(k): str(name) for k, name in manifest.get("categories") or ()}
    notes: list[str] = []
    try:
        fetch = Fetcher(_shards_of(manifest))
    except (ConfigError, DataError) as error:  # of images alone: the results are whole
        notes.append(str(error))
        fetch = Fetcher()
    rows, ids = chosen(folder, count, sample_seed)
    refs = collect.image_refs(folder, ids.tolist())
    place = folder / rundir.OVERLAYS
    rundir.prepare_output(place)
    files: list[Path] = []
    shown: list[tuple[Photo, Detections]] = []
    found = _results(folder, int(manifest["block_rows"]), rows, ids)
    for k, (image_id, detections) in enumerate(found, start=1):
        if detections is None:
            notes.append(f"image {image_id} has no result: failures.parquet says why")
            continue
        try:
            ref = refs.get(image_id)
            pixels = pixels_of(fetch(ref) if ref else None, detections)
        except DataError as error:
            notes.append(f"{detections.file_name} is not shown: {error.what}")
            continue
        target = place / f"{k:06d}-{_plain(detections.file_name)}.jpg"
        drawn = draw_detections(pixels, detections, names, min_score=min_score)
        rundir.write_atomic(target, partial(_save, drawn))
        files.append(target)
        if len(shown) < _MOST_ON_PAGE:
            side = _LARGE_PX if len(ids) <= _FEW else _THUMBNAIL_PX
            shown.append((photo_of(f"photo-{k}", pixels, side), detections))
    for old in set(place.glob(_OVERLAY_GLOB)) - set(files):  # of another choice
        old.unlink(missing_ok=True)
    page = folder / GALLERY
    which = "the first" if sample_seed is None else f"a sample (seed {sample_seed}) of"
    about = f"{which} {len(shown)} of {manifest['num_images']} images"
    made = partial(gallery_page, shown, names, folder.name, about, notes, min_score)
    rundir.write_text(page, fitted(made, str(page)))
    return Drawn(overlays=files, gallery=page, notes=notes)


def chosen(
    folder: Path, count: int, sample_seed: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows and the ids of the images to draw, int64, in the order of the job.

    Raises:
        DataError: the list of images is damaged.
    """
    batches = collect.result_batches([folder / rundir.IMAGES], ["image_id"])
    columns = [batch.column("image_id").to_numpy(zero_copy_only=False) for batch in batches]
    ids = np.concatenate([np.zeros(0, np.int64), *columns])
    rows = np.arange(len(ids))
    if sample_seed is not None:
        draw_ = np.random.default_rng(sample_seed)
        rows = np.sort(draw_.choice(len(ids), min(count, len(ids)), replace=False))
    rows = rows[:count]
    return rows, ids[rows]


def _results(
    folder: Path, block_rows: int, rows: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
) -> Iterator[tuple[int, Detections | None]]:
    """Each of these images with its result, where it has one; a block of them is held at a time."""
    blocks = rows // block_rows
    for block in np.unique(blocks).tolist():
        part, wanted = folder / rundir.part_name(block), ids[blocks == block]
        found = {}
        for batch in collect.result_batches([part] if part.exists() else []):
            here = np.isin(batch.column("image_id").to_numpy(zero_copy_only=False), wanted)
            kept = pa.Table.from_batches([batch]).filter(pa.array(here))
            found.update({one.image_id: one for one in iter_detections(kept, str(part))})
        for image_id in wanted.tolist():
            yield image_id, found.pop(image_id, None)


def _shards_of(manifest: dict[str, Any]) -> ImageStore | None:
    """The shards that a job read its images from; None where each image says itself where it is.

    Raises:
        ConfigError, DataError: they cannot be opened, or were written anew from other annotations.
    """
    data = manifest.get("data")
    if not data:
        return None
    shards = read_manifest(str(data["root"]), str(data["split"]))
    if shards is None:
        return None
    if shards.annotations != manifest["fingerprint"].get("annotations"):
        raise DataError(
            "the shards were written again with other annotations", where=str(data["root"])
        )
    return ShardedImages(str(data["root"]), str(data["split"]), shards)


def _plain(name: str) -> str:
    """A file name without folders, suffix and what some file systems refuse."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)[:80] or "image"


def _save(image: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    path.write_bytes(stream.getvalue())
