"""Overlays and the gallery of a predictions folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_folders import HEIGHT, NUM_IMAGES, WIDTH, detections_of

from raymrcnn import rundir
from raymrcnn.report.drawn import chosen_ids, draw
from raymrcnn.rows import results_table

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
    ids = chosen_ids(folder, 5, 7)
    assert ids.tolist() == chosen_ids(folder, 5, 7).tolist() == sorted(set(ids.tolist()))
    assert ids.tolist() != chosen_ids(folder, 5, 8).tolist()
    assert chosen_ids(folder, 99, 1).tolist() == list(range(1, 17))
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
