"""Data of labelme, VOC and YOLO into COCO's layout and back: the same objects, pixel for pixel."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from raymrcnn.cli.main import app
from raymrcnn.data.coco import open_split
from raymrcnn.data.convert import recognised
from raymrcnn.data.foreign.outline import joined, one_outline
from raymrcnn.data.foreign.records import Shape
from raymrcnn.data.foreign.voc import read_xml
from raymrcnn.data.images import resolve_image
from raymrcnn.data.verify import verify
from raymrcnn.errors import DataError
from raymrcnn.masks import bitmap_to_rle, polygons_to_bitmap, rle_to_bitmap, segmentation_to_rle
from raymrcnn.tracing import loops

WIDTH, HEIGHT = 64, 48
SQUARE = [[10.0, 10.0], [30.0, 10.0], [30.0, 25.5], [10.0, 25.5]]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", "convert", *map(str, words)])


def error_lines(result: Result) -> int:
    """How many lines a command ends with, its progress left aside."""
    return sum("/2 images" not in line for line in result.stderr.splitlines())


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 90, 90)).save(path)
    return path


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {},
            **more}  # fmt: skip


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.png",
                "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more}  # fmt: skip
    path.write_text(json.dumps(document))


def masks(root: Path, split: str) -> dict[str, list[tuple[str, str, bool]]]:
    """Category, pixels and crowd flag of every object, by image."""
    index = open_split(root, split)
    names = {c.id: c.name for c in index.categories}
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for i in range(index.num_images):
        size = int(index.heights[i]), int(index.widths[i])
        of = index.annotations_of(i)
        found[index.file_name(i)] = sorted(
            (names[int(of.category_ids[k])],
             segmentation_to_rle(index.segmentation(of.first + k), *size), bool(of.iscrowd[k]))
            for k in range(len(of))
        )  # fmt: skip
    return found


def pixels_off(a: str, b: str, height: int, width: int) -> int:
    return int((rle_to_bitmap(a, height, width) != rle_to_bitmap(b, height, width)).sum())


def written(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


# Outlines


def random_bitmaps() -> Iterator[np.ndarray[Any, Any]]:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        yield (rng.random((17, 23)) < 0.15 + 0.06 * seed).astype(np.uint8)
    ring = np.zeros((20, 20), np.uint8)
    ring[3:17, 3:17], ring[6:14, 6:14], ring[8:12, 8:12] = 1, 0, 1
    yield ring


def test_one_outline_covers_the_pixels_of_parts_and_leaves_holes_out() -> None:
    for bitmap in random_bitmaps():
        height, width = bitmap.shape
        outline = joined(loops(bitmap))
        np.testing.assert_array_equal(polygons_to_bitmap([outline.ravel()], height, width), bitmap)


def test_polygons_that_overlap_are_joined_without_a_hole() -> None:
    parts = [[2, 2, 20, 2, 20, 20, 2, 20], [10, 10, 30, 10, 30, 30, 10, 30], [40, 3, 50, 3, 45, 13]]
    one = one_outline(Shape(category="a", polygons=parts), 60, 40, "")
    np.testing.assert_array_equal(
        polygons_to_bitmap([one.ravel()], 40, 60), polygons_to_bitmap(parts, 40, 60)
    )


# labelme


def labelme_folder(root: Path) -> Path:
    hole = np.zeros((10, 12), np.uint8)
    hole[1:9, 1:11], hole[3:6, 3:6] = 255, 0
    stream = io.BytesIO()
    Image.fromarray(hole).save(stream, "PNG")
    mask = {"mask": base64.b64encode(stream.getvalue()).decode()}
    picture(root / "a.png")
    labelme(root / "a.json", [
        shape("nut", SQUARE),
        shape("nut", [[40, 5], [50, 5], [50, 15]], group_id=3),
        shape("nut", [[52, 20], [60, 20], [60, 30], [52, 30]], group_id=3),
        shape("date", [[5, 40], [25, 30]], "rectangle"),
        shape("date", [[40, 35], [40, 43]], "circle"),
        shape("hole", [[20, 30], [31, 39]], "mask", **mask),
        shape("__ignore__", [[1, 1], [2, 2]], "line"),
    ])  # fmt: skip
    picture(root / "sub/b.png")
    old = {"imageHeight": None, "imageWidth": None}
    labelme(root / "sub/b.json", [], imagePath="..\\sub\\b.png", **old)
    data = base64.b64encode(picture(root / "gone.png").read_bytes()).decode()
    (root / "gone.png").unlink()
    labelme(root / "c.json", [shape("date", SQUARE)], imagePath="C:\\photos\\x.png", imageData=data)
    return root


def test_labelme_becomes_coco_and_comes_back(tmp_path: Path) -> None:
    done = run("--data", labelme_folder(tmp_path / "in"), "--out", tmp_path / "coco", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["source"], told["num_images"], told["num_objects"]) == (
        "labelme", {"all": 3}, {"all": 6},
    )  # fmt: skip
    assert told["num_empty"] == {"all": 1}
    assert told["categories"] == ["date", "hole", "nut"]
    found = masks(tmp_path / "coco", "all")
    assert set(found) == {"a.png", "sub/b.png", "c.png"}
    assert len(found["a.png"]) == 5 and found["sub/b.png"] == []
    bitmaps = {n: rle_to_bitmap(r, HEIGHT, WIDTH) for n, r, _ in found["a.png"] if n == "hole"}
    assert bitmaps["hole"].sum() == 80 - 9 and bitmaps["hole"][31, 21] == 1
    circle = max(rle_to_bitmap(r, HEIGHT, WIDTH).sum() for n, r, _ in found["a.png"] if n == "date")
    assert abs(circle - np.pi * 64) < 12
    assert {f.kind for f in verify(tmp_path / "coco", "all").findings} <= {"image-copy"}
    index = open_split(tmp_path / "coco", "all")
    for i in range(3):
        assert resolve_image(tmp_path / "coco", "all", index.file_name(i)).is_file()
    back = run("--data", tmp_path / "coco", "--to", "labelme", "--out", tmp_path / "back")
    assert back.exit_code == 0, back.stderr
    again = run("--data", tmp_path / "back/all", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    assert masks(tmp_path / "again", "all") == found


def test_the_real_labelme_photographs_survive_both_ways(tmp_path: Path, shared: Path) -> None:
    data = shared / "data/fruits-nuts"
    for target in ("labelme", "yolo"):
        assert run("--data", data, "--to", target, "--out", tmp_path / target).exit_code == 0
        done = run("--data", tmp_path / target, "--out", tmp_path / f"{target}-coco")
        assert done.exit_code == 0, done.stderr
    whole = masks(data, "all")
    assert masks(tmp_path / "labelme-coco", "all") == whole
    found = masks(tmp_path / "yolo-coco", "train")
    assert set(found) == set(whole)
    # A line that runs exactly between two pixels may fall to the other by the tenth digit.
    off = [
        min(pixels_off(rle, other, 600, 800) for m, other, _ in found[name] if m == n)
        for name in whole
        for n, rle, _ in whole[name]
    ]
    assert len(off) == 165 and max(off) <= 4 and sum(n == 0 for n in off) >= 162


def test_real_coco_masks_survive_yolo(tmp_path: Path, shared: Path) -> None:
    data = shared / "data/coco-mini"
    assert run("--data", data, "--split", "val2017", "--out", tmp_path / "yolo").exit_code == 0
    done = run("--data", tmp_path / "yolo/data.yaml", "--out", tmp_path / "coco", "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["categories"]) == 80
    found, whole = masks(tmp_path / "coco", "val"), masks(data, "val2017")
    assert set(found) == set(whole)
    sizes = open_split(data, "val2017")
    off: list[int] = []
    for i in range(sizes.num_images):
        name, size = sizes.file_name(i), (int(sizes.heights[i]), int(sizes.widths[i]))
        wanted = [(n, rle) for n, rle, crowd in whole[name] if not crowd]
        got = [(n, rle) for n, rle, _ in found[name]]
        assert sorted(n for n, _ in got) == sorted(n for n, _ in wanted)
        for n, rle in wanted:
            off.append(min(pixels_off(rle, other, *size) for m, other in got if m == n))
    assert max(off) <= 4
    assert sum(n == 0 for n in off) > 0.99 * len(off)


# VOC


def voc_xml(path: Path, objects: str, name: str = "a.png", size: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = size or f"<width>{WIDTH}</width><height>{HEIGHT}</height>"
    path.write_text(f"<annotation><filename>{name}</filename><size>{size}</size>"
                    f"{objects}</annotation>")  # fmt: skip


NUMBERED = "".join(f"<x{k}>{x}</x{k}><y{k}>{y}</y{k}>" for k, (x, y) in enumerate(SQUARE, start=1))
POINTS = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in SQUARE)


def test_voc_polygons_of_both_forms(tmp_path: Path) -> None:
    for stem in "ab":
        picture(tmp_path / f"in/JPEGImages/{stem}.png")
    voc_xml(tmp_path / "in/Annotations/a.xml",
            f"<object><name>cat</name><bndbox/><polygon>{NUMBERED}</polygon></object>")  # fmt: skip
    voc_xml(tmp_path / "in/Annotations/b.xml", name="b.png",
            objects=f"<object><name>cat</name><polygon>{POINTS}</polygon></object>")  # fmt: skip
    for split, stem in (("train", "a"), ("val", "b")):
        path = tmp_path / f"in/ImageSets/Main/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{stem} 1\n")
    done = run("--data", tmp_path / "in", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    assert "voc to coco" in done.stdout
    rle = segmentation_to_rle([[v for p in SQUARE for v in p]], HEIGHT, WIDTH)
    assert masks(tmp_path / "o", "train") == {"a.png": [("cat", rle, False)]}
    assert masks(tmp_path / "o", "val") == {"b.png": [("cat", rle, False)]}


@pytest.mark.parametrize("has_classes", [True, False])
def test_voc_masks_with_holes_and_borders(tmp_path: Path, has_classes: bool) -> None:
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects[5:20, 5:25], objects[9:12, 9:12] = 1, 0
    objects[30:40, 10:20], objects[30:40, 40:50] = 2, 2
    objects[29, 10:20] = 255
    kinds = np.where(objects == 1, 12, np.where(objects == 2, 15, objects)).astype(np.uint8)
    root = tmp_path / "in/VOCdevkit/VOC2012"
    picture(root / "JPEGImages/a.jpg")
    folders = {"SegmentationObject": objects} | (
        {"SegmentationClass": kinds} if has_classes else {}
    )
    for folder, pixels in folders.items():
        (root / folder).mkdir()
        image = Image.fromarray(pixels).convert("P")
        image.putdata(pixels.ravel().tolist())
        image.save(root / folder / "a.png")
    voc_xml(root / "Annotations/a.xml", "<object><name>dog</name></object><object>"
            "<name>person</name></object>", "a.jpg")  # fmt: skip
    done = run("--data", tmp_path / "in", "--out", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["categories"]) == (20 if has_classes else 2)
    found = masks(tmp_path / "o", "all")["a.jpg"]
    assert found == [
        ("dog", bitmap_to_rle(objects == 1), False),
        ("person", bitmap_to_rle(objects == 2), False),
    ]
    assert verify(tmp_path / "o", "all").ok


def test_xml_that_declares_entities_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
    thief = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'
    for text in (bomb, thief):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(DataError, match="declares a document type"):
            read_xml(tmp_path / "a.xml")


# YOLO


def yolo_folder(root: Path, lines: str = "", yaml: str = "") -> Path:
    picture(root / "images/train/a.png")
    picture(root / "images/val/b.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text(lines or "1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (root / "data.yaml").write_text(
        yaml
        or "path: /nowhere/on/this/machine\ntrain: images/train\nval: ../images/val\n"
        "names: {0: cat, 1: dog}\n"
    )
    return root


def test_yolo_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    done = run("--data", yolo_folder(tmp_path / "in"), "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    index = open_split(tmp_path / "o", "train")
    assert [(c.id, c.name) for c in index.categories] == [(1, "cat"), (2, "dog")]
    np.testing.assert_allclose(index.segmentation(0)[0], [6.4, 4.8, 32, 4.8, 32, 24])
    assert open_split(tmp_path / "o", "val").num_annotations == 0


def test_labels_that_are_nowhere_are_no_data_set_of_empty_images(tmp_path: Path) -> None:
    root = yolo_folder(tmp_path / "in")
    (root / "labels").rename(root / "annotations")
    done = run("--data", root, "--out", tmp_path / "o")
    assert done.exit_code == 2 and "no image has an object" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_data_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    root = yolo_folder(tmp_path / "in", yaml="names: [cat\n")
    done = run("--data", root, "--from", "yolo", "--out", tmp_path / "o")
    assert done.exit_code == 2 and "data.yaml: is not plain YAML" in done.stderr


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    root = yolo_folder(tmp_path / "in")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images/train/a.png", exif=exif)
    assert run("--data", root, "--out", tmp_path / "o").exit_code == 0
    index = open_split(tmp_path / "o", "train")
    assert (index.widths[0], index.heights[0]) == (HEIGHT, WIDTH)


# Wrong input


@pytest.mark.parametrize(
    ("shapes", "more", "said"),
    [
        ([shape("a", [[1, 1], [9, 9]], "line")], {}, "shape 1 (a): is a line, which encloses"),
        ([shape("a", SQUARE), shape("b", SQUARE[:2])], {}, "shape 2 (b): has fewer than 3 points"),
        ([shape("a", SQUARE, "circle")], {}, "is a circle of 4 points, not 2"),
        ([shape("a", [[1, 1], [4, 4]], "mask", mask="x")], {}, "its mask is no base64"),
        ([shape("a", [[1, 1], [4, 4]], "mask")], {}, "is a mask without"),
        ([shape("a", [[900, 900], [950, 900], [950, 950]])], {}, "covers no pixel of its image"),
        ([], {"imageWidth": 65}, "says that its image has 65x48 pixels, and it has 64x48"),
        ([], {"imagePath": "none.png"}, "the image 'none.png' is not there"),
        ([], {"imagePath": 7}, "is no labelme file (Expected `str`"),
        ([], {"imagePath": "none.png", "imageData": "%"}, "imageData is no base64"),
    ],
)
def test_a_bad_labelme_file_is_named_and_can_be_left_out(
    tmp_path: Path, shapes: Any, more: dict[str, Any], said: str
) -> None:
    root = tmp_path / "in"
    for stem in ("bad", "good"):
        picture(root / f"{stem}.png")
    labelme(root / "good.json", [shape("a", SQUARE)])
    labelme(root / "bad.json", shapes, **more)
    done = run("--data", root, "--out", tmp_path / "o")
    assert done.exit_code == 2 and said in done.stderr and "bad" in done.stderr, done.stderr
    assert error_lines(done) == 1 and "--skip-bad" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["in"]
    done = run("--data", root, "--out", tmp_path / "o", "--skip-bad", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["num_images"] == {"all": 1} and said in told["left_out"][0]
    assert written(tmp_path / "o") == {"annotations/instances_all.json", "all/good.png"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2 0.2", "a.txt:1: has a box and no outline"),
        ("0 0.1 0.1 0.5 0.1", "a.txt:1: has a box and no outline"),
        ("0 0.1 0.1 0.5 0.1 0.5", "has 5 numbers"),
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", "is of class 2, and data.yaml names 2"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5", "has a number outside 0 to 1"),
        ("0 0.1 0.1 12 0.1 0.5 0.5", "has a number outside 0 to 1"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "is no line of numbers"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "covers no pixel"),
    ],
)
def test_a_bad_yolo_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    done = run("--data", yolo_folder(tmp_path / "in", line), "--out", tmp_path / "o")
    assert done.exit_code == 2 and said in done.stderr, (done.stderr, done.exception)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("objects", "size", "said"),
    [
        ("<object><name>cat</name><bndbox/></object>", "", "object 1 (cat): has a box and no poly"),
        (f"<object><polygon>{NUMBERED}</polygon></object>", "", "object 1: has no name"),
        ("<object><name>c</name><polygon><x1>1</x1></polygon></object>", "", "no pair of numbers"),
        ("<object><name>c</name><polygon><x1>1</x1><y1>1</y1></polygon></object>", "", "3 points"),
        ("", "<width>9</width>", "has no size/height"),
        ("", "<width>9</width><height>9</height>", "has 9x9 pixels, and it has 64x48"),
        ("<object>", "", "is no XML"),
    ],
)
def test_a_bad_voc_file_is_named(tmp_path: Path, objects: str, size: str, said: str) -> None:
    picture(tmp_path / "in/a.png")
    voc_xml(tmp_path / "in/a.xml", objects, size=size)
    done = run("--data", tmp_path / "in", "--from", "voc", "--out", tmp_path / "o")
    assert done.exit_code == 2 and said in done.stderr, (done.stderr, done.exception)
    assert not (tmp_path / "o").exists()


def test_the_format_is_told_from_the_content(tmp_path: Path, made_up: Path) -> None:
    assert recognised(labelme_folder(tmp_path / "l")) == "labelme"
    assert recognised(yolo_folder(tmp_path / "y")) == "yolo"
    assert recognised(made_up) == "coco"
    picture(tmp_path / "v/a.png")
    voc_xml(tmp_path / "v/a.xml", "")
    assert recognised(tmp_path / "v") == "voc"
    (tmp_path / "v/data.yaml").write_text("names: [a]\ntrain: .\n")
    with pytest.raises(DataError, match="could be voc or yolo; say which: --from NAME"):
        recognised(tmp_path / "v")
    (tmp_path / "n").mkdir()
    with pytest.raises(DataError, match="holds no data set of coco, labelme, voc, yolo"):
        recognised(tmp_path / "n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "yolo", "--to", "labelme"], "yolo is not converted to labelme"),
        (["--from", "coco", "--to", "coco"], "coco is not converted to coco"),
        (["--from", "kitti"], "kitti is not converted to coco"),
        (["--split", "test"], "no split 'test'; there are train, val"),
        (["--categories", "cat"], "'dog' is none of the categories"),
        (["--from", "labelme", "--images", "move"], "'move' is none of link, symlink, copy"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = run("--data", yolo_folder(tmp_path / "in"), "--out", tmp_path / "o", *words)
    assert done.exit_code == 2 and said in done.stderr, (done.stderr, done.exception)
    assert error_lines(done) == 1 and not (tmp_path / "o").exists()


def test_made_up_crowds_are_kept_by_labelme_and_told_by_yolo(made_up: Path, tmp_path: Path) -> None:
    done = run("--data", made_up, "--to", "labelme", "--out", tmp_path / "l")
    assert done.exit_code == 0, done.stderr
    done = run("--data", tmp_path / "l", "--out", tmp_path / "c")
    assert done.exit_code == 0, done.stderr
    assert masks(tmp_path / "c", "train2017") == masks(made_up, "train2017")
    done = run("--data", made_up, "--split", "train2017", "--out", tmp_path / "y")
    assert done.exit_code == 0 and "crowds were left out" in done.stdout, done.stderr
    done = run("--data", tmp_path / "y", "--out", tmp_path / "yc")
    whole = {k: [m for m in v if not m[2]] for k, v in masks(made_up, "train2017").items()}
    assert masks(tmp_path / "yc", "train") == whole
