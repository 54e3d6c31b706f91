"""Samples: boxes as torchvision's reference has them, masks as pycocotools draws them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from raymrcnn.config import DataConfig
from raymrcnn.data.coco import CocoIndex, open_split
from raymrcnn.data.dataset import TrainDataset
from raymrcnn.data.store import FolderImages, check_images_exist
from raymrcnn.data.trainable import usable_images
from raymrcnn.errors import DataError

PLAIN = DataConfig(flip_prob=0.0)
SQUARE = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]]


def annotation(k: int, image_id: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": k,
        "image_id": image_id,
        "category_id": 5,
        "iscrowd": 0,
        "area": 64.0,
        "bbox": [1.0, 1.0, 8.0, 8.0],
        "segmentation": SQUARE,
        **fields,
    }


def data_set(root: Path, annotations: list[dict[str, Any]], num_images: int = 1) -> CocoIndex:
    """20 x 12 images with ids 1, 2, ... and the categories 5 and 8, split "t"."""
    images = []
    (root / "t").mkdir(parents=True)
    for k in range(1, num_images + 1):
        noise = np.random.default_rng(k).integers(0, 256, (12, 20, 3), np.uint8)
        Image.fromarray(noise).save(root / f"t/{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 20, "height": 12})
    categories = [{"id": 8, "name": "b"}, {"id": 5, "name": "a"}]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (root / "annotations").mkdir()
    (root / "annotations/instances_t.json").write_text(json.dumps(document))
    return open_split(root, "t")


def sample(root: Path, index: CocoIndex, config: DataConfig = PLAIN) -> Any:
    return TrainDataset(index, FolderImages(root, "t"), config, 0)[0, 0]


@pytest.mark.parametrize(("name", "split"), [("coco-mini", "val2017"), ("fruits-nuts", "all")])
def test_real_targets_equal_pycocotools_and_torchvisions_reference(
    shared: Path, name: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared / "data" / name
    index = open_split(root, split)
    coco = COCO(index.path)
    dataset = TrainDataset(index, FolderImages(root, split), PLAIN, 0)
    crowded = [i for i in dataset.images if index.annotations_of(i).iscrowd.any()]
    for i in [*dataset.images[:12], *crowded[:3]]:
        image, target = dataset[int(np.flatnonzero(dataset.images == i)[0]), 0]
        info = coco.imgs[target.image_id]
        assert image.shape == (3, info["height"], info["width"])
        objects = [a for a in coco.imgToAnns[target.image_id] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=info["width"])
        boxes[:, 1::2].clamp_(min=0, max=info["height"])
        assert torch.equal(target.boxes, boxes)
        assert target.masks.dtype == torch.uint8
        expected = np.stack([coco.annToMask(a) for a in objects])
        assert np.array_equal(target.masks.numpy(), expected)
        label_of = {c: k for k, c in enumerate(sorted(coco.getCatIds()), start=1)}
        assert target.labels.tolist() == [label_of[a["category_id"]] for a in objects]


def test_crowds_and_degenerate_boxes_are_left_out(tmp_path: Path) -> None:
    index = data_set(
        tmp_path,
        [
            annotation(1, iscrowd=1, segmentation={"size": [12, 20], "counts": [0, 240]}),
            annotation(2, bbox=[5.0, 5.0, 0.5, 4.0]),
            annotation(3, bbox=[19.5, 5.0, 40.0, 4.0]),
            annotation(4, category_id=8, bbox=[-3.0, -3.0, 12.0, 50.0]),
            annotation(5, segmentation=[[2.1, 2.1, 2.2, 2.1, 2.2, 2.2, 2.1, 2.2]]),
        ],
    )
    _, target = sample(tmp_path, index)
    assert target.boxes.tolist() == [[0.0, 0.0, 9.0, 12.0]]  # clipped; 5 covers no pixel
    assert target.labels.tolist() == [2]
    assert target.masks.sum() == 64


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    second = [12.0, 2.0, 16.0, 2.0, 16.0, 6.0, 12.0, 6.0]
    overlapping = [8.0, 1.0, 10.0, 1.0, 10.0, 9.0, 8.0, 9.0]
    index = data_set(tmp_path, [annotation(1, segmentation=[*SQUARE, second, overlapping])])
    _, target = sample(tmp_path, index)
    assert target.masks.shape == (1, 12, 20)
    assert target.masks.sum() == 64 + 16 + 8
    assert target.masks.max() == 1


def test_images_without_objects_take_part_only_when_asked(tmp_path: Path) -> None:
    crowd = {"iscrowd": 1, "segmentation": {"size": [12, 20], "counts": [0, 240]}}
    index = data_set(
        tmp_path,
        [annotation(1, 2), annotation(2, 3, **crowd), annotation(3, 4, bbox=[0, 0, 0.2, 5])],
        num_images=4,
    )
    assert usable_images(index).tolist() == [1]
    assert usable_images(index, keep_empty=True).tolist() == [0, 1, 2, 3]
    dataset = TrainDataset(
        index, FolderImages(tmp_path, "t"), DataConfig(keep_empty_images=True), 0
    )
    assert len(dataset) == 4
    _, target = dataset[0, 0]
    assert target.boxes.shape == (0, 4)
    assert target.masks.shape == (0, 12, 20)
    assert target.labels.dtype == torch.int64


def test_a_split_without_an_object_is_refused(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(1, bbox=[0, 0, 0.1, 0.1])])
    with pytest.raises(DataError, match="none of the 1 images has an object to train on"):
        sample(tmp_path, index)


def test_objects_without_masks_are_refused_before_training(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(1), annotation(17, segmentation=[])])
    with pytest.raises(DataError, match="1 annotations have no mask, .* annotation 17"):
        sample(tmp_path, index)


def test_a_malformed_mask_names_its_annotation(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(17, segmentation=[[1.0, 2.0, 3.0, 4.0]])])
    with pytest.raises(DataError, match="annotation 17"):
        sample(tmp_path, index)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(1)])
    Image.new("RGB", (20, 13)).save(tmp_path / "t/1.png")
    with pytest.raises(DataError, match=r"1.png: the image has 20x13 .* say 20x12"):
        sample(tmp_path, index)


def test_a_rotated_image_is_taken_in_the_frame_of_its_annotations(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(1)])
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (20, 12))
    stored.putpixel((19, 0), (255, 0, 0))
    stored.save(tmp_path / "t/1.png", exif=exif)
    image, _ = sample(tmp_path, index)  # annotated as stored
    assert image[0, 0, 19] == 255
    tall = Image.new("RGB", (12, 20))
    tall.putpixel((0, 19), (255, 0, 0))
    tall.save(tmp_path / "t/1.png", exif=exif)
    image, _ = sample(tmp_path, index)  # annotated upright
    assert image.shape == (3, 12, 20)
    assert image[0, 0, 0] == 255


def test_missing_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    index = data_set(tmp_path, [annotation(k, k) for k in range(1, 10)], num_images=9)
    check_images_exist(index, tmp_path, "t")
    for k in range(2, 9):
        (tmp_path / f"t/{k}.png").unlink()
    with pytest.raises(
        DataError,
        match=r"7 of 9 image files are missing: 2.png, 3.png, 4.png, 5.png, 6.png, \.\.\.",
    ):
        check_images_exist(index, tmp_path, "t")
    check_images_exist(index, tmp_path, "t", [0, 8])
    (tmp_path / "images/t").mkdir(parents=True)
    (tmp_path / "images/t/2.png").touch()
    with pytest.raises(DataError, match="1 of 2 image files are missing: 3.png;"):
        check_images_exist(index, tmp_path, "t", [1, 2])


def test_real_images_all_exist(shared: Path) -> None:
    for name, split in (("coco-mini", "train2017"), ("fruits-nuts", "all")):
        root = shared / "data" / name
        check_images_exist(open_split(root, split), root, split)


def test_a_name_that_leads_out_of_the_root_stops_at_start(tmp_path: Path) -> None:
    data_set(tmp_path / "root", [annotation(1)])
    path = tmp_path / "root/annotations/instances_t.json"
    path.write_text(path.read_text().replace("1.png", "../../../etc/passwd"))
    index = open_split(tmp_path / "root", "t")
    with pytest.raises(DataError, match="does not stay inside the data root"):
        check_images_exist(index, tmp_path / "root", "t")
    with pytest.raises(DataError, match="does not stay inside the data root"):
        sample(tmp_path / "root", index)


def test_checking_many_images_lists_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{k // 1000}/{k}.jpg" for k in range(5000)]
    for k in range(5):
        (tmp_path / f"t/{k}").mkdir(parents=True)
    for name in names:
        (tmp_path / "t" / name).touch()
    images = [{"id": k, "file_name": n, "width": 9, "height": 9} for k, n in enumerate(names)]
    document = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (tmp_path / "instances_t.json").write_text(json.dumps(document))
    index = open_split(tmp_path, "t")
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: (listed.append(folder), listdir(folder))[1])
    check_images_exist(index, tmp_path, "t")
    assert sorted(listed) == [str(tmp_path / f"t/{k}") for k in range(5)]
