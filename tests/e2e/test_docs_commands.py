"""The commands of the documentation, run as they stand there, on folders of the names they use.

What trains or labels is made small by options put behind the command's own. Commands that need what
a machine without network, cards or hosts has not are listed with the test that runs their like.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "cli"), str(TESTS / "data")]

from command import raymrcnn  # noqa: E402
from test_convert import labelme_folder, picture, voc_xml, yolo_folder  # noqa: E402
from test_docs import block_commands  # noqa: E402

from raymrcnn.data.synthetic import write_synthetic  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ELSEWHERE = {
    r"data fetch": "data/test_coco2017.py",
    r"weights fetch": "test_download.py",
    r"e2e_mask_rcnn_R_101_FPN_1x|R-101\.pkl|COCO_V1": "weights/test_programs.py",
    r"s3://": "e2e/test_predictions_behind_a_uri.py",
    r"--cluster|/shared/": "cluster/test_three_hosts.py",
    r"--device mlu": "e2e/test_mlu_cards.py",
    r"-completion": "cli/test_surface.py",
    r"^raymrcnn demo": "check_demo.py",
}
SMALL = ("data.short_side=96", "data.long_side=128", "optim.max_iter=2", "optim.steps=[1]",
         "optim.batch_size=2", "checkpoint.every=2")  # fmt: skip
SHRINK = {
    "train": ["--recipe", "tiny", "--workers", "1", "--device", "cpu",
              *(word for change in SMALL for word in ("--set", change))],
    "infer": ["--device", "cpu", "--workers", "1", "--limit", "2"],
}  # fmt: skip


def elsewhere(text: str) -> str | None:
    return next((where for kind, where in ELSEWHERE.items() if re.search(kind, text)), None)


def commands_here() -> list[tuple[str, str]]:
    """Each of them once, however many pages have it."""
    once = {
        tuple(shlex.split(text, comments=True)): (page, text) for page, text in block_commands()
    }
    return [(page, text) for page, text in once.values() if elsewhere(text) is None]


HERE = commands_here()


WRITTEN_IN_PLACE = (".json", ".jsonl", ".lock", "")  # others are replaced, if at all


def linked(source: str, target: str) -> None:
    """A copy of a file that a command might write into; another name for one that none does."""
    (shutil.copy2 if Path(source).suffix in WRITTEN_IN_PLACE else os.link)(source, target)


def rename(path: Path, ids: tuple[int, ...] = ()) -> None:
    """Categories as the pages call them, and other ids: those given for the first images."""
    document = json.loads(path.read_text())
    for category, name in zip(document["categories"], ("cat", "dog", "fig"), strict=False):
        category["name"] = name
    old = [image["id"] for image in document["images"]]
    new = {k: ids[n] if n < len(ids) else 10_000 + k for n, k in enumerate(old)}
    for image in document["images"]:
        image["id"] = new[image["id"]]
    for annotation in document["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]
    path.write_text(json.dumps(document))


def own_data(root: Path, coco: Path) -> None:
    """A data set with splits under all the names that the pages use."""
    (root / "annotations").mkdir(parents=True)
    for name, source in (("train", "train2017"), ("train2017", "train2017"), ("val", "val2017"),
                         ("val2017", "val2017")):  # fmt: skip
        shutil.copytree(coco / source, root / name, copy_function=os.link)
        annotations = root / f"annotations/instances_{name}.json"
        document = json.loads((coco / f"annotations/instances_{source}.json").read_text())
        document["annotations"][0]["area"] = 1e6  # for `verify` to find
        annotations.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One Ray for all commands."""
    from raymrcnn.device.accelerator import CPU
    from raymrcnn.device.on_ray import ray_session

    with ray_session(None, CPU, 2):
        yield


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory, session: None) -> Path:
    """The folders that the pages speak of; each command gets a copy."""
    home = tmp_path_factory.mktemp("scenery")
    coco = home / "coco"
    write_synthetic(coco, 640, seed=3, min_side=48, max_side=64)
    rename(coco / "annotations/instances_train2017.json")
    rename(coco / "annotations/instances_val2017.json", (139, 285, 632))
    own_data(home / "own", coco)
    shutil.copytree(coco, home / "DATA", copy_function=os.link)
    shutil.copytree(coco / "val2017", home / "photos", copy_function=os.link)
    labelme_folder(home / "labelled")
    yolo_folder(home / "yolo", lines="1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    picture(home / "VOCdevkit/VOC2012/JPEGImages/a.png")
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((5, 5), (25, 5), (25, 20)))
    voc_xml(home / "VOCdevkit/VOC2012/Annotations/a.xml",
            f"<object><name>cat</name><polygon>{points}</polygon></object>")  # fmt: skip
    before = Path.cwd()
    os.chdir(home)
    try:
        run = "train --data own --recipe tiny --out runs/own"
        label = "infer --data own --split val2017 --weights runs/own --out predictions"
        for words in (run, f"{label} --coco-json dt.json"):
            done = raymrcnn(*shlex.split(words), *SHRINK[words.split()[0]])
            assert done.exit_code == 0, done.stderr
        verify = raymrcnn(*shlex.split("data verify --data own --split train --json"))
        Path("findings.json").write_text(verify.stdout)
        recipe = raymrcnn("recipes", "tiny", "--json")
        Path("mine.json").write_text(recipe.stdout)
        for name in ("r101", "a", "b", "mine"):
            shutil.copytree("runs/own", f"runs/{name}")
        for name in ("a", "b", "predictions-a", "predictions-b"):
            shutil.copytree("predictions", name)
        shutil.copy("own/annotations/instances_val2017.json", ".")
        shutil.copy(next(Path("runs/own/checkpoints").glob("*/model.safetensors")), "FILE")
    finally:
        os.chdir(before)
    return home


@pytest.mark.parametrize(("page", "text"), HERE)
def test_a_command_of_the_docs_runs(
    page: str, text: str, scenery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(scenery, home, copy_function=linked)
    monkeypatch.chdir(home)
    words = shlex.split(text, comments=True)[1:]
    noun = next((word for word in words if not word.startswith("-")), "")
    if noun in ("data", "train", "infer", "weights") and "--out" in words:
        made = Path(words[words.index("--out") + 1])
        if made.is_dir():  # the page makes it, and others read it
            shutil.rmtree(made)
    if "--split all" in text or "--data whole" in text:
        root = Path(words[words.index("--data") + 1])
        shutil.rmtree(root, ignore_errors=True)
        (root / "images").mkdir(parents=True)
        document = json.loads((home / "coco/annotations/instances_val2017.json").read_text())
        for n, image in enumerate(document["images"]):
            name = f"scene{n // 4}-{image['file_name']}"
            os.link(home / "coco/val2017" / image["file_name"], root / "images" / name)
            image["file_name"] = name
        (root / "instances.json").write_text(json.dumps(document))
    if noun == "infer" and "--weights" not in words:  # the default is torchvision's, published
        words += ["--weights", "runs/own"]
    done = raymrcnn(*words, *SHRINK.get(noun, []))
    assert done.exit_code == 0, (done.stdout[-500:], done.stderr[-500:], done.exception)
    assert done.stdout or "--quiet" in words or "-q" in words
    monkeypatch.chdir(scenery)
    shutil.rmtree(home)  # a copy for each command is much


def test_commands_that_are_not_run_here_name_a_test_that_is_there() -> None:
    assert all((TESTS / where).is_file() for where in ELSEWHERE.values())
    assert len(HERE) > 50
