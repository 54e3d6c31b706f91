"""Images in tars, parquet files and behind URIs come out as the single files do."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3 import BUCKET, s3_server

from raymrcnn import storage
from raymrcnn.data import fetch as fetch_module
from raymrcnn.data.fetch import Fetcher
from raymrcnn.data.images import decode_image
from raymrcnn.data.shards import write_shards
from raymrcnn.data.store import open_dataset
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.infer.inputs import ROWS_AT_ONCE, refs_in
from raymrcnn.infer.sink import image_ids, open_predictions, read_images
from raymrcnn.infer.sources import images_named, images_of_split
from raymrcnn.structures import ImageRef


def listed(patterns: Sequence[str], limit: int = 0) -> list[ImageRef]:
    return [ref for table in images_named(patterns, limit) for ref in refs_in(table)]


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3 + value, 2), (value, 0, 0)).save(stream, "png")
    return stream.getvalue()


def value_of(ref: ImageRef) -> int:
    pixels = decode_image(Fetcher()(ref))
    assert pixels.shape == (3, 2, 3 + int(pixels[0, 0, 0]))
    return int(pixels[0, 0, 0])


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_rows(path: Path, group_rows: int = 2, /, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return path


# Tars


def test_webdataset_tars_give_their_images_in_order(tmp_path: Path) -> None:
    for shard in range(2):
        members = {}
        for k in range(3):
            members[f"{k:03d}.json"] = b"{}"
            members[f"{k:03d}.PNG"] = png(10 * shard + k)
            members[f"{k:03d}.cls"] = b"7"
        write_tar(tmp_path / f"train-{shard:05d}.tar", members)
    for patterns in (
        [str(tmp_path)],
        [f"{tmp_path}/train-*.tar"],
        [str(tmp_path / "train-00001.tar"), str(tmp_path / "train-00000.tar")],
    ):
        refs = listed(patterns)
        assert [ref.image_id for ref in refs] == [1, 2, 3, 4, 5, 6]
        assert refs[4].file_name == "train-00001.tar/001.PNG"
        assert [value_of(ref) for ref in refs] == [0, 1, 2, 10, 11, 12]
    assert listed([str(tmp_path)], 4) == listed([str(tmp_path)])[:4]


def test_long_names_links_and_empty_members_of_a_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x" * 200 + "/é.png": png(5), "empty.png": b""})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "empty.png"
        tar.addfile(link)
    refs = listed([str(path)])
    assert [ref.file_name for ref in refs] == [f"a.tar/{'x' * 200}/é.png", "a.tar/empty.png"]
    assert value_of(refs[0]) == 5
    with pytest.raises(DataError, match="empty"):
        decode_image(Fetcher()(refs[1]))


def test_tars_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes()
    (tmp_path / "packed.tar").write_bytes(gzip.compress(good))
    (tmp_path / "cut.tar").write_bytes(good[:1100])
    (tmp_path / "none.tar").write_bytes(b"")
    write_tar(tmp_path / "text.tar", {"a.txt": b"hello"})
    for name, said in (
        ("packed", "cannot read the tar"),
        ("cut", "cannot read the tar"),
        ("none", "cannot read the tar"),
        ("text", "no image is in it"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.tar: {said}") as caught:
            listed([str(tmp_path / f"{name}.tar")])
        assert "\n" not in str(caught.value)


# Parquet


def test_parquet_files_with_bytes_places_or_structs(tmp_path: Path) -> None:
    for k in range(5):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    images = [png(k) for k in range(5)]
    ids = [50, 40, 30, 20, 10]
    cases = {
        "bytes": {"image_id": ids, "bytes": images, "file_name": [f"{k}.png" for k in range(5)]},
        "struct": {"image": [{"bytes": one, "path": "x"} for one in images]},
        "places": {"uri": [f"{k}.png" for k in range(5)], "caption": ["a"] * 5},
        "paths": {"path": [str(tmp_path / f"{k}.png") for k in range(5)]},
        "named": {"jpg": images, "key": list("abcde")},
    }
    for name, columns in cases.items():
        path = write_rows(tmp_path / f"{name}.parquet", **columns)
        refs = listed([str(path)])
        assert [value_of(ref) for ref in refs] == [0, 1, 2, 3, 4]
        assert [ref.image_id for ref in refs] == (ids if name == "bytes" else [1, 2, 3, 4, 5])
    assert [ref.file_name for ref in listed([str(tmp_path / "named.parquet")])] == list("abcde")
    assert listed([str(tmp_path / "struct.parquet")])[3].file_name == "struct.parquet/3"


def test_shards_that_raymrcnn_wrote_are_read(made_up: Path, tmp_path: Path) -> None:
    write_shards(made_up, "val2017", str(tmp_path), 20_000)
    index, store = open_dataset(made_up, "val2017")
    refs = listed([f"{tmp_path}/val2017/shard-*.parquet"])
    assert [ref.image_id for ref in refs] == index.image_ids.tolist()
    for ref in refs:
        theirs = decode_image(store.read(ref.image_id, ref.file_name))
        assert (decode_image(Fetcher()(ref)) == theirs).all()
    sharded, store = open_dataset(tmp_path, "val2017")
    tables = images_of_split(sharded, None, "val2017")
    for ref in (ref for table in tables for ref in refs_in(table)):
        assert (decode_image(Fetcher(store)(ref)) == decode_image(Fetcher()(refs.pop(0)))).all()


def test_a_row_group_is_read_once_by_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.parquet", 8, bytes=[png(k) for k in range(32)])
    reads: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        reads.append(group)
        return read(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(value_of, listed([str(path)]))) == list(range(32))
    assert sorted(reads) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"caption": ["a"]}, "no column of images among caption"),
        ({"bytes": [b"a", b"b"], "image_id": [1, 1]}, "two images have the id 1"),
        ({"bytes": [b"a", b"b"], "image_id": [1, None]}, "an image_id is missing"),
        (
            {"bytes": [b"a"], "image_id": np.array([2**63 + 1], np.uint64)},
            r"a.parquet: cannot read .*range",
        ),
        ({"uri": pa.array([], pa.string())}, "the input has no image"),
    ],
)
def test_parquet_files_without_what_is_needed_are_one_line(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    path = write_rows(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=said) as caught:
        open_predictions(tmp_path / "out", images_named([str(path)]), {}, {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_parquet_file_and_mixtures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="a.parquet: cannot read the parquet file"):
        listed([str(tmp_path)])
    good = write_rows(tmp_path / "a.parquet", bytes=[png(1)])
    (tmp_path / "b.png").write_bytes(png(2))
    write_tar(tmp_path / "c.tar", {"c.png": png(3)})
    with pytest.raises(DataError, match="images and shards cannot be one job"):
        listed([str(good), str(tmp_path / "b.png")])
    with pytest.raises(DataError, match="tars and parquet files cannot be one job"):
        listed([str(good), str(tmp_path / "c.tar")])
    assert [ref.file_name for ref in listed([str(tmp_path)])] == ["b.png"]  # images come first


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", 9, uri=[f"/{k}.jpg" for k in range(9)])
    data = bytearray(path.read_bytes())
    data[4:40] = b"\xff" * 36  # the footer stays sound
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(DataError, match=r"a.parquet: cannot read the parquet file"):
            open_predictions(tmp_path / "out", images_named([str(path)]), {}, {})


def test_a_million_rows_are_listed_in_seconds_and_a_block_in_milliseconds(tmp_path: Path) -> None:
    num_rows = 1_000_000
    names = pa.array([f"/data/{k:07d}.jpg" for k in range(num_rows)])
    pq.write_table(pa.table({"uri": names}), tmp_path / "images.parquet")
    began = time.process_time()
    job = open_predictions(
        tmp_path / "out", images_named([str(tmp_path / "images.parquet")]), {}, {}
    )
    opened_s = time.process_time() - began
    began = time.process_time()
    for block in (0, 1953, 3906):
        refs = read_images(job.folder, job.rows_of(block))
        assert refs[0].uri == f"/data/{job.rows_of(block).start:07d}.jpg"
    assert np.array_equal(image_ids(job.folder), np.arange(1, num_rows + 1))
    assert opened_s < 20
    assert (time.process_time() - began) / 3 < 0.5
    assert pq.read_metadata(tmp_path / "out/images.parquet").num_row_groups == -(
        -num_rows // ROWS_AT_ONCE
    )


# URIs


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Images, tars and parquet files in an object store; the URI of the folder and its query."""
    here = tmp_path_factory.mktemp("bucket")
    with s3_server() as query:
        base = f"s3://{BUCKET}/set"
        for k in range(3):
            storage.write(f"{base}/photos/{k} é.png?{query}", png(k))
        storage.write(f"{base}/photos/deep/9.png?{query}", png(9))
        storage.write(f"{base}/photos/notes.md?{query}", b"x")
        storage.write(f"{base}/odd/img[1].png?{query}", png(40))
        storage.write(f"{base}/odd/z/img1.png?{query}", png(41))
        for name in ("manifest.json", "images.parquet", "part-0.parquet", "overlays/0.png"):
            storage.write(f"{base}/odd/labels/{name}?{query}", png(50))  # no input
        tar = write_tar(here / "a.tar", {"a.png": png(20), "b.png": png(21)})
        storage.upload(tar, f"{base}/tars/a.tar?{query}")
        rows = write_rows(here / "a.parquet", bytes=[png(30), png(31), png(32)])
        storage.upload(rows, f"{base}/rows/a.parquet?{query}")
        lines = f"photos/2 é.png\n{base}/photos/0 é.png?{query}\n"
        storage.write(f"{base}/list.txt?{query}", lines.encode())
        yield base, query


