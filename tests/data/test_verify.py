"""Verification finds each kind of fault, all at once, and nothing in a good data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raymrcnn.data.check.findings import KINDS, NOTE
from raymrcnn.data.synthetic import write_synthetic
from raymrcnn.data.verify import VerifyReport, verify
from raymrcnn.errors import DataError

from .test_dataset import annotation, data_set


def verified(root: Path, annotations: list[dict[str, Any]], **options: Any) -> VerifyReport:
    data_set(root, [annotation(1, 1)], num_images=3)
    rewrite(root, annotations=annotations)
    return verify(root, "t", **options)


def counts(report: VerifyReport) -> dict[str, int]:
    """Without notes: categories 5 and 8 have gaps, and not all are used."""
    return {kind: num for kind, num in report.counts.items() if KINDS[kind][0] != NOTE}


def rewrite(root: Path, **changes: Any) -> None:
    path = root / "annotations/instances_t.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_made_up_data_set_is_clean(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a", 30)
    for split in ("train2017", "val2017"):
        report = verify(tmp_path / "a", split)
        assert set(report.counts) == {"category-gap"}  # its ids are 2, 5 and 9
        assert report.ok
        assert report.num_trainable_images in (report.num_images, report.num_images - 1)


def test_real_data_has_nothing_that_stops_a_run(shared: Path) -> None:
    report = verify(shared / "data/fruits-nuts", "all")
    assert (report.num_images, report.num_annotations, report.num_categories) == (18, 165, 3)
    assert report.findings == ()
    report = verify(shared / "data/coco-mini", "val2017", decode=False)
    assert report.ok
    assert report.num_crowds == 21
    assert report.counts == {"category-gap": 1, "polygon-crossing": 2}  # looked at: they do


def test_the_box_of_the_pixels_is_as_good_as_that_of_the_corners(tmp_path: Path) -> None:
    tip = [[1.0, 1.0, 9.0, 1.0, 9.0, 5.15, 19.0, 5.2, 9.0, 5.25, 9.0, 9.0, 1.0, 9.0]]
    for box, kinds in (([1, 1, 18, 8], {}), ([1, 1, 8, 8], {}), ([1, 1, 13, 8], {"box-mismatch"})):
        root = tmp_path / str(box)
        report = verified(root, [annotation(1, segmentation=tip, bbox=box)])
        assert set(counts(report)) == set(kinds), box


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    report = verified(
        tmp_path,
        [annotation(1), annotation(1, 44), annotation(2, segmentation=[]), annotation(3, 3)],
    )
    assert counts(report) == {"duplicate-annotation": 1, "polygon-empty": 1, "unknown-image": 1}
    assert report.num_annotations == 4


def test_each_fault_of_an_image_is_found(tmp_path: Path) -> None:
    data_set(tmp_path, [annotation(1)], num_images=4)
    (tmp_path / "t/1.png").unlink()
    (tmp_path / "t/2.png").write_bytes(b"GIF89a")
    Image.new("RGB", (12, 20)).save(tmp_path / "t/3.png")
    images = json.loads((tmp_path / "annotations/instances_t.json").read_text())["images"]
    images.append({"id": 5, "file_name": "../../etc/passwd", "width": 1, "height": 1})
    images.append({"id": 6, "file_name": "4.png", "width": 20, "height": 12})
    rewrite(tmp_path, images=images)
    report = verify(tmp_path, "t")
    assert {(f.kind, f.id) for f in report.findings if f.level != NOTE} == {
        ("image-missing", 1),
        ("image-undecodable", 2),
        ("image-size", 3),
        ("image-outside-root", 5),
        ("image-file-shared", 6),
    }
    assert not report.ok
    quick = verify(tmp_path, "t", decode=False)
    assert set(counts(quick)) == {"image-missing", "image-outside-root", "image-file-shared"}


def test_the_report_is_json(tmp_path: Path) -> None:
    report = verified(tmp_path, [annotation(2, segmentation=[])])
    document = json.loads(json.dumps(report.to_json()))
    assert document["ok"] is False
    assert document["counts"]["polygon-empty"] == 1
    assert document["levels"] == {"error": 1, "doubt": 0, "note": 2}
    (finding,) = (f for f in document["findings"] if f["error"])
    assert finding == {
        "kind": "polygon-empty",
        "id": 2,
        "message": "annotation 2: it has no polygon",
        "file": str(tmp_path / "annotations/instances_t.json"),
        "section": "annotations",
        "position": 0,
        "level": "error",
        "error": True,
        "fix": "remove the empty polygon",
    }


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    verified(tmp_path, [], progress=lambda done, of: told.append((done, of)))
    assert told == [(3, 3)]


def test_what_is_no_annotation_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        verify(tmp_path / "nowhere", "t")
    (tmp_path / "instances_t.json").write_text("{")
    with pytest.raises(DataError, match="cut short"):
        verify(tmp_path, "t")
