"""Some predicted images for people: drawn overlays as JPEG files, and one page to look through.

Which images is decided before any is read: the first ones of a job, or a seeded sample. The page
holds thumbnails and outlines and needs nothing beside itself. What cannot be shown is named. This
module refuses to judge: it knows no ground truth.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raymrcnn import rundir
from raymrcnn.data.fetch import Fetcher
from raymrcnn.errors import DataError
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
    ids = chosen_ids(folder, count, sample_seed)
    found = _detections(folder, int(manifest["block_rows"]), ids)
    refs = collect.image_refs(folder, ids.tolist())
    fetch = Fetcher()
    place = folder / rundir.OVERLAYS
    rundir.prepare_output(place)
    files: list[Path] = []
    shown: list[tuple[Photo, Detections]] = []
    notes: list[str] = []
    for k, image_id in enumerate(ids.tolist(), start=1):
        detections = found.get(image_id)
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


def chosen_ids(folder: Path, count: int, sample_seed: int | None) -> npt.NDArray[np.int64]:
    """The ids of the images to draw, int64, in the order of the job."""
    try:
        table = pq.read_table(folder / rundir.IMAGES, columns=["image_id"])
    except (OSError, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise DataError(f"cannot be read ({line})", where=str(folder / rundir.IMAGES)) from None
    ids: npt.NDArray[np.int64] = table.column("image_id").to_numpy()
    if sample_seed is None:
        return ids[:count]
    draw_ = np.random.default_rng(sample_seed)
    return ids[np.sort(draw_.choice(len(ids), min(count, len(ids)), replace=False))]


def _detections(folder: Path, block_rows: int, ids: npt.NDArray[np.int64]) -> dict[int, Detections]:
    """The results of these images, from the parts that hold them alone."""
    table = pq.read_table(folder / rundir.IMAGES, columns=["image_id"])
    rows = np.flatnonzero(np.isin(table.column("image_id").to_numpy(), ids))
    parts = [folder / rundir.part_name(block) for block in np.unique(rows // block_rows).tolist()]
    found = {}
    for batch in collect.result_batches([part for part in parts if part.exists()]):
        wanted = np.isin(batch.column("image_id").to_numpy(zero_copy_only=False), ids)
        kept = pa.Table.from_batches([batch]).filter(pa.array(wanted))
        found.update({one.image_id: one for one in iter_detections(kept, str(folder))})
    return found


def _plain(name: str) -> str:
    """A file name without folders, suffix and what some file systems refuse."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)[:80] or "image"


def _save(image: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    path.write_bytes(stream.getvalue())
