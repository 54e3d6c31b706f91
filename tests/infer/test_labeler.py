"""A block is labelled alike whatever shares its batch, and bad images cost only themselves."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusing_disks import full_disk
from small_weights import small_predictor

from raymrcnn import rundir
from raymrcnn.data.coco import open_split
from raymrcnn.errors import OutputError, RunError
from raymrcnn.infer import labeler as labeler_module
from raymrcnn.infer.gather import finish
from raymrcnn.infer.inputs import refs_in, tables_of
from raymrcnn.infer.labeler import BlockSummary, Decoder, Labeler
from raymrcnn.infer.sink import Predictions, open_predictions, read_results
from raymrcnn.infer.sources import images_named, images_of_split
from raymrcnn.masks import rle_to_bitmap
from raymrcnn.model.predictor import HostDetections, Predictor
from raymrcnn.report.drawn import draw
from raymrcnn.structures import Detections, ImageRef

# An untrained network scores all its boxes alike, and rounding that differs with the size of a
# batch may swap two of them.
SCORE_TOLERANCE, BOX_TOLERANCE_PX = 1e-5, 0.01


def listed(tables: Iterable[pa.Table]) -> list[ImageRef]:
    return [ref for table in tables for ref in refs_in(table)]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return small_predictor()


@pytest.fixture(scope="module")
def val(made_up: Path) -> list[ImageRef]:
    return listed(images_of_split(open_split(made_up, "val2017"), made_up, "val2017"))


def label(
    predictor: Predictor,
    folder: Path,
    refs: Sequence[ImageRef],
    batch_size: int,
    block_rows: int = 16,
) -> tuple[Predictions, list[BlockSummary]]:
    opened = open_predictions(folder, tables_of(refs), {}, {})
    opened.manifest["block_rows"] = block_rows
    labeler = Labeler(predictor, folder, batch_size, decode_threads=2)
    summaries = [labeler.label_block(b, opened.rows_of(b)) for b in opened.pending()]
    return finish(opened, {}), summaries


def assert_alike(some: Sequence[Detections], others: Sequence[Detections]) -> None:
    assert [one.image_id for one in some] == [one.image_id for one in others]
    for one, other in zip(some, others, strict=True):
        assert (one.file_name, one.width, one.height) == (
            other.file_name, other.width, other.height)  # fmt: skip
        np.testing.assert_allclose(one.scores, other.scores, atol=SCORE_TOLERANCE)
        for k, box in enumerate(one.boxes):
            near = np.abs(other.boxes - box).max(axis=1) < BOX_TOLERANCE_PX
            near &= np.abs(other.scores - one.scores[k]) < SCORE_TOLERANCE
            assert (near & (other.category_ids == one.category_ids[k])).any()


@pytest.mark.parametrize(("batch_size", "block_rows"), [(1, 16), (2, 3), (3, 8), (32, 1), (32, 16)])
def test_results_do_not_depend_on_batches_and_blocks(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path, batch_size: int, block_rows: int
) -> None:
    label(predictor, tmp_path, val, batch_size, block_rows)
    found = list(read_results(tmp_path))
    alone = [
        predictor.predict([image], [ref])[0]
        for ref, image in zip(val, (pixels(ref) for ref in val), strict=True)
    ]
    assert sum(len(one.scores) for one in alone) > 50
    assert len({(ref.height, ref.width) for ref in val}) > 3  # else nothing was tested
    assert_alike(found, alone)


def pixels(ref: ImageRef) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(ref.uri).convert("RGB"))).permute(2, 0, 1)


def test_the_same_batches_give_the_same_bytes(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        label(predictor, tmp_path / name, val, batch_size=3)
    part = rundir.part_name(0)
    assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()


def test_a_summary_counts_what_was_committed(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path
) -> None:
    _, (summary,) = label(predictor, tmp_path, val, batch_size=4)
    rows = list(read_results(tmp_path))
    assert (summary.num_images, summary.num_failures, summary.error) == (8, 0, "")
    assert summary.num_detections == sum(len(one.scores) for one in rows)
    assert 0 < summary.device_s < summary.seconds
    assert summary.decode_s > 0
    assert summary.paste_s > 0
    assert summary.commit_s > 0
    assert 0 <= summary.idle_s < summary.seconds
    assert summary.device_s + summary.idle_s <= summary.seconds


def test_each_bad_image_is_recorded_with_its_reason_and_the_others_go_on(
    predictor: Predictor, val: list[ImageRef], made_up: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    good = Path(val[0].uri).read_bytes()
    (folder / "a-empty.jpg").write_bytes(b"")
    (folder / "b-good.png").write_bytes(good)
    (folder / "c-text.jpg").write_text("not an image")
    (folder / "d-cut.png").write_bytes(good[: len(good) // 2])
    (folder / "e-good.png").write_bytes(good)
    refs = listed(images_named([str(folder)]))
    (folder / "f-gone.jpg").touch()
    refs = listed(images_named([str(folder)]))
    (folder / "f-gone.jpg").unlink()
    done, (summary,) = label(predictor, tmp_path / "out", refs, batch_size=2)
    failures = pq.read_table(tmp_path / "out" / rundir.FAILURES).to_pylist()
    assert [row["file_name"] for row in failures] == [
        "a-empty.jpg", "c-text.jpg", "d-cut.png", "f-gone.jpg"]  # fmt: skip
    for row, reason in zip(failures, ("empty", "format", "decoded", "No such file"), strict=True):
        assert reason in row["error"]
        assert "\n" not in row["error"]
    assert [one.file_name for one in read_results(tmp_path / "out")] == ["b-good.png", "e-good.png"]
    assert done.manifest["num_failures"] == summary.num_failures == 4
    assert summary.error.startswith("a-empty.jpg: ")


def test_a_block_of_bad_images_alone_is_committed(predictor: Predictor, tmp_path: Path) -> None:
    refs = [ImageRef(image_id=k, file_name=f"{k}", uri=f"/nowhere/{k}.jpg") for k in range(3)]
    done, _ = label(predictor, tmp_path, refs, batch_size=2)
    assert done.manifest["num_failures"] == 3
    assert list(read_results(tmp_path)) == []


def test_an_image_of_another_size_than_its_annotations_is_a_failure(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path
) -> None:
    wrong = ImageRef(**{**vars(val[0]), "width": val[0].width + 1})
    label(predictor, tmp_path, [wrong, *val[1:3]], batch_size=2)
    (failure,) = pq.read_table(tmp_path / rundir.FAILURES).to_pylist()
    assert failure["image_id"] == wrong.image_id
    assert f"{wrong.width}x{wrong.height}" in failure["error"]


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_rotated_photographs_come_out_upright_and_alike(
    shared: Path, predictor: Predictor, tmp_path: Path, kind: str
) -> None:
    pattern = str(shared / f"data/jpeg-edge/exif_orientation/{kind}_[1368].jpg")
    label(predictor, tmp_path, listed(images_named([pattern])), batch_size=4)
    rows = list(read_results(tmp_path))
    size = (1800, 1200) if kind == "Landscape" else (1200, 1800)
    assert [(one.width, one.height) for one in rows] == [size] * 4
    for one in rows:
        assert len(one.scores)
        # The photographs were compressed anew in each position, so only alike.
        np.testing.assert_allclose(one.scores[:3], rows[0].scores[:3], atol=0.02)
        assert rle_to_bitmap(one.rles[0], one.height, one.width).shape == (size[1], size[0])


def test_odd_jpegs_are_labelled_or_recorded(
    shared: Path, predictor: Predictor, tmp_path: Path
) -> None:
    folder = shared / "data/jpeg-edge/pillow"
    refs = listed(images_named([str(folder)]))
    done, _ = label(predictor, tmp_path, refs, batch_size=8)
    (failure,) = pq.read_table(tmp_path / rundir.FAILURES).to_pylist()
    assert failure["file_name"] == "truncated_jpeg.jpg"
    assert "truncated" in failure["error"]
    rows = {one.file_name: one for one in read_results(tmp_path)}
    assert len(rows) == len(refs) - 1 == 27
    size = {name: (one.width, one.height) for name, one in rows.items()}
    assert size["pil_sample_cmyk.jpg"] == (100, 100)
    assert size["hopper_gray.jpg"] == (128, 128)
    assert size["multiple_exif.jpg"] == (1, 1)
    assert size["orientation_rectangle.jpg"] == (1, 2)  # 2 x 1 pixels, turned by a quarter


def test_a_refused_commit_leaves_the_block_to_be_done(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path
) -> None:
    opened = open_predictions(tmp_path, tables_of(val), {}, {})
    labeler = Labeler(predictor, tmp_path, 4, decode_threads=1)
    with full_disk(500), pytest.raises(OutputError, match="cannot write"):
        labeler.label_block(0, opened.rows_of(0))
    assert opened.pending() == [0]
    assert not list(tmp_path.glob(f"{rundir.TMP_PREFIX}*"))
    labeler.label_block(0, opened.rows_of(0))
    assert opened.pending() == []
    assert len(list(read_results(tmp_path))) == len(val)


def out_of_memory_above(
    monkeypatch: pytest.MonkeyPatch, predictor: Predictor, most: int, limit_px: int = 10**9
) -> list[int]:
    """Make the device too small for more images at once, or for larger ones; sizes of batches."""
    forward, sizes = predictor.forward, []

    def limited(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        sizes.append(len(images))
        if len(images) > most or max(image[0].numel() for image in images) > limit_px:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return forward(images)

    monkeypatch.setattr(predictor, "forward", limited)
    return sizes


def square_images(folder: Path, num_images: int, **sides: int) -> list[ImageRef]:
    folder.mkdir()
    for k in range(num_images):
        side = sides.get(f"image{k}", 80)
        Image.new("RGB", (side, side), (k, 0, 0)).save(folder / f"{k:02d}.png")
    return listed(images_named([str(folder)]))


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 40)
    label(predictor, tmp_path / "whole", refs, 8)
    sizes = out_of_memory_above(monkeypatch, predictor, 2)
    done, summaries = label(predictor, tmp_path / "halved", refs, 8)
    assert done.manifest["num_failures"] == 0
    assert_alike(*(list(read_results(tmp_path / name)) for name in ("halved", "whole")))
    assert max(sizes[3:]) == 2  # 8 and 4 are tried once
    assert [bool(summary.note) for summary in summaries] == [True, False, False]
    assert summaries[0].note.startswith("out of memory on a batch of 8: going on with batches of 4")
    assert "\n" not in summaries[0].note


def test_an_image_too_large_for_the_device_is_a_failure_of_its_own(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 10, image3=300)
    out_of_memory_above(monkeypatch, predictor, 4, 200 * 200)
    done, _ = label(predictor, tmp_path / "out", refs, 4)
    (failure,) = pq.read_table(tmp_path / "out" / rundir.FAILURES).to_pylist()
    assert failure["file_name"] == "03.png"
    assert failure["error"] == "does not fit into the device's memory, even alone"
    assert len(list(read_results(tmp_path / "out"))) == 9
    assert done.manifest["num_failures"] == 1


def test_a_device_that_holds_no_image_says_what_to_do(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 10)
    out_of_memory_above(monkeypatch, predictor, 0)
    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    labeler = Labeler(predictor, tmp_path / "out", 4, decode_threads=1)
    with pytest.raises(RunError, match="out of memory on single images") as caught:
        labeler.label_block(0, opened.rows_of(0))
    assert "\n" not in str(caught.value)
    assert opened.pending() == [0]


def test_a_device_that_another_fills_meanwhile_ends_the_job_and_fails_no_image(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 40)
    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    labeler = Labeler(predictor, tmp_path / "out", 4, decode_threads=1)
    labeler.label_block(0, opened.rows_of(0))
    out_of_memory_above(monkeypatch, predictor, 0)
    with pytest.raises(RunError, match="free the device"):
        labeler.label_block(1, opened.rows_of(1))
    assert opened.pending() == [1, 2]


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"]
)
def test_what_drivers_say_of_memory_is_understood(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    forward = predictor.forward

    def limited(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        if len(images) > 2:
            raise RuntimeError(said)
        return forward(images)

    monkeypatch.setattr(predictor, "forward", limited)
    done, _ = label(predictor, tmp_path / "out", square_images(tmp_path / "images", 8), 4)
    assert done.manifest["num_failures"] == 0


def test_a_host_without_memory_ends_the_job_and_fails_no_image(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 4)

    def load(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    labeler = Labeler(predictor, tmp_path / "out", 4, decode_threads=1)
    with pytest.raises(RunError, match=r"00\.png: the machine has too little memory to decode"):
        labeler.label_block(0, opened.rows_of(0))
    assert opened.pending() == [0]


def test_large_images_are_not_decoded_far_ahead(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 32)
    monkeypatch.setattr(labeler_module, "MOST_DECODED_BYTES", 6 * 3 * 80 * 80)
    decode, forward = Decoder(), predictor.forward
    decoded: list[int] = []
    held: list[int] = []

    def counted(ref: ImageRef) -> torch.Tensor:
        decoded.append(ref.image_id)
        return decode(ref)

    def watched(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        time.sleep(0.02)  # whoever wants to decode ahead may
        held.append(len(decoded) - sum(sizes))
        sizes.append(len(images))
        return forward(images)

    sizes: list[int] = []
    monkeypatch.setattr(predictor, "forward", watched)
    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    labeler = Labeler(predictor, tmp_path / "out", 16, decode_threads=2, decode=counted)
    labeler.label_block(0, opened.rows_of(0))
    assert sum(sizes) == 16
    assert max(held) <= 8, "six, and one in each thread"


def test_other_errors_of_the_device_are_not_taken_for_lack_of_memory(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(predictor, "forward", forward)
    refs = square_images(tmp_path / "images", 2)
    with pytest.raises(RuntimeError, match="device-side assert"):
        label(predictor, tmp_path / "out", refs, 4)


def test_images_of_a_tar_are_labelled_and_drawn_like_single_files(
    predictor: Predictor, tmp_path: Path
) -> None:
    refs = square_images(tmp_path / "images", 5)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for ref in refs:
            tar.add(ref.uri, Path(ref.uri).name)
    (tmp_path / "images/01.png").write_bytes(b"")
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        tar.add(tmp_path / "images/01.png", "empty.png")
    done, _ = label(predictor, tmp_path / "tar", listed(images_named([str(tmp_path / "a.tar")])), 2)
    (failure,) = pq.read_table(tmp_path / "tar" / rundir.FAILURES).to_pylist()
    assert (failure["file_name"], failure["error"]) == (
        "a.tar/empty.png",
        "the image file is empty",
    )
    rows = list(read_results(tmp_path / "tar"))
    assert [one.file_name for one in rows] == [f"a.tar/{k:02d}.png" for k in range(5)]
    drawn = draw(tmp_path / "tar", 6)
    assert len(drawn.overlays) == 5
    assert drawn.notes == ["image 6 has no result: failures.parquet says why"]


def test_the_time_the_device_stands_still_is_counted(predictor: Predictor, tmp_path: Path) -> None:
    refs = square_images(tmp_path / "images", 8)
    decode = Decoder()

    def slowly(ref: ImageRef) -> torch.Tensor:
        time.sleep(0.1)
        return decode(ref)

    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    labeler = Labeler(predictor, tmp_path / "out", 2, decode_threads=1, decode=slowly)
    summary = labeler.label_block(0, opened.rows_of(0))
    assert 0.25 < summary.idle_s < summary.seconds  # after the first batch, three times 0.2 s
    assert summary.decode_s > 0.8
    assert summary.num_ready == 0


def test_images_that_wait_for_the_device_are_counted(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = square_images(tmp_path / "images", 16)
    forward = predictor.forward

    def slowly(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        time.sleep(0.1)
        return forward(images)

    monkeypatch.setattr(predictor, "forward", slowly)
    opened = open_predictions(tmp_path / "out", tables_of(refs), {}, {})
    summary = Labeler(predictor, tmp_path / "out", 2, 2).label_block(0, opened.rows_of(0))
    assert summary.num_ready >= 2  # up to four are decoded ahead


def test_images_wait_for_others_of_their_size(
    predictor: Predictor, val: list[ImageRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[tuple[int, int]]] = []
    forward = predictor.forward

    def watched(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        batches.append([predictor.padded_size(*image.shape[-2:]) for image in images])
        return forward(images)

    monkeypatch.setattr(predictor, "forward", watched)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(12):
        side = 64 if k % 2 else 300  # two padded sizes, in turn
        Image.new("RGB", (side, 64 if k % 2 else 100)).save(folder / f"{k:02d}.png")
    label(predictor, tmp_path / "out", listed(images_named([str(folder)])), batch_size=4)
    assert all(len(set(sizes)) == 1 for sizes in batches)
    assert sorted(len(sizes) for sizes in batches) == [2, 2, 4, 4]
    assert [one.file_name for one in read_results(tmp_path / "out")] == [
        f"{k:02d}.png" for k in range(12)]  # fmt: skip


def test_few_images_wait_at_a_time(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shapes = [(64, 64), (64, 96), (96, 64), (30, 96), (96, 30)]  # five padded sizes
    assert len({predictor.padded_size(*shape) for shape in shapes}) == 5
    for k in range(20):
        Image.new("RGB", shapes[k % 5][::-1]).save(folder / f"{k:02d}.png")
    decoded: list[str] = []
    decode, forward = labeler_module.decode_image, predictor.forward
    at_forward: list[int] = []

    def counted(uri: bytes | Path) -> torch.Tensor:
        decoded.append(str(uri))
        return decode(uri)

    def watched(images: Sequence[torch.Tensor]) -> list[HostDetections]:
        at_forward.append(len(decoded))
        return forward(images)

    monkeypatch.setattr(labeler_module, "decode_image", counted)
    monkeypatch.setattr(predictor, "forward", watched)
    batch_size, threads = 4, 2
    label(predictor, tmp_path / "out", listed(images_named([str(folder)])), batch_size)
    most = (labeler_module.MOST_WAITING + 1) * batch_size + threads + 1
    assert at_forward[0] <= most < 16  # after 16, the first size could have made a whole batch
    assert len(decoded) == 20
    assert len(list(read_results(tmp_path / "out"))) == 20