@pytest.mark.parametrize(
    ("below", "values"),
    [
        ("/photos", [0, 1, 2, 9]),
        ("/photos/*.png", [0, 1, 2]),  # as on a disk: of the folder, and
        ("/photos/**/*.png", [0, 1, 2, 9]),  # of it and those below
        ("/*/*.png", [40, 0, 1, 2]),
        ("/photos/**/[0-9].png", [9]),
        ("/odd/img[1].png", [40]),  # a file of that name comes first
        ("/odd", [40, 41]),
        ("/odd/**/*.png", [40, 41]),
        ("/photos/1*.png", [1]),
        ("/photos/1 é.png", [1]),
        ("/list.txt", [0, 2]),
        ("/tars", [20, 21]),
        ("/tars/a.tar", [20, 21]),
        ("/rows/*.parquet", [30, 31, 32]),
    ],
)
def test_images_behind_a_uri_are_found_and_read(
    bucket: tuple[str, str], below: str, values: list[int]
) -> None:
    base, query = bucket
    assert [value_of(ref) for ref in listed([f"{base}{below}?{query}"])] == values


def test_uris_without_images_say_so(bucket: tuple[str, str]) -> None:
    base, query = bucket
    with pytest.raises(DataError, match="no image is there"):
        listed([f"{base}/nothing?{query}"])
    with pytest.raises(ConfigError, match="cannot open nfs9://"):
        listed(["nfs9://host/folder"])


