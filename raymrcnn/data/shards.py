"""A split as a few large files: parquet shards of image bytes, with a manifest that seals them.

    ROOT/annotations/instances_SPLIT.json   as it was
    ROOT/SPLIT/shard-00000.parquet ...      image_id, file_name, width, height, bytes
    ROOT/SPLIT/index.parquet                image_id, shard, offset, length
    ROOT/SPLIT/shards.json                  names, sizes, SHA-256, counts; written last

Any parquet reader opens the shards. The bytes are stored as they are, so that one image is also a
range of its shard: training reads single images in random order, from a disk or over the network.
Nothing is decoded here and nothing recompressed.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymrcnn import rundir, storage
from raymrcnn.data.coco import CocoIndex, annotation_file
from raymrcnn.data.images import resolve_image
from raymrcnn.errors import DataError, OutputError

MANIFEST = "shards.json"
INDEX = "index.parquet"
FORMAT = 1
ROW_GROUP_BYTES = 8 << 20  # what a reader of rows holds at once

_Ints = npt.NDArray[np.int64]
_ROWS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("bytes", pa.binary(), nullable=False),
    ]
)


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One shard as the manifest has it."""

    name: str
    bytes: int
    sha256: str
    num_images: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a sharded split holds."""

    format: int
    split: str
    annotations: str  # SHA-256 of the annotation file
    num_images: int
    shards: tuple[Shard, ...]
    index_sha256: str

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """What was written, or was there."""

    root: str
    split: str
    num_images: int
    num_shards: int
    bytes: int
    reused: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """One committed shard, and where its images lie in it."""

    shard: Shard
    image_ids: list[int]
    offsets: list[int]
    lengths: list[int]


def read_manifest(root: str, split: str) -> Manifest | None:
    """The manifest of a sharded split; None where the split is no sharded one.

    Args:
        root: of the data set, a path or a URI.
        split: name of the split.

    Raises:
        DataError: the manifest is damaged or of another version, or the storage does not answer.
    """
    uri = storage.join(root, split, MANIFEST)
    if storage.size(uri) is None:
        return None
    try:
        manifest = msgspec.json.decode(storage.read(uri), type=Manifest)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"is not a manifest of shards ({error})", where=uri, todo="write the shards again"
        ) from None
    if manifest.format != FORMAT:
        raise DataError(
            f"is of format {manifest.format}, and this version reads {FORMAT}",
            where=uri,
            todo="write the shards again, or use the version that wrote them",
        )
    return manifest


def read_index(root: str, split: str, manifest: Manifest) -> tuple[_Ints, _Ints]:
    """Where the images lie.

    Returns:
        Image ids, int64 [num_images], ascending; and int64 [num_images, 3]: the number of the
        shard, the first byte in it, and how many bytes.

    Raises:
        DataError: the index is damaged or not the manifest's.
    """
    uri = storage.join(root, split, INDEX)
    data = storage.read(uri)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise DataError("is damaged, or of another manifest", where=uri, todo="copy it again")
    table = pq.read_table(pa.BufferReader(data))
    columns = [table[name].to_numpy().astype(np.int64) for name in ("shard", "offset", "length")]
    ids = table["image_id"].to_numpy().astype(np.int64)
    order = np.argsort(ids, kind="stable")
    return ids[order], np.stack(columns, axis=1)[order]


def write_shards(
    data_root: Path,
    split: str,
    out: str,
    shard_bytes: int,
    progress: Callable[[int, int], object] | None = None,
) -> ShardSummary:
    """Write a split as shards; does nothing where they are there.

    Args:
        data_root: of the COCO data set.
        split: name of the split.
        out: root of the new data set, an absolute path or a URI.
        shard_bytes: a shard ends with the image that reaches this.
        progress: told the images done and all images, now and then.

    Raises:
        DataError: the split cannot be read, or an image file is missing or empty.
        OutputError: `out` refuses, or holds shards of other annotations.
    """
    source = annotation_file(data_root, split)
    index = CocoIndex.open(source)
    there = read_manifest(out, split)
    if there is not None:
        if there.annotations != index.fingerprint:
            raise OutputError(
                f"there are shards of other annotations of {split} already",
                where=out,
                todo="choose another --out",
            )
        return _summary(out, there, reused=True)
    if not storage.is_uri(out):
        rundir.prepare_output(Path(out) / split)
    chunks: list[_Chunk] = []
    for images in _batches(index, data_root, split, shard_bytes, progress):
        chunks.append(_write_shard(images, storage.join(out, split, _shard_name(len(chunks)))))
    index_bytes = _index_bytes(chunks)
    storage.upload(source, storage.join(out, "annotations", f"instances_{split}.json"))
    storage.write(storage.join(out, split, INDEX), index_bytes)
    manifest = Manifest(
        format=FORMAT,
        split=split,
        annotations=index.fingerprint,
        num_images=index.num_images,
        shards=tuple(chunk.shard for chunk in chunks),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
    )
    text = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    storage.write(storage.join(out, split, MANIFEST), text)
    return _summary(out, manifest, reused=False)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _summary(out: str, manifest: Manifest, *, reused: bool) -> ShardSummary:
    return ShardSummary(
        root=out,
        split=manifest.split,
        num_images=manifest.num_images,
        num_shards=len(manifest.shards),
        bytes=manifest.bytes,
        reused=reused,
    )


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


_Rows = list[tuple[int, str, int, int, bytes]]


def _batches(
    index: CocoIndex,
    root: Path,
    split: str,
    shard_bytes: int,
    progress: Callable[[int, int], object] | None,
) -> Iterator[_Rows]:
    """The images of each shard, in the order of the annotation file."""
    rows: _Rows = []
    held = 0
    for i in range(index.num_images):
        name = index.file_name(i)
        path = resolve_image(root, split, name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _bad_image(path, f"cannot read the image ({error.strerror})") from None
        if not data:
            raise _bad_image(path, "the image file is empty")
        size = int(index.widths[i]), int(index.heights[i])
        rows.append((int(index.image_ids[i]), name, *size, data))
        held += len(data)
        if held >= shard_bytes or i + 1 == index.num_images:
            yield rows
            rows, held = [], 0
        if progress and ((i + 1) % 100 == 0 or i + 1 == index.num_images):
            progress(i + 1, index.num_images)


def _bad_image(path: Path, what: str) -> DataError:
    return DataError(what, where=str(path), todo="`raymrcnn data verify` lists all such images")


def _write_shard(rows: _Rows, uri: str) -> _Chunk:
    """Write one shard beside its place or, for a URI, in a temporary folder; then commit it."""
    with tempfile.TemporaryDirectory(prefix="raymrcnn-shard-") as folder:
        local = Path(folder, "shard.parquet")
        with rundir.disk_errors(folder):
            _write_rows(local, rows)
            offsets = _offsets(local, [row[4] for row in rows])
        storage.upload(local, uri)
        digest, size = sha256_of(local), local.stat().st_size
    if storage.size(uri) != size:
        raise OutputError("the storage kept another size than was written", where=uri)
    name = uri.partition("?")[0].rpartition("/")[2]
    return _Chunk(
        shard=Shard(name=name, bytes=size, sha256=digest, num_images=len(rows)),
        image_ids=[row[0] for row in rows],
        offsets=offsets,
        lengths=[len(row[4]) for row in rows],
    )


def _write_rows(path: Path, rows: _Rows) -> None:
    with pq.ParquetWriter(
        path, _ROWS, compression="none", use_dictionary=False, write_statistics=["image_id"]
    ) as writer:
        group: _Rows = []
        held = 0
        for k, row in enumerate(rows):
            group.append(row)
            held += len(row[4])
            if held >= ROW_GROUP_BYTES or k + 1 == len(rows):
                columns = [list(column) for column in zip(*group, strict=True)]
                writer.write_table(pa.table(columns, schema=_ROWS))
                group, held = [], 0


def _offsets(path: Path, images: list[bytes]) -> list[int]:
    """Where each image begins: found in the file, so that no detail of the format is assumed."""
    found, at = [], 0
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for data in images:
            at = view.find(data, at)
            assert at >= 0, "parquet stores binary values as they are where nothing compresses them"
            found.append(at)
            at += len(data)
    return found


def _index_bytes(chunks: list[_Chunk]) -> bytes:
    table = pa.table(
        {
            "image_id": pa.array([k for c in chunks for k in c.image_ids], pa.int64()),
            "shard": pa.array([n for n, c in enumerate(chunks) for _ in c.image_ids], pa.int32()),
            "offset": pa.array([k for c in chunks for k in c.offsets], pa.int64()),
            "length": pa.array([k for c in chunks for k in c.lengths], pa.int64()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
