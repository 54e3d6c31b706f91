"""Results that commit, each image exactly once, whatever is killed and started again.

The input is cut into blocks of consecutive images, and block k becomes `part-k.parquet`: on a disk
written under another name and renamed, in an object store one upload. The file is there whole or
not at all. What is left to do is the blocks without a file. A job's fingerprint stands in the
manifest, and another job is refused.

A block's failures are committed beside it, before it, and gathered into one file at the end.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError
from raymrcnn.infer import files
from raymrcnn.infer.inputs import Tables, refs_in
from raymrcnn.infer.spool import require_same_job, take_places, write_spool
from raymrcnn.rows import failures_table, iter_detections, parquet_file, results_table
from raymrcnn.structures import Detections, Failure, ImageRef

FORMAT = 1
# A block is what one commit holds and what a kill can cost: small enough to spread a job over its
# workers, large enough that a million images make few files.
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS, BLOCKS_WANTED = 16, 256, 64

Folder = Path | str  # of predictions: on this machine, or a URI
_PART = re.compile(r"part-(\d+)\.parquet")
_FAILED = re.compile(r"failed-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A predictions folder that was opened for one job."""

    folder: Folder
    manifest: dict[str, Any]

    @property
    def num_images(self) -> int:
        """Images of the whole job."""
        return int(self.manifest["num_images"])

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole job."""
        return -(-self.num_images // int(self.manifest["block_rows"]))

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
        matches = (_PART.fullmatch(name) for name in files.names(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def num_done(self) -> int:
        """Images of the committed blocks."""
        return sum(len(self.rows_of(block)) for block in self.done())

    def failures(self) -> tuple[int, str]:
        """How many images of the committed blocks failed, and the first one's name and reason."""
        failed, done = set(files.matching(self.folder, rundir.FAILED_GLOB)), self.done()
        count, first = 0, ""
        for block in done if failed else []:
            if rundir.failed_name(block) in failed:
                table = files.read_table(files.at(self.folder, rundir.failed_name(block)))
                row = table.slice(0, 1).to_pylist()[0]
                first = first or f"{row['file_name']}: {row['error']}"
                count += table.num_rows
        return count, first

    def rows_of(self, block: int) -> range:
        """The rows of the input that a block is."""
        size = int(self.manifest["block_rows"])
        return range(block * size, min((block + 1) * size, self.num_images))


def open_predictions(
    folder: Folder,
    images: Tables,
    fingerprint: dict[str, Any],
    about: dict[str, Any],
    held: contextlib.ExitStack | None = None,
    *,
    retry_failures: bool = False,
) -> Predictions:
    """Start a job in a folder, or go on with the same job there.

    Args:
        folder: of the predictions.
        images: the input, in order, see `inputs`.
        fingerprint: what decides the results, JSON-ready; the digest of `images` is added.
        about: what else the manifest says, JSON-ready.
        held: keeps other processes out of a folder of this machine until it is closed, unless the
            job there is complete; None: they are kept out while the folder is opened.
        retry_failures: whether the blocks with failed images are to be labelled again.

    Raises:
        OutputError: the folder cannot be written, or holds other files or another job, or another
            process is at work there.
        DataError: two images have one id, or the folder's manifest is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="raymrcnn-images-") as temporary:
        spool = Path(temporary, rundir.IMAGES)
        digest, num_images = write_spool(images, spool)
        asked = {**fingerprint, "images": digest}
        with contextlib.ExitStack() as opening:
            manifest = _manifest_in(folder)
            if manifest is None or manifest["status"] != "complete" or retry_failures:
                if isinstance(folder, Path):
                    rundir.prepare_output(folder)
                    (opening if held is None else held).enter_context(rundir.exclusive(folder))
                manifest = _manifest_in(folder)  # another process may have gone on or ended since
            if manifest is None:
                manifest = _begun(folder, spool, num_images, asked, about)
            else:
                require_same_job(folder, manifest["fingerprint"], asked)
                running = {"status": "running"} if retry_failures else {}
                take_places(folder, spool, {**manifest, **running})
                if retry_failures:  # not before it is known that the images are the same
                    manifest = _without_failures(folder, manifest)
    return Predictions(folder=folder, manifest=manifest)


def _manifest_in(folder: Folder) -> dict[str, Any] | None:
    return read_manifest(folder) if files.exists(files.at(folder, rundir.MANIFEST)) else None


def _begun(
    folder: Folder,
    spool: Path,
    num_images: int,
    fingerprint: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Put the input into an empty folder; the manifest of a new job."""
    if files.matching(folder, rundir.PART_GLOB):
        raise OutputError(
            "holds results without a manifest", where=str(folder), todo="choose another --out"
        )
    storage.upload(spool, files.at(folder, rundir.IMAGES))
    manifest = {
        "format": FORMAT,
        "status": "running",
        "num_images": num_images,
        "block_rows": block_rows(num_images),
        "fingerprint": fingerprint,
        **about,
    }
    storage.write_json(storage.below(folder, rundir.MANIFEST), manifest)
    return manifest