def test_a_storage_that_stumbles_is_asked_again(
    bucket: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, query = bucket
    (ref,) = listed([f"{base}/photos/1 é.png?{query}"])
    read, tries = storage.read, []

    def stumbling(uri: str, *where: int) -> bytes:
        tries.append(uri)
        if len(tries) < 3:
            raise DataError("cannot read (503 slow down)", where=uri)
        return read(uri, *where)

    monkeypatch.setattr(storage, "read", stumbling)
    monkeypatch.setattr(fetch_module, "WAIT_S", 0.001)
    assert value_of(ref) == 1
    assert len(tries) == 3
    gone = ImageRef(image_id=1, file_name="x", uri=f"{base}/photos/gone.png?{query}")
    monkeypatch.setattr(storage, "read", read)
    with pytest.raises(DataError, match="no such file"):
        Fetcher()(gone)


@pytest.mark.parametrize(
    "uri", ["https://host/a.jpg", "nothing://host/a.jpg", "s3:/bucket/a.jpg", "/tmp/a\0.parquet"]
)
def test_a_place_that_no_storage_knows_fails_its_image_alone(uri: str) -> None:
    ref = ImageRef(image_id=1, file_name="a", uri=uri, row=0 if "parquet" in uri else -1)
    with pytest.raises(DataError):
        Fetcher()(ref)


def test_large_row_groups_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"image_id": range(8), "bytes": [bytes([k]) * 1000 for k in range(8)]})
    pq.write_table(table, path, row_group_size=1)
    refs = [ImageRef(image_id=k, file_name="a", uri=str(path), row=k) for k in range(8)]
    read: list[int] = []
    read_group = fetch_module._read_group
    monkeypatch.setattr(
        fetch_module, "_read_group", lambda uri, k: (read.append(k), read_group(uri, k))[1]
    )
    for limit, kept in ((10**6, (7, 6, 5, 4)), (2500, (7, 6)), (10, (7, 6))):
        monkeypatch.setattr(fetch_module, "_groups", fetch_module._Groups())
        monkeypatch.setattr(fetch_module, "_MOST_GROUP_BYTES", limit)
        for ref in refs:
            assert Fetcher()(ref) == bytes([ref.row]) * 1000
        read.clear()
        for row in kept:
            Fetcher()(refs[row])
        assert read == [], "these are kept"
        Fetcher()(refs[kept[-1] - 1])
        assert read == [kept[-1] - 1], "and no others"


def test_a_million_local_names_need_no_search_of_the_disk(made_up: Path) -> None:
    """Each image of a split is looked up in a listing, not by up to four questions to the disk."""
    index, _ = open_dataset(made_up, "val2017")
    asked: list[object] = []
    exists = os.path.exists
    try:
        os.path.exists = lambda path: asked.append(path) or exists(path)  # type: ignore[assignment]
        tables = list(images_of_split(index, made_up, "val2017"))
    finally:
        os.path.exists = exists
    assert sum(table.num_rows for table in tables) == index.num_images
    assert len(asked) < index.num_images
    assert np.all([os.path.isfile(ref.uri) for table in tables for ref in refs_in(table)])
