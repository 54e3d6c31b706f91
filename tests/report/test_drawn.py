"""Overlays and the gallery of a predictions folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_folders import HEIGHT, NUM_IMAGES, WIDTH, detections_of, write_data

from raymrcnn import rundir
from raymrcnn.data.shards import write_shards
from raymrcnn.data.store import open_annotations
from raymrcnn.report import drawn as drawing
from raymrcnn.report.drawn import chosen, draw
from raymrcnn.rows import iter_detections, results_table

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen images in blocks of four; image 3 failed, the file of image 5 is gone."""
    out = tmp_path / "predictions"
    out.mkdir()
    rows = []
    for i in range(1, NUM_IMAGES + 1):
        path = tmp_path / f"{i:03d}.png"
        if i != 5:
            Image.new("RGB", (WIDTH, HEIGHT), (10 * i, 80, 80)).save(path)
        rows.append({"image_id": i, "file_name": path.name, "uri": str(path),
                     "width": WIDTH, "height": HEIGHT})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), out / rundir.IMAGES)
    for block in range(4):
        ids = [i for i in range(4 * block + 1, 4 * block + 5) if i != 3]
        found = [(0.9, 1, (8, 8, 40, 40)), (0.3, 2, (50, 10, 90, 50))]
        table = results_table(detections_of(i, found) for i in ids)
        pq.write_table(table, out / rundir.part_name(block))
    manifest = {"status": "complete", "num_images": NUM_IMAGES, "block_rows": 4,
                "categories": [[1, "cat"], [2, HOSTILE]]}  # fmt: skip
    (out / rundir.MANIFEST).write_text(json.dumps(manifest))
    return out


def test_the_first_images_are_drawn_and_what_cannot_be_is_named(folder: Path) -> None:
    drawn = draw(folder, 6)
    assert [p.name[7:10] for p in drawn.overlays] == ["001", "002", "004", "006"]
    with Image.open(drawn.overlays[1]) as image:
        assert image.size[0] / image.size[1] == WIDTH / HEIGHT
        assert image.format == "JPEG"
    assert len(drawn.notes) == 2
    assert "image 3 has no result" in drawn.notes[0]
    assert "005.png is not shown" in drawn.notes[1]


def test_a_sample_is_the_same_each_time_and_replaces_what_was_drawn_before(folder: Path) -> None:
    rows, ids = chosen(folder, 5, 7)
    assert (rows + 1).tolist() == ids.tolist()
    assert ids.tolist() == chosen(folder, 5, 7)[1].tolist() == sorted(set(ids.tolist()))
    assert ids.tolist() != chosen(folder, 5, 8)[1].tolist()
    assert chosen(folder, 99, 1)[1].tolist() == list(range(1, 17))
    draw(folder, 6)
    drawn = draw(folder, 2, sample_seed=1)
    assert sorted(p.name for p in (folder / "overlays").iterdir()) == sorted(
        p.name for p in drawn.overlays
    )


def test_the_page_needs_nothing_beside_itself_and_escapes_names(folder: Path) -> None:
    page = draw(folder, 4).gallery.read_text()
    assert HOSTILE not in page
    assert "Content-Security-Policy" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/jpeg;base64,") == 3
    scores = re.findall(r'data-score="([\d.]+)"( hidden)?', page)
    # The shape and the label of each.
    assert sorted(scores) == [("0.3000", " hidden")] * 6 + [("0.9000", "")] * 6
    assert 'type="range"' in page
    for shown in ("masks", "boxes", "labels"):
        assert f'data-shows="{shown}"' in page


def test_only_the_parts_that_hold_the_images_are_read(folder: Path) -> None:
    (folder / rundir.part_name(3)).write_bytes(b"damaged")
    assert len(draw(folder, 4).overlays) == 3
    pixels = np.asarray(Image.open(folder / "overlays" / "000001-001.jpg"))
    assert pixels.shape[2] == 3


@pytest.fixture
def of_shards(folder: Path, tmp_path: Path) -> Path:
    """The same job on a sharded data set: no image says itself where it is."""
    write_data(tmp_path / "data")
    root = tmp_path / "shards"
    write_shards(tmp_path / "data", "val", str(root), 40_000)
    images = pq.read_table(folder / rundir.IMAGES)
    nowhere = pa.array([""] * NUM_IMAGES)
    pq.write_table(images.set_column(2, "uri", nowhere), folder / rundir.IMAGES)
    manifest = json.loads((folder / rundir.MANIFEST).read_text())
    manifest["data"] = {"root": str(root), "split": "val"}
    manifest["fingerprint"] = {"annotations": open_annotations(root, "val").fingerprint}
    (folder / rundir.MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_images_of_a_sharded_data_set_are_drawn(of_shards: Path, tmp_path: Path) -> None:
    drawn = draw(of_shards, 6)
    assert [p.name[7:10] for p in drawn.overlays] == ["001", "002", "004", "005", "006"]
    assert drawn.notes == ["image 3 has no result: failures.parquet says why"]


def test_shards_that_are_others_or_gone_are_named_and_nothing_is_drawn(
    of_shards: Path, tmp_path: Path
) -> None:
    manifest = json.loads((of_shards / rundir.MANIFEST).read_text())
    other = {**manifest, "fingerprint": {"annotations": "f" * 64}}
    (of_shards / rundir.MANIFEST).write_text(json.dumps(other))
    drawn = draw(of_shards, 1)
    assert "the shards were written again with other annotations" in drawn.notes[0]
    assert drawn.overlays == []
    (of_shards / rundir.MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "shards/val/shards.json").write_text("{}")
    drawn = draw(of_shards, 1)
    assert "is not a manifest of shards" in drawn.notes[0]
    assert "the input names no place for this image" in drawn.notes[1]


def test_no_more_than_a_block_of_results_is_held(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    drawn = drawing.draw_detections

    def reads(*arguments: Any) -> Iterator[Any]:
        for one in iter_detections(*arguments):
            held.append(one.image_id)
            assert len(held) <= 4
            yield one

    def draws(pixels: Any, found: Any, *arguments: Any, **options: Any) -> Any:
        held.remove(found.image_id)
        return drawn(pixels, found, *arguments, **options)

    monkeypatch.setattr(drawing, "iter_detections", reads)
    monkeypatch.setattr(drawing, "draw_detections", draws)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.parent / "005.png")
    assert len(draw(folder, NUM_IMAGES).overlays) == NUM_IMAGES - 1
    assert held == []
