"""Results on disk, each image exactly once, whatever is killed and started again.

The input is cut into blocks of consecutive images, and block k becomes `part-k.parquet`, written
under another name and renamed: the file is there whole or not at all. What is left to do is the
blocks without a file. A job's fingerprint stands in the manifest, and another job is refused.

A block's failures are committed beside it, before it, and gathered into one file at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import rundir
from raymrcnn.errors import DataError, OutputError
from raymrcnn.rows import FAILURE_SCHEMA, failures_table, iter_detections, results_table
from raymrcnn.structures import Detections, Failure, ImageRef

FORMAT = 1
# A block is what one commit holds and what a kill can cost: small enough to spread a job over its
# workers, large enough that a million images make few files.
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS, BLOCKS_WANTED = 16, 256, 64

_PART = re.compile(r"part-(\d+)\.parquet")
_IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A predictions folder that was opened for one job."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole job."""
        return -(-int(self.manifest["num_images"]) // int(self.manifest["block_rows"]))

    @property
    def complete(self) -> bool:
        """Whether every image has its row and the failures are gathered."""
        return bool(self.manifest["status"] == "complete")

    def pending(self) -> list[int]:
        """Blocks that are not committed."""
        done = set(self.done())
        return [block for block in range(self.num_blocks) if block not in done]

    def done(self) -> list[int]:
        """Blocks that are committed, in order."""
        matches = (_PART.fullmatch(entry.name) for entry in os.scandir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def failures(self) -> tuple[int, str]:
        """How many images of the committed blocks failed, and the first one's name and reason."""
        count, first = 0, ""
        for block in self.done():
            path = _failed(self.folder, block)
            if path.exists():
                row = pq.read_table(path).slice(0, 1).to_pylist()[0]
                first = first or f"{row['file_name']}: {row['error']}"
                count += pq.read_metadata(path).num_rows
        return count, first

    def rows_of(self, block: int) -> range:
        """The rows of the input that a block is."""
        size = int(self.manifest["block_rows"])
        return range(block * size, min((block + 1) * size, int(self.manifest["num_images"])))


def open_predictions(
    folder: Path,
    images: Sequence[ImageRef],
    fingerprint: dict[str, Any],
    about: dict[str, Any],
) -> Predictions:
    """Start a job in a folder, or go on with the same job there.

    Args:
        folder: of the predictions.
        images: the input, in order.
        fingerprint: what decides the results, JSON-ready; the digest of `images` is added.
        about: what else the manifest says, JSON-ready.

    Raises:
        OutputError: the folder cannot be written, or holds other files or another job.
        DataError: two images have one id, or the folder's manifest is damaged.
    """
    _require_unique(images)
    fingerprint = {**fingerprint, "images": _digest(images)}
    path = folder / rundir.MANIFEST
    if path.exists():
        manifest = read_manifest(folder)
        _require_same(folder, manifest["fingerprint"], fingerprint)
        return Predictions(folder=folder, manifest=manifest)
    rundir.prepare_output(folder)
    if any(folder.glob(rundir.PART_GLOB)):
        raise OutputError(
            "holds results without a manifest", where=str(folder), todo="choose another --out"
        )
    table = pa.table(
        {name: [getattr(ref, name) for ref in images] for name in _IMAGE_SCHEMA.names},
        schema=_IMAGE_SCHEMA,
    )
    _write_table(folder / rundir.IMAGES, table)
    manifest = {
        "format": FORMAT,
        "status": "running",
        "num_images": len(images),
        "block_rows": block_rows(len(images)),
        "fingerprint": fingerprint,
        **about,
    }
    rundir.write_json(path, manifest)
    return Predictions(folder=folder, manifest=manifest)


def block_rows(num_images: int) -> int:
    """Images of a block, of the last one perhaps fewer."""
    return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, -(-num_images // BLOCKS_WANTED)))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a predictions folder says of its job.

    Raises:
        DataError: the manifest is missing, damaged, or of another version.
    """
    path = folder / rundir.MANIFEST
    manifest = rundir.read_json(path)
    keys = ("status", "num_images", "block_rows", "fingerprint")
    if not isinstance(manifest, dict) or any(key not in manifest for key in keys):
        raise DataError(
            "is not the manifest of predictions",
            where=str(path),
            todo="give a folder that `raymrcnn infer` wrote",
        )
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"has format {manifest.get('format')!r}, and {FORMAT} is known",
            where=str(path),
            todo="use the version of raymrcnn that wrote it",
        )
    return manifest


def read_images(folder: Path, rows: range) -> list[ImageRef]:
    """The input of some rows."""
    table = pq.read_table(folder / rundir.IMAGES, memory_map=True).slice(rows.start, len(rows))
    return [ImageRef(**row) for row in table.to_pylist()]


def image_ids(folder: Path) -> npt.NDArray[np.int64]:
    """The ids of all images of the job, int64, in order."""
    table = pq.read_table(folder / rundir.IMAGES, columns=["image_id"])
    return table.column("image_id").to_numpy()  # type: ignore[no-any-return]


def commit_block(
    folder: Path, block: int, detections: Sequence[Detections], failures: Sequence[Failure]
) -> None:
    """Write the results of one block; the block counts once this returns, and not before.

    Raises:
        OutputError: the disk refuses.
    """
    # First the failures: the results file is the mark that both are there.
    if failures:
        _write_table(_failed(folder, block), failures_table(failures))
    else:
        _failed(folder, block).unlink(missing_ok=True)
    _write_table(folder / rundir.part_name(block), results_table(detections))


def finish(predictions: Predictions, about: dict[str, Any]) -> Predictions:
    """Gather the failures and mark the job complete. May be cut and called again.

    To be called by the one process that works in the folder: what killed ones left is removed.

    Raises:
        OutputError: the disk refuses.
    """
    if predictions.complete:
        return predictions
    folder = predictions.folder
    assert not predictions.pending(), "a job is finished when every block is committed"
    parts = [path for b in range(predictions.num_blocks) if (path := _failed(folder, b)).exists()]
    tables = [pq.read_table(path) for path in parts]
    gathered = pa.concat_tables([FAILURE_SCHEMA.empty_table(), *tables])
    _write_table(folder / rundir.FAILURES, gathered)
    manifest = {
        **predictions.manifest,
        "status": "complete",
        "num_failures": gathered.num_rows,
        **about,
    }
    rundir.write_json(folder / rundir.MANIFEST, manifest)
    for path in (*parts, *folder.glob(f"{rundir.TMP_PREFIX}*")):
        path.unlink(missing_ok=True)
    return Predictions(folder=folder, manifest=manifest)


def read_results(folder: Path) -> Iterator[Detections]:
    """Every committed result, in the order of the input.

    Raises:
        DataError: the folder holds no predictions.
    """
    parts = sorted(folder.glob(rundir.PART_GLOB))
    if not parts:
        raise DataError(
            "no predictions here", where=str(folder), todo="give a folder of `raymrcnn infer`"
        )
    for path in parts:
        yield from iter_detections(pq.read_table(path), str(path))


def _failed(folder: Path, block: int) -> Path:
    return folder / rundir.failed_name(block)


def _write_table(path: Path, table: pa.Table) -> None:
    rundir.write_atomic(path, lambda tmp: pq.write_table(table, tmp, compression="zstd"))


def _digest(images: Sequence[ImageRef]) -> str:
    digest = hashlib.sha256()
    for ref in images:
        digest.update(f"{ref.image_id}\0{ref.file_name}\n".encode())
    return digest.hexdigest()


def _require_unique(images: Sequence[ImageRef]) -> None:
    seen: set[int] = set()
    for ref in images:
        if ref.image_id in seen:
            raise DataError(f"two images have the id {ref.image_id}", where=ref.file_name)
        seen.add(ref.image_id)


def _require_same(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    others = sorted(
        name
        for name in {*there, *asked}
        if json.dumps(there.get(name)) != json.dumps(asked.get(name))
    )
    if others:
        first = others[0]
        raise OutputError(
            f"holds predictions of another job ({', '.join(others)} differ: {first} was "
            f"{there.get(first)!r} and is {asked.get(first)!r})",
            where=str(folder),
            todo="choose another --out, or give the same options to go on",
        )
