"""The made-up data set is exact, varied, repeatable, and careful where it writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from raymrcnn.data.coco import open_split
from raymrcnn.data.synthetic import CATEGORIES, write_synthetic
from raymrcnn.errors import ConfigError, OutputError

SPLITS = ("train2017", "val2017")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "new" / "shapes"
    summary = write_synthetic(root, 60)
    assert (summary.num_train_images, summary.num_val_images) == (48, 12)
    assert not summary.reused
    return root


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_what_is_annotated_is_exactly_what_is_painted(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = 0
    for split in SPLITS:
        coco = COCO(str(made / f"annotations/instances_{split}.json"))
        for image_id, image in coco.imgs.items():
            pixels = np.asarray(Image.open(made / split / image["file_name"])).astype(int)
            assert pixels.shape == (image["height"], image["width"], 3)
            annotations = coco.imgToAnns[image_id]
            masks = np.array([coco.annToMask(a) for a in annotations]).reshape(
                -1, *pixels.shape[:2]
            )
            assert (masks.sum(0) <= 1).all()  # nobody owns another's pixel
            for entry, mask in zip(annotations, masks, strict=True):
                assert entry["area"] == mask.sum() > 0
                rows, columns = np.nonzero(mask)
                x, y, w, h = entry["bbox"]
                assert (columns.min(), rows.min()) == (x, y)
                assert (columns.max() + 1, rows.max() + 1) == (x + w, y + h)
            if image["file_name"].endswith(".png"):
                # Ground is gray, objects are not.
                coloured = pixels.max(2) - pixels.min(2) > 60
                assert np.array_equal(coloured, masks.sum(0) == 1)
                exact += 1
    assert exact >= 30


def test_every_form_of_annotation_occurs(made: Path) -> None:
    entries, empty = [], 0
    for split in SPLITS:
        document = json.loads((made / f"annotations/instances_{split}.json").read_text())
        entries += document["annotations"]
        annotated = {a["image_id"] for a in document["annotations"]}
        empty += sum(i["id"] not in annotated for i in document["images"])
        assert [c["id"] for c in document["categories"]] == list(CATEGORIES)
        assert {a["category_id"] for a in document["annotations"]} == set(CATEGORIES)
    assert empty == 2
    masks = [a["segmentation"] for a in entries if not a["iscrowd"]]
    polygons = [m for m in masks if isinstance(m, list)]
    assert len(polygons) > len(masks) / 2
    assert any(len(m) > 1 for m in polygons)
    counts = [m["counts"] for m in masks if isinstance(m, dict)]
    assert {type(c) for c in counts} == {str, list}
    crowds = [a["segmentation"]["counts"] for a in entries if a["iscrowd"]]
    assert len(crowds) >= 3
    assert all(isinstance(c, list) for c in crowds)
    ids = [a["id"] for a in entries]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    assert {p.suffix for p in made.glob("*/*.*")} >= {".png", ".jpg"}


def test_the_index_opens_it(made: Path) -> None:
    index = open_split(made, "train2017")
    assert index.label_of_category == {2: 1, 5: 2, 9: 3}
    assert 1 <= max(len(index.annotations_of(i)) for i in range(index.num_images)) <= 6


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a", 12, seed=4)
    write_synthetic(tmp_path / "b", 12, seed=4)
    write_synthetic(tmp_path / "c", 12, seed=5)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = set(digest(tmp_path / "a").items()) & set(digest(tmp_path / "c").items())
    assert not same


def test_a_finished_data_set_is_used_again(tmp_path: Path) -> None:
    first = write_synthetic(tmp_path / "a", 5)
    stamp = (tmp_path / "a").stat().st_ino
    again = write_synthetic(tmp_path / "a", 5)
    assert again.reused
    assert again.num_annotations == first.num_annotations
    assert (tmp_path / "a").stat().st_ino == stamp


def test_a_damaged_data_set_is_made_anew(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a", 5)
    before = digest(tmp_path / "a")
    (tmp_path / "a/train2017/000000000001.png").write_bytes(b"")
    assert not write_synthetic(tmp_path / "a", 5).reused
    assert digest(tmp_path / "a") == before


def test_foreign_content_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty, and its content was not made here"):
        write_synthetic(tmp_path / "photos", 5)
    assert (tmp_path / "photos/a.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file"):
        write_synthetic(tmp_path / "photos/a.txt", 5)
    write_synthetic(tmp_path / "a", 5)
    with pytest.raises(OutputError, match="of other size or seed"):
        write_synthetic(tmp_path / "a", 6)
    assert write_synthetic(tmp_path / "a", 5).reused


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").mkdir()  # an empty folder is taken
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OutputError, match="No space left on device"):
            write_synthetic(tmp_path / "a", 5)
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]
    assert not write_synthetic(tmp_path / "a", 5).reused


def test_two_images_are_the_least(tmp_path: Path) -> None:
    summary = write_synthetic(tmp_path / "a", 2)
    assert (summary.num_train_images, summary.num_val_images) == (1, 1)
    assert json.loads(json.dumps(summary.to_json()))["num_val_images"] == 1
    with pytest.raises(ConfigError, match="cannot be split"):
        write_synthetic(tmp_path / "b", 1)
    with pytest.raises(ConfigError, match="no range"):
        write_synthetic(tmp_path / "b", 5, min_side=10)
    with pytest.raises(ConfigError, match="negative"):
        write_synthetic(tmp_path / "b", 5, seed=-1)
