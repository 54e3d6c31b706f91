"""Subsets and splits: every image once, the shares asked for, rare categories everywhere."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from raymrcnn.cli.main import app
from raymrcnn.data.coco import open_split
from raymrcnn.data.images import resolve_image
from raymrcnn.data.select import Wanted, split, subset
from raymrcnn.data.stratify import draw_key, split_sizes, stratify
from raymrcnn.data.verify import verify
from raymrcnn.errors import ConfigError, DataError, OutputError

NAMES = {7: "cat", 3: "dog", 11: "rare", 20: "nowhere"}


def write_coco(root: Path, *, order: int = 0, num: int = 40) -> Path:
    """A data set of tiny images in scenes of four; `order` shuffles the annotation file."""
    folder = root / "train2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir()
    images: list[Any] = []
    annotations: list[Any] = []
    for k in range(1, num + 1):
        name = f"scene{(k - 1) // 4:02d}-{k:03d}.png"
        Image.new("RGB", (16, 12), (k, 0, 0)).save(folder / name)
        images.append({"id": k, "file_name": name, "width": 16, "height": 12, "license": k % 3})
        kinds = [7] * (k % 3) + [3] * (k % 2) + ([11] if k in (5, 6, 7) else [])
        for n, kind in enumerate(kinds):
            annotations.append(
                {"id": 10 * k + n, "image_id": k, "category_id": kind, "iscrowd": 0, "area": 9,
                 "bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "by": "me"}
            )  # fmt: skip
    annotations.append(
        {"id": 9999, "image_id": 3, "category_id": 7, "iscrowd": 1, "area": 12,
         "bbox": [0, 0, 1, 12], "segmentation": {"size": [12, 16], "counts": [0, 12, 180]}}
    )  # fmt: skip
    categories = [{"id": k, "name": v, "supercategory": "thing"} for k, v in NAMES.items()]
    if order:
        for entries in (images, annotations, categories):
            random.Random(order).shuffle(entries)
    document = {"images": images, "annotations": annotations, "categories": categories,
                "info": {"year": 2026}, "licenses": [{"id": 1, "name": "free"}]}  # fmt: skip
    (root / "annotations/instances_train2017.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


def read(root: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / f"annotations/instances_{name}.json").read_text())
    return document


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


# Which split


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("num", "shares"), [(2, [0.5, 0.5]), (11, [0.8, 0.2]), (97, [0.7, 0.2, 0.1]), (300, [0.9, 0.1])]
)
def test_shares_are_kept_and_frequent_enough_categories_are_everywhere(
    seed: int, num: int, shares: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    counts = (rng.random((num, 6)) < [0.9, 0.5, 0.2, 0.05, 0.02, 0]).astype(np.int64)
    keys = [draw_key(seed, k) for k in range(num)]
    found = stratify(counts, [1] * num, shares, keys)
    sizes = np.bincount(found, minlength=len(shares)).tolist()
    assert sizes == split_sizes(num, shares) and sum(sizes) == num
    assert all(abs(size - num * share) < 1 for size, share in zip(sizes, shares, strict=True))
    assert (found == stratify(counts, [1] * num, shares, keys)).all()
    if num >= 97:
        for category in range(6):
            has = np.flatnonzero(counts[:, category])
            if len(has) >= len(shares):
                assert set(found[has].tolist()) == set(range(len(shares))), category


def test_rare_categories_are_spread_better_than_by_chance() -> None:
    shares = [0.8, 0.2]
    misses: dict[str, float] = {"stratified": 0.0, "chance": 0.0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        counts = (rng.random((200, 20)) < np.geomspace(0.5, 0.01, 20)).astype(np.int64)
        keys = [draw_key(seed, k) for k in range(200)]
        chance = np.zeros(200, np.int64)
        chance[rng.permutation(200)[:40]] = 1
        for name, found in (
            ("stratified", stratify(counts, [1] * 200, shares, keys)),
            ("chance", chance),
        ):
            inside = counts[found == 1].sum(axis=0)
            misses[name] += float(np.abs(inside - 0.2 * counts.sum(axis=0)).mean())
    assert misses["stratified"] < 0.4 * misses["chance"]


def test_groups_fill_the_splits_as_well_as_they_can() -> None:
    sizes = [10, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    counts = np.array([[s, k % 2] for k, s in enumerate(sizes)])
    found = stratify(counts, sizes, [0.5, 0.5], list(range(10)))
    assert np.bincount(found, weights=sizes).tolist() == [10, 10]
    assert stratify(np.ones((1, 1), np.int64), [5], [0.5, 0.5], [0]).tolist() in ([0], [1])


@pytest.mark.parametrize("images", ["link", "symlink", "copy"])
def test_every_image_is_in_exactly_one_split_with_all_its_annotations(
    coco: Path, tmp_path: Path, images: str
) -> None:
    shares = {"train": 0.7, "val": 0.2, "test": 0.1}
    done = split(coco, "train2017", tmp_path / "out", shares, seed=3, images=images)
    assert done.num_images == {"train": 28, "val": 8, "test": 4}
    whole = read(coco, "train2017")
    parts = [read(tmp_path / "out", name) for name in shares]
    for kind in ("images", "annotations"):
        listed = [json.dumps(e) for part in parts for e in part[kind]]
        assert sorted(listed) == sorted(json.dumps(e) for e in whole[kind])
    for name, part in zip(shares, parts, strict=True):
        assert part["info"] == {"year": 2026}
        assert len(part["categories"]) == 4
        inside = {image["id"] for image in part["images"]}
        assert all(a["image_id"] in inside for a in part["annotations"])
        assert verify(tmp_path / "out", name).ok
        assert done.categories["rare"][list(shares).index(name)] == 1
    how = {"link": "hard links", "symlink": "symbolic links", "copy": "copies"}[images]
    assert done.images_are == {how: 40}
    path = next((tmp_path / "out/val").iterdir())
    assert path.is_symlink() == (images == "symlink")
    assert path.samefile(coco / "train2017" / path.name) == (images != "copy")


def test_the_order_of_the_file_changes_nothing_and_the_seed_does(
    coco: Path, tmp_path: Path
) -> None:
    def texts(root: Path, out: str, seed: int) -> list[str]:
        place = tmp_path / out
        split(root, "train2017", place / "a", {"x": 0.6, "y": 0.4}, seed=seed, group=r"^scene\d\d")
        subset(root, "train2017", place / "b", Wanted(number=9, seed=seed, categories=("cat",)))
        return [p.read_text() for p in sorted(place.rglob("*.json"))]

    shuffled = write_coco(tmp_path / "shuffled", order=5)
    assert texts(coco, "1", 0) == texts(shuffled, "2", 0)
    assert texts(coco, "3", 1) != texts(coco, "4", 2)


def test_groups_stay_together(coco: Path, tmp_path: Path) -> None:
    done = run("split", "--data", coco, "--split", "train2017", "--out", tmp_path / "o",
               "--group", r"^(scene\d+)-", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["num_groups"], told["num_ungrouped"]) == (10, 0)
    assert told["num_images"] == {"train": 32, "val": 8}
    scenes = [
        {image["file_name"][:7] for image in read(tmp_path / "o", name)["images"]}
        for name in ("train", "val")
    ]
    assert not scenes[0] & scenes[1]


# Which images


def ids(root: Path, out: Path, wanted: Wanted) -> list[int]:
    subset(root, "train2017", out, wanted)
    return [image["id"] for image in read(out, "train2017")["images"]]


def test_a_subset_takes_what_fits(coco: Path, tmp_path: Path) -> None:
    rare = ids(coco, tmp_path / "a", Wanted(categories=("rare",)))
    assert rare == [5, 6, 7]
    document = read(tmp_path / "a", "train2017")
    assert {a["category_id"] for a in document["annotations"]} == {11}
    assert document["annotations"][0]["by"] == "me" and document["images"][0]["license"] == 2
    assert [c["name"] for c in document["categories"]] == ["rare"]
    ids(coco, tmp_path / "b", Wanted(categories=("rare",), all_objects=True))
    document = read(tmp_path / "b", "train2017")
    assert {a["category_id"] for a in document["annotations"]} == {3, 7, 11}
    assert len(document["categories"]) == 4
    assert ids(coco, tmp_path / "c", Wanted(min_objects=4)) == [5]
    assert 3 not in ids(coco, tmp_path / "d", Wanted(min_objects=2))  # a crowd does not count
    some = ids(coco, tmp_path / "e", Wanted(number=10, seed=4))
    more = ids(coco, tmp_path / "f", Wanted(number=20, seed=4))
    assert len(some) == 10 and set(some) < set(more)
    assert ids(coco, tmp_path / "g", Wanted(listed=("12", "scene00-001.png"))) == [1, 12]
    assert verify(tmp_path / "g", "train2017").ok


def test_a_list_file_of_fetch_is_taken(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("./images/train2017/scene00-002.png\n40\n\n")
    done = run("subset", "--data", coco, "--ids", tmp_path / "list.txt", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    assert [i["id"] for i in read(tmp_path / "o", "train2017")["images"]] == [2, 40]


def test_a_sharded_set_is_taken_from(coco: Path, tmp_path: Path) -> None:
    assert run("shard", "--data", coco, "--out", tmp_path / "s").exit_code == 0
    subset(tmp_path / "s", "train2017", tmp_path / "o", Wanted(listed=("4",)))
    path = resolve_image(tmp_path / "o", "train2017", "scene00-004.png")
    assert path.read_bytes() == (coco / "train2017/scene00-004.png").read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["subset", "--category", "bird"], "no category 'bird'; there are dog, cat, rare, nowhere"),
        (["subset", "--number", "41"], "41 images are wanted, and 40 of 40 fit"),
        (["subset", "--category", "nowhere"], "no image fits"),
        (["subset", "--ids", "1,77"], "no image has the id or the name '77'"),
        (["subset", "--ids", ","], "the list is empty"),
        (["subset", "--images", "move"], "'move' is none of link, symlink, copy"),
        (["split", "--fractions", "a=0.5,b=0.4"], "the shares add up to 0.9, not 1"),
        (["split", "--fractions", "a=1"], "a=1 is no share between 0 and 1"),
        (["split", "--fractions", "a=0.5,a=0.5"], "'a=0.5' is no NAME=SHARE, or comes twice"),
        (["split", "--fractions", "a:0.5"], "'a:0.5' is no NAME=SHARE"),
        (["split", "--fractions", "../a=0.5,b=0.5"], "'../a' is no name for a split"),
        (["split", "--group", "("], "is no pattern"),
        (["split", "--group", "shot"], "'shot' matches no file name, as 'scene00-001.png'"),
        (["split", "--group", "scene"], "nothing is left for"),
    ],
)
def test_a_wish_that_cannot_be_is_one_line(
    coco: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    command, *options = words
    done = run(command, "--data", coco, "--split", "train2017", "--out", tmp_path / "o", *options)
    assert done.exit_code == 2 and said in done.stderr, (done.stderr, done.exception)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_nothing_is_written_over_and_nothing_half(coco: Path, tmp_path: Path) -> None:
    place = tmp_path / "there"
    place.mkdir()
    (place / "mine").write_text("mine")
    with pytest.raises(OutputError, match="the folder is not empty"):
        split(coco, "train2017", place, {"a": 0.5, "b": 0.5})
    broken = write_coco(tmp_path / "broken", num=8)
    (broken / "train2017/scene01-005.png").unlink()
    with pytest.raises(DataError, match="1 of 8 image files are missing"):
        split(broken, "train2017", tmp_path / "o", {"a": 0.5, "b": 0.5})
    assert os.listdir(place) == ["mine"] and not (tmp_path / "o").exists()
    assert not list(tmp_path.glob(".tmp*"))
    with pytest.raises(ConfigError, match="8 images cannot be split in 9"):
        split(broken, "train2017", tmp_path / "o", {f"s{k}": 1 / 9 for k in range(9)})


def test_entries_that_share_a_file_share_it_afterwards(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "in", num=4)
    path = root / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["images"][1]["file_name"] = document["images"][0]["file_name"]
    path.write_text(json.dumps(document))
    subset(root, "train2017", tmp_path / "o", Wanted())
    assert open_split(tmp_path / "o", "train2017").num_images == 4
    assert len(list((tmp_path / "o/train2017").iterdir())) == 3
