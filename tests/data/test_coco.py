"""The index says what the annotation file says, or where the file is wrong."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from raymrcnn.data.coco import CocoIndex, open_split
from raymrcnn.errors import DataError
from raymrcnn.structures import Category

Document = dict[str, Any]

SMALL: Document = {
    "info": {"year": 2026},
    "images": [
        {"id": 40, "file_name": "żółw.jpg", "width": 8, "height": 6, "license": 1},
        {"id": 7, "file_name": "b.jpg", "width": 5, "height": 4},
        {"id": 9, "file_name": "sub/c.jpg", "width": 5, "height": 4},
    ],
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 3, "name": "car"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 9,
            "category_id": 3,
            "iscrowd": 0,
            "area": 4,
            "bbox": [0, 0, 2, 2],
            "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]],
        },
        {
            "id": 900000000001,
            "image_id": 40,
            "category_id": 90,
            "iscrowd": 0,
            "area": 5.123456789012345,
            "bbox": [0.1, 0.2, 3.3, 2.7],
            "segmentation": [[0.1, 0.2, 3.4, 0.2, 3.4, 2.9], [1, 1, 4, 1, 4, 4, 1.5, 3.25]],
        },
        {
            "id": 5,
            "image_id": 9,
            "category_id": 90,
            "iscrowd": 1,
            "area": 3,
            "bbox": [1, 0, 1, 3],
            "segmentation": {"size": [4, 5], "counts": [4, 3, 13]},
        },
        {
            "id": 6,
            "image_id": 40,
            "category_id": 3,
            "iscrowd": 0,
            "area": 2,
            "bbox": [0, 1, 1, 2],
            "segmentation": {"size": [6, 8], "counts": "12]1"},
        },
    ],
}


def written(folder: Path, document: Document | str | bytes) -> Path:
    path = folder / "instances_x.json"
    if isinstance(document, dict):
        document = json.dumps(document)
    path.write_bytes(document.encode() if isinstance(document, str) else document)
    return path


def normalised(entry: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(entry), parse_int=float)


@pytest.fixture
def small(tmp_path: Path) -> CocoIndex:
    return CocoIndex.open(written(tmp_path, SMALL))


def test_images_keep_the_order_of_the_file(small: CocoIndex) -> None:
    assert small.num_images == 3
    assert small.image_ids.tolist() == [40, 7, 9]
    assert small.widths.tolist() == [8, 5, 5]
    assert small.heights.tolist() == [6, 4, 4]
    assert [small.file_name(i) for i in range(3)] == ["żółw.jpg", "b.jpg", "sub/c.jpg"]
    assert small.images_with_ids([9, 40]).tolist() == [2, 0]
    with pytest.raises(DataError, match="no image has the id 41"):
        small.images_with_ids([9, 41])


def test_labels_count_the_sorted_category_ids_from_1(small: CocoIndex) -> None:
    assert small.categories == (Category(id=3, name="car"), Category(id=90, name="toothbrush"))
    assert small.label_of_category == {3: 1, 90: 2}


def test_annotations_come_by_image_in_the_order_of_the_file(small: CocoIndex) -> None:
    assert [small.annotations_of(i).ids.tolist() for i in range(3)] == [
        [900000000001, 6],
        [],
        [1, 5],
    ]
    of_last = small.annotations_of(2)
    assert len(of_last) == 2
    assert of_last.iscrowd.tolist() == [False, True]
    assert of_last.category_ids.tolist() == [3, 90]
    assert of_last.boxes.tolist() == [[0, 0, 2, 2], [1, 0, 1, 3]]
    assert of_last.areas.tolist() == [4, 3]
    assert small.columns.ids[of_last.first] == 1


def test_each_form_of_mask_comes_back_as_it_was_given(small: CocoIndex) -> None:
    polygons = small.segmentation(0)
    assert [p.tolist() for p in polygons] == SMALL["annotations"][1]["segmentation"]
    assert all(p.dtype == np.float64 for p in polygons)
    assert small.segmentation(1) == {"size": [6, 8], "counts": "12]1"}
    assert small.segmentation(3) == {"size": [4, 5], "counts": [4, 3, 13]}


def test_the_dictionaries_for_scoring_are_those_of_the_file(small: CocoIndex) -> None:
    images, annotations = small.to_coco_dicts([2, 0])
    assert [i["id"] for i in images] == [9, 40]
    assert images[1] == {"id": 40, "file_name": "żółw.jpg", "width": 8, "height": 6}
    expected = [SMALL["annotations"][k] for k in (0, 2, 1, 3)]
    assert [normalised(a) for a in annotations] == [normalised(a) for a in expected]
    json.dumps(annotations)


def test_missing_area_and_iscrowd_are_filled_in(tmp_path: Path) -> None:
    document = copy.deepcopy(SMALL)
    for entry in document["annotations"]:
        del entry["area"]
    del document["annotations"][0]["iscrowd"], document["annotations"][0]["segmentation"]
    index = CocoIndex.open(written(tmp_path, document))
    annotations = {a["id"]: a for a in index.to_coco_dicts(range(3))[1]}
    assert annotations[1]["iscrowd"] == 0
    assert annotations[1]["area"] == 4  # of the box
    assert "segmentation" not in annotations[1]
    assert annotations[5]["area"] == 3  # of the run lengths
    assert np.isnan(index.columns.areas).all()


def test_absent_masks_matter_only_where_masks_are_needed(tmp_path: Path) -> None:
    document = copy.deepcopy(SMALL)
    del document["annotations"][2]["segmentation"]
    document["annotations"][0]["segmentation"] = []
    index = CocoIndex.open(written(tmp_path, document))
    with pytest.raises(DataError, match="2 annotations have no mask, the first being annotation 1"):
        index.require_masks()
    index.require_masks([0, 1])
    with pytest.raises(DataError, match="annotation 5"):
        index.segmentation(3)
    CocoIndex.open(written(tmp_path, SMALL)).require_masks()


def test_the_fingerprint_is_that_of_the_file(small: CocoIndex, tmp_path: Path) -> None:
    before = small.fingerprint
    assert len(before) == 64
    changed = json.dumps(SMALL).replace("toothbrush", "tooth-brush")
    assert CocoIndex.open(written(tmp_path, changed)).fingerprint != before


def test_an_index_travels_as_a_few_buffers(shared: Path) -> None:
    index = open_split(shared / "data/coco-mini", "val2017")
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 20_000
    back = pickle.loads(head, buffers=buffers)
    assert back.to_coco_dicts(range(5)) == index.to_coco_dicts(range(5))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_equal_pycocotools(
    shared: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared / "data/coco-mini"
    compare_with_pycocotools(open_split(root, split), root / f"annotations/instances_{split}.json")


def test_a_data_set_with_one_file_has_the_split_all(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared / "data/fruits-nuts"
    index = open_split(root, "all")
    assert (index.num_images, index.num_annotations) == (18, 165)
    compare_with_pycocotools(index, root / "instances.json")


def compare_with_pycocotools(index: CocoIndex, path: Path) -> None:
    coco = COCO(str(path))
    assert index.image_ids.tolist() == list(coco.imgs)
    assert index.num_annotations == len(coco.anns)
    assert [(c.id, c.name) for c in index.categories] == [
        (c["id"], c["name"]) for c in coco.loadCats(sorted(coco.getCatIds()))
    ]
    images, annotations = index.to_coco_dicts(range(index.num_images))
    for i, image in enumerate(images):
        assert {k: coco.imgs[image["id"]][k] for k in image} == image
        assert index.annotations_of(i).ids.tolist() == coco.getAnnIds([image["id"]])
    for entry in annotations:
        assert {k: coco.anns[entry["id"]][k] for k in entry} == entry
        assert set(coco.anns[entry["id"]]) == set(entry)


def broken(change: Callable[[Document], object]) -> Document:
    document = copy.deepcopy(SMALL)
    change(document)
    return document


def set_annotation(position: int, **fields: object) -> Document:
    return broken(lambda d: d["annotations"][position].update(fields))


TEXT = json.dumps(SMALL)

WRONG: list[tuple[Document | str | bytes, str]] = [
    (b"", "the annotation file is empty"),
    (TEXT[:300], "cut short: it ends within a value at byte 300"),
    (TEXT.replace('"area": 3', '"area": ~'), r"not JSON: invalid character \(byte \d+\)"),
    (TEXT + "]", r"not JSON: trailing characters \(byte \d+\)"),
    (b'{"info": ' + b"[" * 100_000, "nested too deep"),
    ("[]", "top level: expected `object`, got `array`"),
    ('{"images": [], "categories": []}', "top level: object missing required field `annotations`"),
    (broken(lambda d: d.pop("categories")), "missing required field `categories`"),
    (broken(lambda d: d.update(images=[])), "lists no images"),
    (broken(lambda d: d.update(categories=[])), "lists no categories"),
    (broken(lambda d: d["images"][1].pop("width")), r"images\[1\]: .*missing .*field `width`"),
    (broken(lambda d: d["images"][1].update(width=0)), r"images\[1\].width: expected `int` >= 1"),
    (
        broken(lambda d: d["images"][1].update(id="x")),
        r"images\[1\].id: expected `int`, got",
    ),
    (broken(lambda d: d["images"][1].update(id=2**70)), r"images\[1\].id: expected `int` <= "),
    (
        broken(lambda d: d["annotations"][2].pop("bbox")),
        r"annotations\[2\] \(id 5\): object missing required field `bbox`",
    ),
    (set_annotation(2, bbox=[1, 2, 3]), r"annotations\[2\] \(id 5\).bbox: .*length 4"),
    (set_annotation(2, bbox=[1, 2, "a", 3]), r"\[2\] \(id 5\).bbox\[2\]: expected `float`, got"),
    (set_annotation(1, segmentation=[[1, 2, None]]), r"segmentation\[0\]\[2\]: expected `float`"),
    (set_annotation(1, segmentation="abc"), r"segmentation: expected `object \| array \| null`"),
    (set_annotation(2, segmentation={"counts": [1]}), "missing required field `size`"),
    (
        set_annotation(2, segmentation={"size": [4, 5], "counts": [4, -3]}),
        r"segmentation.counts\[1\]: expected `int` >= 0",
    ),
    (set_annotation(0, id="one"), r"annotations\[0\].id: expected `int`, got `str`"),
    (set_annotation(0, image_id=8), "annotation 1 names image 8, which the file does not list"),
    (set_annotation(3, category_id=4), "annotation 6 names category 4, which the file does not"),
    (set_annotation(3, id=5), "the annotation id 5 is given twice"),
    (broken(lambda d: d["images"][0].update(id=9)), "the image id 9 is given twice"),
    (broken(lambda d: d["categories"][0].update(id=3)), "the category id 3 is given twice"),
]


@pytest.mark.parametrize(("document", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_a_wrong_file_gives_one_line_that_says_where(
    document: Document | str | bytes, reason: str, tmp_path: Path
) -> None:
    path = written(tmp_path, document)
    with pytest.raises(DataError, match=reason) as caught:
        CocoIndex.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    for field in (b"12]1", b"b.jpg"):
        with pytest.raises(DataError, match="(?i)utf-8|decode"):
            CocoIndex.open(written(tmp_path, TEXT.encode().replace(field, b"12\xff1")))


def test_faults_can_be_listed_instead_of_refused(tmp_path: Path) -> None:
    document = set_annotation(0, image_id=8, category_id=77)
    document["annotations"][3]["id"] = 5
    index = CocoIndex.open(written(tmp_path, document), check=False)
    assert [(f.kind, f.id) for f in index.faults()] == [
        ("duplicate-annotation", 5),
        ("unknown-image", 1),
        ("unknown-category", 1),
    ]
    assert [len(index.annotations_of(i)) for i in range(3)] == [2, 0, 1]
    with pytest.raises(DataError, match=r"twice \(and 2 more faults\)"):
        CocoIndex.open(Path(index.path))


def test_a_file_without_annotations_is_a_data_set(tmp_path: Path) -> None:
    index = CocoIndex.open(written(tmp_path, broken(lambda d: d.update(annotations=[]))))
    assert index.num_annotations == 0
    assert len(index.annotations_of(2)) == 0
    assert index.to_coco_dicts([1]) == (
        [{k: SMALL["images"][1][k] for k in SMALL["images"][1]}],
        [],
    )
    index.require_masks()


def test_a_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        open_split(tmp_path / "nowhere", "val2017")
    with pytest.raises(DataError, match=r"no annotation file annotations/instances_val2017.json"):
        open_split(tmp_path, "val2017")
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "test"):
        (tmp_path / f"annotations/instances_{name}.json").write_text(TEXT)
    with pytest.raises(DataError, match=r"no split 'val2017'; there are test, train2017"):
        open_split(tmp_path, "val2017")
    assert open_split(tmp_path, "test").num_images == 3


def test_an_annotation_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the annotation file \(No such file"):
        CocoIndex.open(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"cannot read the annotation file \(Is a directory"):
        CocoIndex.open(tmp_path)


def test_a_file_cut_at_any_byte_is_cut_short(tmp_path: Path) -> None:
    text = json.dumps({**SMALL, "info": {"a": -1e-3, "b": False, "c": None}}).encode()
    for size in range(1, len(text)):
        (tmp_path / "a.json").write_bytes(text[:size])
        with pytest.raises(DataError, match=f"cut short: it ends within a value at byte {size};"):
            CocoIndex.open(tmp_path / "a.json")
