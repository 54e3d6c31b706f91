"""Shards hold the split to the byte, are refused when damaged, and are cached once a node."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from s3 import BUCKET, s3_server

from raymrcnn import storage
from raymrcnn.config import DataConfig
from raymrcnn.data import shard_cache
from raymrcnn.data.dataset import TrainDataset
from raymrcnn.data.shards import Shard, read_manifest, write_shards
from raymrcnn.data.store import FolderImages, ShardedImages, open_dataset
from raymrcnn.data.verify import verify
from raymrcnn.errors import ConfigError, DataError, OutputError

SPLIT = "train2017"
SMALL = 40_000  # bytes of a shard: several shards from 32 small images


@pytest.fixture(scope="module")
def sharded(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded") / "root"
    summary = write_shards(made_up, SPLIT, str(root), SMALL)
    assert summary.num_images == 32
    assert summary.num_shards > 2
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMRCNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread goes on fetching into the next test's cache."""
    monkeypatch.setattr(shard_cache.Fetcher, "ask", lambda self, uri, shard: None)


def copy_of(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def cached(cache: Path) -> set[str]:
    return {path.stem for path in cache.glob("*.parquet")}


def manifest_of(root: Path | str) -> list[Shard]:
    manifest = read_manifest(str(root), SPLIT)
    assert manifest is not None
    return list(manifest.shards)


def test_every_image_is_in_the_shards_to_the_byte(made_up: Path, sharded: Path) -> None:
    index, images = open_dataset(sharded, SPLIT)
    for i in range(index.num_images):
        name = index.file_name(i)
        there = images.read(int(index.image_ids[i]), name)
        assert there == (made_up / SPLIT / name).read_bytes()


def test_any_parquet_reader_opens_the_shards(made_up: Path, sharded: Path) -> None:
    paths = sorted(sharded.glob(f"{SPLIT}/shard-*"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    index, _ = open_dataset(made_up, SPLIT)
    assert [row["image_id"] for row in rows] == index.image_ids.tolist()
    assert rows[3]["bytes"] == (made_up / SPLIT / rows[3]["file_name"]).read_bytes()
    assert (rows[3]["width"], rows[3]["height"]) == (index.widths[3], index.heights[3])


def test_training_samples_from_shards_are_those_from_the_folder(
    made_up: Path, sharded: Path
) -> None:
    config = DataConfig(flip_prob=0.5)
    ours, theirs = (
        TrainDataset(*open_dataset(root, SPLIT), config, 0) for root in (sharded, made_up)
    )
    for k in (0, 5, 31):
        (image, target), (other, expected) = ours[k, 1], theirs[k, 1]
        assert torch.equal(image, other)
        assert torch.equal(target.boxes, expected.boxes)


def test_writing_again_says_that_they_are_there(made_up: Path, sharded: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sharded.rglob("*")}
    assert write_shards(made_up, SPLIT, str(sharded), SMALL).reused
    assert {path: path.stat().st_mtime_ns for path in sharded.rglob("*")} == before


def test_shards_of_other_annotations_are_not_written_over(
    made_up: Path, sharded: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(made_up, tmp_path / "other"))
    path = other / f"annotations/instances_{SPLIT}.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(OutputError, match="shards of other annotations of train2017 already"):
        write_shards(other, SPLIT, str(sharded), SMALL)


def test_a_write_that_was_cut_is_no_data_set_and_is_written_again(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = storage.upload

    def cut(source: Path, uri: str) -> None:
        if uri.endswith("shard-00001.parquet"):
            raise KeyboardInterrupt
        real(source, uri)

    monkeypatch.setattr(storage, "upload", cut)
    with pytest.raises(KeyboardInterrupt):
        write_shards(made_up, SPLIT, str(out), SMALL)
    with pytest.raises(DataError):
        open_dataset(out, SPLIT)
    monkeypatch.undo()
    assert not write_shards(made_up, SPLIT, str(out), SMALL).reused
    assert isinstance(open_dataset(out, SPLIT)[1], ShardedImages)


def test_an_image_that_is_missing_is_named_and_nothing_is_committed(
    made_up: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(made_up, tmp_path / "holed"))
    gone = sorted((root / SPLIT).iterdir())[7]
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name}: cannot read the image"):
        write_shards(root, SPLIT, str(tmp_path / "out"), SMALL)
    assert read_manifest(str(tmp_path / "out"), SPLIT) is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("shards.json", lambda text: text[:-40], "is not a manifest of shards"),
        ("shards.json", lambda text: text.replace(b'"format": 1', b'"format": 9'), "of format 9"),
        ("index.parquet", lambda data: data[:-1] + b"x", "is damaged, or of another manifest"),
        ("../annotations/instances_train2017.json", lambda t: t + b" ", "with other annotations"),
    ],
)
def test_damage_is_found_when_the_data_set_is_opened(
    sharded: Path, tmp_path: Path, name: str, change: object, message: str
) -> None:
    root = copy_of(sharded, tmp_path)
    path = root / SPLIT / name
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_dataset(root, SPLIT)


def test_a_shard_that_was_cut_short_is_named(sharded: Path, tmp_path: Path) -> None:
    root = copy_of(sharded, tmp_path)
    index, images = open_dataset(root, SPLIT)
    os.truncate(root / SPLIT / "shard-00000.parquet", 100)
    with pytest.raises(DataError, match=r"shard-00000.parquet: the shard is cut short"):
        images.read(int(index.image_ids[0]), index.file_name(0))


def test_images_that_are_in_no_shard_are_counted(sharded: Path, made_up: Path) -> None:
    _, images = open_dataset(sharded, SPLIT)
    other, _ = open_dataset(made_up, "val2017")
    with pytest.raises(DataError, match=r"8 of 8 images are in no shard"):
        images.check(other)
    with pytest.raises(DataError, match=r"image 123456 \(a.jpg\) is in no shard"):
        images.read(123456, "a.jpg")


@pytest.mark.usefixtures("nothing_is_fetched")
def test_verify_looks_into_shards(sharded: Path) -> None:
    assert verify(sharded, SPLIT).ok
    assert verify(sharded.as_uri(), SPLIT).num_images == 32


def test_remote_shards_are_brought_here_while_they_are_read(sharded: Path, cache: Path) -> None:
    index, images = open_dataset(sharded.as_uri(), SPLIT)
    _, here = open_dataset(sharded, SPLIT)
    names = {shard.sha256 for shard in manifest_of(sharded)}
    assert not cached(cache)
    end = time.monotonic() + 30
    while cached(cache) != names:  # each round reads from afar or from here, whatever is there
        for i in range(index.num_images):
            data = images.read(int(index.image_ids[i]), index.file_name(i))
            assert data == here.read(int(index.image_ids[i]), "")
        assert time.monotonic() < end
    for shard in manifest_of(sharded):
        there = (sharded / SPLIT / shard.name).read_bytes()
        assert (cache / f"{shard.sha256}.parquet").read_bytes() == there


def _fetch_all(root: str, log: str, barrier: object) -> None:
    real = storage.download

    def counted(uri: str, target: Path) -> None:
        with open(log, "a") as stream:
            stream.write(uri + "\n")
        time.sleep(0.05)
        real(uri, target)

    storage.download = counted  # type: ignore[assignment]
    shards = manifest_of(root)
    ours = frozenset(shard.sha256 for shard in shards)
    barrier.wait()  # type: ignore[attr-defined]
    while any(shard_cache.kept(shard) is None for shard in shards):
        for shard in shards:
            shard_cache.fetch(storage.join(root, SPLIT, shard.name), shard, ours)


def test_eight_workers_fetch_each_shard_once(sharded: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    workers = [
        context.Process(target=_fetch_all, args=(sharded.as_uri(), str(log), barrier))
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    fetched = log.read_text().split()
    assert len(fetched) == len(set(fetched)) == len(manifest_of(sharded))


@pytest.mark.usefixtures("nothing_is_fetched")
def test_the_limit_holds_and_own_shards_do_not_push_each_other_out(
    sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = manifest_of(sharded)
    limit = sum(shard.bytes for shard in shards[:2]) + 10
    monkeypatch.setenv("RAYMRCNN_CACHE_GIB", str(limit / 2**30))
    ours = frozenset(shard.sha256 for shard in shards)
    for shard in shards:
        shard_cache.fetch(storage.join(sharded.as_uri(), SPLIT, shard.name), shard, ours)
    assert cached(cache) == {shard.sha256 for shard in shards[:2]}
    index, images = open_dataset(sharded.as_uri(), SPLIT)
    for i in range(index.num_images):  # the rest is read from afar
        assert images.read(int(index.image_ids[i]), index.file_name(i))


def test_longest_unused_shards_of_others_make_room(
    sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = manifest_of(sharded)[:3]
    monkeypatch.setenv("RAYMRCNN_CACHE_GIB", str((sum(s.bytes for s in shards) - 1) / 2**30))
    for age, shard in enumerate(shards[:2]):
        shard_cache.fetch(storage.join(sharded.as_uri(), SPLIT, shard.name), shard, frozenset())
        os.utime(cache / f"{shard.sha256}.parquet", (1000 + age, 1000 + age))
    mine = frozenset({shards[2].sha256})
    shard_cache.fetch(storage.join(sharded.as_uri(), SPLIT, shards[2].name), shards[2], mine)
    assert cached(cache) == {shards[1].sha256, shards[2].sha256}


def test_what_a_killed_process_left_is_swept_and_does_not_count(
    sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = manifest_of(sharded)[0]
    cache.mkdir()
    orphan = cache / ".tmp-of-a-killed-one"
    orphan.write_bytes(b"x" * shard.bytes)
    monkeypatch.setenv("RAYMRCNN_CACHE_GIB", str((shard.bytes + 10) / 2**30))
    uri = storage.join(sharded.as_uri(), SPLIT, shard.name)
    assert shard_cache.fetch(uri, shard, frozenset({shard.sha256}))
    assert not orphan.exists()


def test_a_shard_that_is_not_the_manifests_is_refused(sharded: Path, tmp_path: Path) -> None:
    root = copy_of(sharded, tmp_path)
    shard = manifest_of(root)[0]
    path = root / SPLIT / shard.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not what its manifest says"):
        shard_cache.fetch(path.as_uri(), shard, frozenset())
    assert not cached(tmp_path / "cache")


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("many", "-1", "inf", "nan"):
        monkeypatch.setenv("RAYMRCNN_CACHE_GIB", text)
        with pytest.raises(ConfigError, match=f"RAYMRCNN_CACHE_GIB: '{text}' is not a number"):
            shard_cache.limit_bytes()


def test_a_uri_without_shards_says_how_to_write_them(made_up: Path) -> None:
    with pytest.raises(DataError, match=r"no train2017/shards.json there; `raymrcnn data shard"):
        open_dataset(made_up.as_uri(), SPLIT)


@pytest.mark.usefixtures("nothing_is_fetched")
def test_shards_in_an_object_store(made_up: Path, cache: Path) -> None:
    with s3_server() as query:
        root = f"s3://{BUCKET}/sets/made-up?{query}"
        assert write_shards(made_up, SPLIT, root, SMALL).num_shards > 2
        assert write_shards(made_up, SPLIT, root, SMALL).reused
        index, images = open_dataset(root, SPLIT)
        folder = FolderImages(made_up, SPLIT)
        for i in (0, 9, 31):
            arguments = int(index.image_ids[i]), index.file_name(i)
            assert images.read(*arguments) == folder.read(*arguments).read_bytes()
        manifest = storage.read(storage.join(root, SPLIT, "shards.json"))
        assert json.loads(manifest)["num_images"] == 32
        with pytest.raises(DataError, match=r"no nowhere/shards.json there"):
            open_dataset(root, "nowhere")
