"""A results file that COCO's own tools read, holding what the folder holds."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from refusing_disks import full_disk

from raymrcnn.errors import DataError, OutputError
from raymrcnn.infer.export import write_coco_json
from raymrcnn.infer.inputs import tables_of
from raymrcnn.infer.sink import commit_block, open_predictions
from raymrcnn.masks import bitmap_to_rle
from raymrcnn.structures import Detections, ImageRef


def found_in(image_id: int, num_detections: int) -> Detections:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 5:25] = 1
    return Detections(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        width=30,
        height=20,
        boxes=np.tile(np.array([5.25, 2, 25, 12.5], np.float32), (num_detections, 1)),
        scores=np.linspace(0.9, 0.1, num_detections, dtype=np.float32),
        category_ids=np.full(num_detections, 3),
        rles=[bitmap_to_rle(mask)] * num_detections,
    )


def predictions(folder: Path, counts: list[int]) -> Path:
    refs = [ImageRef(image_id=k, file_name=f"{k}.jpg", uri="") for k in range(1, len(counts) + 1)]
    job = open_predictions(folder, tables_of(refs), {}, {})
    found = [found_in(k, n) for k, n in enumerate(counts, start=1)]
    for block in range(job.num_blocks):
        rows = job.rows_of(block)
        commit_block(folder, block, found[rows.start : rows.stop], [])
    return folder


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    counts = [2, 0, 1, *[0] * 20, 3]  # over two blocks
    target = tmp_path / "results" / "coco.json"
    write_coco_json(predictions(tmp_path / "p", counts), target)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": k, "width": 30, "height": 20} for k in range(1, len(counts) + 1)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        loaded = truth.loadRes(str(target))
    by_image = {image: len(loaded.getAnnIds(imgIds=[image])) for image in loaded.getImgIds()}
    assert by_image == dict(enumerate(counts, start=1))
    first = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))[0]
    assert first["bbox"] == [5.25, 2.0, 19.75, 10.5]
    assert first["score"] == pytest.approx(0.9)
    assert loaded.annToMask(first).sum() == 200
    assert len(list(target.parent.iterdir())) == 1


@pytest.mark.parametrize("counts", [[0], [0, 0, 0]])
def test_nothing_found_is_an_empty_list(tmp_path: Path, counts: list[int]) -> None:
    write_coco_json(predictions(tmp_path / "p", counts), tmp_path / "coco.json")
    assert json.loads((tmp_path / "coco.json").read_text()) == []


def test_a_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    folder = predictions(tmp_path / "p", [50])
    target = tmp_path / "coco.json"
    target.write_text("before")
    with full_disk(1000), pytest.raises(OutputError, match="cannot write"):
        write_coco_json(folder, target)
    assert target.read_text() == "before"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write") as caught:
        write_coco_json(predictions(tmp_path / "p", [1]), tmp_path / "file" / "coco.json")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions here"):
        write_coco_json(tmp_path, tmp_path / "coco.json")
    assert not (tmp_path / "coco.json").exists()
