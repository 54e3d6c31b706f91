"""Each image exactly once in a predictions folder, wherever the work is cut and begun again."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusing_disks import full_disk, read_only_folder
from s3 import BUCKET, s3_server

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError, OutputError, RunError
from raymrcnn.infer import sink
from raymrcnn.infer.export import write_coco_json
from raymrcnn.infer.gather import finish
from raymrcnn.infer.inputs import ROWS_AT_ONCE, tables_of
from raymrcnn.infer.sink import (
    BLOCKS_WANTED,
    MAX_BLOCK_ROWS,
    MIN_BLOCK_ROWS,
    Predictions,
    commit_block,
    image_ids,
    open_predictions,
    read_images,
    read_results,
)
from raymrcnn.structures import Detections, Failure, ImageRef

FINGERPRINT = {"weights": "abc", "dtype": "float32", "limit": 0, "annotations": None}


def refs_of(num_images: int) -> list[ImageRef]:
    return [
        ImageRef(image_id=3 * k + 1, file_name=f"{k}.jpg", uri=f"/data/{k}.jpg", width=k + 1)
        for k in range(num_images)
    ]


def opened(folder: Path, num_images: int = 40, **changes: Any) -> Predictions:
    return open_predictions(
        folder, tables_of(refs_of(num_images)), {**FINGERPRINT, **changes}, {"by": "me"}
    )


def found_in(ref: ImageRef) -> Detections:
    n = ref.image_id % 3
    return Detections(
        image_id=ref.image_id,
        file_name=ref.file_name,
        width=10,
        height=10,
        boxes=np.ones((n, 4), np.float32),
        scores=np.ones(n, np.float32),
        category_ids=np.ones(n, np.int64),
        rles=["0"] * n,
    )


def is_bad(ref: ImageRef) -> bool:
    return ref.image_id % 5 == 0


def commit(predictions: Predictions, block: int) -> None:
    """What a labeler does; every image whose id ends in 5 or 0 fails."""
    refs = read_images(predictions.folder, predictions.rows_of(block))
    failures = [
        Failure(image_id=ref.image_id, file_name=ref.file_name, error="cut short")
        for ref in refs
        if is_bad(ref)
    ]
    good = [found_in(ref) for ref in refs if not is_bad(ref)]
    commit_block(predictions.folder, block, good, failures)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != rundir.LOCK)


def assert_each_image_once(folder: Path, num_images: int) -> None:
    rows = [one.image_id for one in read_results(folder)]
    failures = pq.read_table(folder / rundir.FAILURES).column("image_id").to_pylist()
    expected = [ref.image_id for ref in refs_of(num_images)]
    assert Counter(rows + failures) == Counter(expected)
    assert rows == [k for k in expected if k % 5]  # in the order of the input
    assert failures == [k for k in expected if k % 5 == 0]
    manifest = json.loads((folder / rundir.MANIFEST).read_text())
    assert (manifest["status"], manifest["num_failures"]) == ("complete", len(failures))


# Blocks


@given(num_images=st.integers(1, 100_000))
def test_blocks_cut_the_input_into_pieces_that_fit(num_images: int) -> None:
    size = sink.block_rows(num_images)
    job = Predictions(folder=Path(), manifest={"num_images": num_images, "block_rows": size})
    blocks = [job.rows_of(block) for block in range(job.num_blocks)]
    assert [row for block in blocks for row in block] == list(range(num_images))
    assert all(len(block) == size for block in blocks[:-1])
    assert 1 <= len(blocks[-1]) <= size
    assert MIN_BLOCK_ROWS <= size <= MAX_BLOCK_ROWS
    if size > MIN_BLOCK_ROWS:  # enough of them to share among many workers
        assert len(blocks) > BLOCKS_WANTED / 2


def test_the_input_comes_back_block_by_block(tmp_path: Path) -> None:
    job = opened(tmp_path, 40)
    blocks = [read_images(tmp_path, job.rows_of(block)) for block in range(job.num_blocks)]
    assert len(blocks) == 3
    assert [ref for block in blocks for ref in block] == refs_of(40)
    assert image_ids(tmp_path).tolist() == [ref.image_id for ref in refs_of(40)]


def test_a_block_of_a_large_input_reads_few_rows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_images = 3 * ROWS_AT_ONCE + 5
    job = opened(tmp_path, num_images)
    read: list[int] = []
    whole = pq.ParquetFile.read_row_groups

    def watched(file: pq.ParquetFile, groups: list[int], **options: Any) -> Any:
        table = whole(file, groups, **options)
        read.append(table.num_rows)
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    for rows in (range(5), range(ROWS_AT_ONCE - 3, ROWS_AT_ONCE + 4), job.rows_of(96)):
        assert read_images(tmp_path, rows) == refs_of(num_images)[rows.start : rows.stop]
    assert read == [ROWS_AT_ONCE, 2 * ROWS_AT_ONCE, 5]


def test_an_input_in_small_tables_makes_few_row_groups(tmp_path: Path) -> None:
    refs = refs_of(ROWS_AT_ONCE + 10)
    tables = [table for k in range(0, len(refs), 7) for table in tables_of(refs[k : k + 7])]
    open_predictions(tmp_path, tables, FINGERPRINT, {})
    assert pq.read_metadata(tmp_path / rundir.IMAGES).num_row_groups == 2
    assert open_predictions(tmp_path, tables_of(refs), FINGERPRINT, {}).pending()  # the same job


def test_names_of_parts_sort_like_their_blocks_beyond_a_million() -> None:
    blocks = [0, 9, 10, 999_999, 1_000_000, 10_000_000, 123_456_789]
    for name in (rundir.part_name, rundir.failed_name):
        assert sorted(map(name, reversed(blocks))) == [name(block) for block in blocks]


def test_what_is_committed_is_done_and_the_rest_is_pending(tmp_path: Path) -> None:
    job = opened(tmp_path)
    assert (job.done(), job.pending(), job.complete) == ([], [0, 1, 2], False)
    commit(job, 1)
    assert (job.done(), job.pending()) == ([1], [0, 2])
    again = opened(tmp_path)
    assert (again.done(), again.pending(), again.complete) == ([1], [0, 2], False)
    assert again.manifest == job.manifest
    assert again.manifest["by"] == "me"


def test_a_whole_job_holds_each_image_once_and_nothing_else(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in reversed(job.pending()):
        commit(job, block)
    done = finish(job, {"images_per_s": 5.0})
    assert done.complete
    assert done.manifest["images_per_s"] == 5.0
    assert_each_image_once(tmp_path, 40)
    assert entries(tmp_path) == [
        "failures.parquet", "images.parquet", "manifest.json",
        *(rundir.part_name(block) for block in range(3)),
    ]  # fmt: skip
    assert opened(tmp_path).complete


def test_a_job_without_failures_has_an_empty_list_of_them(tmp_path: Path) -> None:
    job = open_predictions(tmp_path, tables_of(refs_of(1)), {}, {})
    commit(job, 0)
    finish(job, {})
    assert pq.read_table(tmp_path / rundir.FAILURES).num_rows == 0
    assert len(list(read_results(tmp_path))) == 1


# Cuts


class Cut(BaseException):
    """Stands for the end of the process."""


def cut_at(
    monkeypatch: pytest.MonkeyPatch, number: int, names: Sequence[tuple[Any, str]]
) -> Callable[[], bool]:
    """End at the n-th point before or after a call of these; says whether it came to that."""
    passed = [0]

    def point() -> None:
        passed[0] += 1
        if passed[0] == number:
            raise Cut

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            point()
            result = function(*args, **options)
            point()
            return result

        return call

    for owner, name in names:
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: passed[0] >= number


WRITES = ((rundir, "write_atomic"), (Path, "unlink"), (storage, "remove"))


def number_of_cuts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_images: int,
    work: Callable[[Path], object],
    before: Callable[[Path], object] = lambda folder: None,
) -> int:
    """Cut work at each of its writes, and each time see a plain job end with each image once."""
    number, cut = 0, True
    while cut:
        number += 1
        folder = tmp_path / str(number)
        before(folder)
        with monkeypatch.context() as patch:
            was_cut = cut_at(patch, number, WRITES)
            with contextlib.suppress(Cut):
                work(folder)
            cut = was_cut()
        labelled(opened(folder, num_images))
        assert_each_image_once(folder, num_images)
        assert not list(folder.glob(f"{rundir.TMP_PREFIX}*"))
    return number


def test_a_job_may_be_cut_at_each_of_its_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = number_of_cuts(tmp_path, monkeypatch, 17, lambda folder: labelled(opened(folder, 17)))
    assert number > 18  # else the cuts did not come where they should


def test_a_complete_job_may_be_finished_again(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in job.pending():
        commit(job, block)
    finish(job, {})
    finish(opened(tmp_path), {})
    assert_each_image_once(tmp_path, 40)


def asked_to_retry(folder: Path, num_images: int) -> Predictions:
    tables = tables_of(refs_of(num_images))
    return open_predictions(folder, tables, FINGERPRINT, {"by": "me"}, retry_failures=True)


def labelled(job: Predictions) -> Predictions:
    for block in job.pending():
        commit(job, block)
    return finish(job, {})


def test_failed_images_are_labelled_again_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "is_bad", lambda ref: ref.image_id in (1, 100))
    job = opened(tmp_path)
    commit(job, 0)
    assert asked_to_retry(tmp_path, 40).pending() == [0, 1, 2], "also before the job is complete"
    assert labelled(job).manifest["num_failures"] == 2
    (tmp_path / rundir.SCORES).write_text("{}")
    assert opened(tmp_path).complete
    again = asked_to_retry(tmp_path, 40)
    assert again.pending() == [0, 2], "block 1 is whole"
    assert not (tmp_path / rundir.SCORES).exists(), "which would not be of these results"
    assert again.failures() == (0, "")
    monkeypatch.setattr(sys.modules[__name__], "is_bad", lambda ref: False)
    assert labelled(again).manifest["num_failures"] == 0
    assert [one.image_id for one in read_results(tmp_path)] == [r.image_id for r in refs_of(40)]
    assert asked_to_retry(tmp_path, 40).complete, "there is none left"


def test_a_retry_may_be_cut_at_each_of_its_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = number_of_cuts(
        tmp_path,
        monkeypatch,
        20,
        lambda folder: labelled(asked_to_retry(folder, 20)),
        before=lambda folder: labelled(opened(folder, 20)),
    )
    assert number > 18


def test_a_kill_within_a_write_leaves_the_block_to_be_done(tmp_path: Path) -> None:
    job = opened(tmp_path)
    commit(job, 0)
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
import pyarrow.parquet as pq
from test_sink import commit, opened

job = opened(Path({str(tmp_path)!r}))
write = pq.write_table

def half(table, path, **options):
    write(table, path, **options)
    if table.num_columns > 3:  # the results; the failures of the block are committed by now
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

pq.write_table = half
commit(job, 1)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(f"{rundir.TMP_PREFIX}*"))
    job = opened(tmp_path)
    assert job.pending() == [1, 2]
    for block in job.pending():
        commit(job, block)
    finish(job, {})
    assert_each_image_once(tmp_path, 40)
    assert not list(tmp_path.glob(f"{rundir.TMP_PREFIX}*"))


def test_failures_of_a_cut_block_vanish_if_its_images_can_be_read_again(tmp_path: Path) -> None:
    job = open_predictions(tmp_path, tables_of(refs_of(5)), {}, {})
    refs = read_images(tmp_path, job.rows_of(0))
    failure = Failure(image_id=refs[1].image_id, file_name="1.jpg", error="server is down")
    commit_block(tmp_path, 0, [found_in(ref) for ref in refs if ref != refs[1]], [failure])
    (tmp_path / rundir.part_name(0)).unlink()  # as if it was killed before this write
    commit_block(tmp_path, 0, [found_in(ref) for ref in refs], [])
    assert finish(job, {}).manifest["num_failures"] == 0
    assert len(list(read_results(tmp_path))) == 5


def test_a_full_disk_commits_nothing_by_half(tmp_path: Path) -> None:
    job = opened(tmp_path)
    commit(job, 0)
    before = entries(tmp_path)
    with full_disk(300), pytest.raises(OutputError, match="cannot write"):
        commit(job, 1)
    assert entries(tmp_path) == before
    assert job.pending() == [1, 2]


def test_a_job_that_cannot_begin_leaves_no_manifest(tmp_path: Path) -> None:
    with full_disk(300), pytest.raises(OutputError, match="cannot write"):
        opened(tmp_path / "out")
    assert not (tmp_path / "out").exists() or entries(tmp_path / "out") == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        opened(tmp_path / "file" / "out")
    with read_only_folder() as folder, pytest.raises(OutputError, match="cannot write"):
        opened(folder)


def test_damaged_results_are_named_and_can_be_made_again(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in job.pending():
        commit(job, block)
    part = tmp_path / rundir.part_name(1)
    part.write_bytes(part.read_bytes()[:99])
    with pytest.raises(DataError, match=f"{part.name}: cannot be read .*; remove it and run"):
        finish(job, {})
    part.unlink()
    commit(job, 1)
    finish(job, {})
    assert_each_image_once(tmp_path, 40)


# Two processes


def test_a_second_process_learns_of_the_first_before_it_writes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:
        job = open_predictions(tmp_path, tables_of(refs_of(40)), FINGERPRINT, {}, held)
        for num_images in (40, 41):
            with pytest.raises(OutputError, match="another process is at work here"):
                opened(tmp_path, num_images)
        assert read_images(tmp_path, range(40)) == refs_of(40)
        for block in job.pending():
            commit(job, block)
        finish(job, {})
        assert opened(tmp_path).complete  # nothing is left that a lock would be for
    assert_each_image_once(tmp_path, 40)


def test_a_job_that_another_process_finished_stays_as_it_is(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    for block in first.pending():
        commit(first, block)
    finish(first, {"by": "the first"})
    done = finish(second, {"by": "the second"})
    assert (done.complete, done.manifest["by"]) == (True, "the first")
    assert_each_image_once(tmp_path, 40)


def test_of_two_that_label_a_block_the_first_counts(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in job.pending():
        commit(job, block)
    failures = [Failure(image_id=ref.image_id, file_name="", error="") for ref in refs_of(16)]
    commit_block(tmp_path, 0, [], failures)
    finish(job, {})
    assert_each_image_once(tmp_path, 40)


def test_a_block_that_two_wrote_at_once_is_labelled_again(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in job.pending():
        commit(job, block)
    (tmp_path / rundir.failed_name(1)).unlink()  # by the other, which could read all its images
    with pytest.raises(RunError, match="1 of 3 blocks did not hold each image once") as caught:
        finish(job, {})
    assert "run the same command again" in str(caught.value)
    job = opened(tmp_path)
    assert job.pending() == [1]
    commit(job, 1)
    finish(job, {})
    assert_each_image_once(tmp_path, 40)


# Other jobs and what is no job


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "def"}, "weights differ: weights was 'abc' and is 'def'"),
        ({"dtype": "bfloat16", "limit": 3}, "dtype, limit differ: dtype was 'float32'"),
        ({"annotations": "xyz"}, "annotations differ: annotations was None and is 'xyz'"),
        ({"new": True}, "new differ: new was None and is True"),
    ],
)
def test_another_job_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    commit(opened(tmp_path), 0)
    before = entries(tmp_path)
    with pytest.raises(OutputError) as caught:
        opened(tmp_path, **change)
    assert f"holds predictions of another job ({said}" in str(caught.value)
    assert "choose another --out" in str(caught.value)
    assert entries(tmp_path) == before


def test_other_images_are_another_job(tmp_path: Path) -> None:
    opened(tmp_path, 40)
    with pytest.raises(OutputError, match="images differ"):
        opened(tmp_path, 41)
    with pytest.raises(OutputError, match="images differ"):
        open_predictions(tmp_path, tables_of(refs_of(40)[::-1]), FINGERPRINT, {})


def moved(to: str) -> Any:
    """The images of `refs_of` under the same names in another place."""
    return tables_of(ImageRef(**{**vars(ref), "uri": to + ref.uri}) for ref in refs_of(40))


def test_other_images_of_the_same_names_are_another_job(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for _ in range(2):  # begun, and complete
        before = entries(tmp_path)
        for retry in (False, True):
            with pytest.raises(OutputError) as caught:
                open_predictions(
                    tmp_path, moved("/elsewhere"), FINGERPRINT, {}, retry_failures=retry
                )
        assert entries(tmp_path) == before
        assert str(caught.value).startswith(f"{tmp_path}: holds predictions of images of these")
        assert "/data/0.jpg, and not /elsewhere/data/0.jpg; choose" in str(caught.value)
        assert read_images(tmp_path, range(40)) == refs_of(40)
        for block in job.pending():
            commit(job, block)
        finish(job, {})


def test_images_of_an_annotation_file_may_move_and_are_read_where_they_are(tmp_path: Path) -> None:
    fingerprint = {**FINGERPRINT, "annotations": "abc"}
    job = open_predictions(tmp_path, tables_of(refs_of(40)), fingerprint, {})
    commit(job, 0)
    job = open_predictions(tmp_path, moved("/elsewhere"), fingerprint, {})
    assert job.pending() == [1, 2]
    assert read_images(tmp_path, range(1))[0].uri == "/elsewhere/data/0.jpg"
    for block in job.pending():
        commit(job, block)
    finish(job, {})
    assert open_predictions(tmp_path, tables_of(refs_of(40)), fingerprint, {}).complete


def test_another_way_to_the_same_place_is_taken(tmp_path: Path) -> None:
    def asked_at(port: int) -> Any:
        uri = f"s3://bucket/a.jpg?endpoint_override=127.0.0.1:{port}"
        return tables_of([ImageRef(image_id=1, file_name="a.jpg", uri=uri)])

    open_predictions(tmp_path, asked_at(1), FINGERPRINT, {})
    open_predictions(tmp_path, asked_at(2), FINGERPRINT, {})
    assert read_images(tmp_path, range(1))[0].uri.endswith(":2")


def test_an_input_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the input has no image"):
        opened(tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    refs = [*refs_of(3), ImageRef(image_id=4, file_name="again.jpg", uri="")]
    with pytest.raises(DataError, match="again.jpg: two images have the id 4"):
        open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    assert not (tmp_path / "out").exists()


def test_results_without_a_manifest_are_not_written_over(tmp_path: Path) -> None:
    job = opened(tmp_path)
    commit(job, 0)
    (tmp_path / rundir.MANIFEST).unlink()
    with pytest.raises(OutputError, match="results without a manifest"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"status": "run', "is not JSON"),
        ("[]", "is not the manifest of predictions"),
        ('{"status": "running"}', "is not the manifest of predictions"),
        (
            '{"format": 1, "status": "", "num_images": 1, "block_rows": 1, "fingerprint": "a"}',
            "is not the manifest of predictions",
        ),
        (
            '{"format": 1, "status": "", "num_images": 1, "block_rows": 1, "fingerprint": {}, '
            '"data": ["coco"]}',
            "is not the manifest of predictions",
        ),
        (
            '{"format": 9, "status": "", "num_images": 1, "block_rows": 1, "fingerprint": {}}',
            "has format 9, and 1 is known",
        ),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / rundir.MANIFEST).write_text(content)
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / rundir.MANIFEST}: {said}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions here; give a folder of `raymrcnn infer`"):
        list(read_results(tmp_path))


def test_a_file_that_is_missing_damaged_or_another_is_one_line(tmp_path: Path) -> None:
    job = opened(tmp_path)
    for block in job.pending():
        commit(job, block)
    part, images = tmp_path / rundir.part_name(1), tmp_path / rundir.IMAGES

    def said_of(read: Callable[[], object], path: Path) -> None:
        with pytest.raises(DataError, match=r"cannot be read \(.*give a folder") as caught:
            read()
        assert caught.value.where == str(path)

    pq.write_table(pq.read_table(images).drop_columns(["image_id"]), images)
    said_of(lambda: image_ids(tmp_path), images)
    for path in (part, images):
        path.write_bytes(path.read_bytes()[:-20])
    said_of(lambda: list(read_results(tmp_path)), part)
    said_of(lambda: write_coco_json(tmp_path, tmp_path / "coco.json"), part)
    assert not (tmp_path / "coco.json").exists()
    for _ in range(2):  # cut short, then missing
        said_of(lambda: image_ids(tmp_path), images)
        said_of(lambda: read_images(tmp_path, range(3)), images)
        images.unlink(missing_ok=True)


# Object stores


def test_a_folder_behind_a_uri_commits_and_goes_on(tmp_path: Path) -> None:
    with s3_server() as query:
        folder = f"s3://{BUCKET}/out/predictions?{query}"

        def opened_there(num_images: int = 40) -> Predictions:
            return open_predictions(folder, tables_of(refs_of(num_images)), FINGERPRINT, {})

        job = opened_there()
        commit(job, 1)
        assert opened_there().pending() == [0, 2]
        with pytest.raises(OutputError, match="images differ"):
            opened_there(41)
        job = opened_there()
        for block in job.pending():
            commit(job, block)
        assert job.failures()[0] == 8
        assert finish(job, {}).complete
        assert opened_there().complete
        # Another process that was at work there gathers the same, whichever comes last.
        told = storage.read(storage.join(folder, rundir.FAILURES))
        late = dict(job.manifest)
        storage.write(storage.join(folder, rundir.MANIFEST), json.dumps(late).encode())
        assert finish(job, {}).manifest["num_failures"] == 8
        other = {**job.manifest, "fingerprint": {**job.manifest["fingerprint"], "images": "x"}}
        with pytest.raises(OutputError, match="images differ"):
            finish(Predictions(folder=folder, manifest=other), {})
        assert storage.read(storage.join(folder, rundir.FAILURES)) == told
        names = storage.names(folder)
        rows = [one.image_id for one in read_results(folder)]
    assert rows == [ref.image_id for ref in refs_of(40) if not is_bad(ref)]
    assert names == sorted([
        "failures.parquet", "images.parquet", "manifest.json",
        *(rundir.part_name(block) for block in range(3)),
        *(rundir.failed_name(block) for block in range(3)),
    ])  # fmt: skip