def _without_failures(folder: Folder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Let the blocks with failed images be pending; the manifest of the job, which then is running.

    May be cut and called again: until a block is committed anew its failures stay beside it.
    """
    if manifest["status"] == "complete":
        failures = files.read_table(files.at(folder, rundir.FAILURES))
        if not failures.num_rows:
            return manifest
        ids = image_ids(folder)
        order = np.argsort(ids)
        rows = order[np.searchsorted(ids, failures["image_id"].to_numpy(), sorter=order)]
        blocks = rows // int(manifest["block_rows"])
        for block in np.unique(blocks).tolist():
            of_block = failures.filter(pa.array(blocks == block))
            files.write_table(files.at(folder, rundir.failed_name(block)), of_block)
        manifest = {k: v for k, v in manifest.items() if k != "num_failures"}
        manifest["status"] = "running"
        storage.write_json(storage.below(folder, rundir.MANIFEST), manifest)
    for name in (rundir.FAILURES, rundir.SCORES):  # of what will not be so any more
        files.remove(files.at(folder, name))
    for name in files.matching(folder, rundir.FAILED_GLOB):
        match = _FAILED.fullmatch(name)
        if match:
            files.remove(files.at(folder, rundir.part_name(int(match[1]))))
    return manifest


def block_rows(num_images: int) -> int:
    """Images of a block, of the last one perhaps fewer."""
    return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, -(-num_images // BLOCKS_WANTED)))


def read_manifest(folder: Folder) -> dict[str, Any]:
    """What a predictions folder says of its job.

    Raises:
        DataError: the manifest is missing, damaged, or of another version.
    """
    path = files.at(folder, rundir.MANIFEST)
    manifest = storage.read_json(storage.below(folder, rundir.MANIFEST))
    kinds = {"status": str, "num_images": int, "block_rows": int, "fingerprint": dict}
    if (
        not isinstance(manifest, dict)
        or not all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
        or not isinstance(manifest.get("data") or {}, dict)
    ):
        raise DataError(
            "is not the manifest of predictions",
            where=path,
            todo="give a folder that `raymrcnn infer` wrote",
        )
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"has format {manifest.get('format')!r}, and {FORMAT} is known",
            where=path,
            todo="use the version of raymrcnn that wrote it",
        )
    return manifest


def read_images(folder: Folder, rows: range) -> list[ImageRef]:
    """The input of some rows; of the file, no more than the row groups that hold them are read."""
    with parquet_file(files.at(folder, rundir.IMAGES)) as file:
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, rows.start, side="right"))
        last = int(np.searchsorted(ends, rows.stop - 1, side="right"))
        table = file.read_row_groups(list(range(first, last + 1)))
    before = int(ends[first]) - sizes[first]
    return refs_in(table.slice(rows.start - before, len(rows)))


def image_ids(folder: Folder) -> npt.NDArray[np.int64]:
    """The ids of all images of the job, int64, in order.

    Raises:
        DataError: the list of images is missing or damaged.
    """
    with parquet_file(files.at(folder, rundir.IMAGES)) as file:
        return file.read(columns=["image_id"]).column("image_id").to_numpy()  # type: ignore[no-any-return]


def part_place(folder: Folder, block: int) -> Folder:
    """Where the results of a block lie."""
    return storage.below(folder, rundir.part_name(block))


def commit_block(
    folder: Folder, block: int, detections: Sequence[Detections], failures: Sequence[Failure]
) -> None:
    """Write the results of one block; the block counts once this returns, and not before.

    What is committed stays as it is: where two processes label a block, the first one counts.

    Raises:
        OutputError: the disk refuses.
    """
    part = files.at(folder, rundir.part_name(block))
    if files.exists(part):
        return
    # First the failures: the results file is the mark that both are there.
    failed = files.at(folder, rundir.failed_name(block))
    if failures:
        files.write_table(failed, failures_table(failures))
    else:
        files.remove(failed)
    files.write_table(part, results_table(detections))


def read_results(folder: Folder) -> Iterator[Detections]:
    """Every committed result, in the order of the input.

    Raises:
        DataError: the folder holds no predictions, or a file of them is damaged.
    """
    parts = files.matching(folder, rundir.PART_GLOB)
    if not parts:
        raise DataError(
            "no predictions here", where=str(folder), todo="give a folder of `raymrcnn infer`"
        )
    for name in parts:
        path = files.at(folder, name)
        yield from iter_detections(files.read_table(path), path)
