"""A data set for the eyes: the images asked for, with what the file says and what was found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from raymrcnn.cli.main import app
from raymrcnn.data.coco import open_split
from raymrcnn.data.synthetic import CATEGORIES

HOSTILE = "</script><script>alert(1)</script>"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


@pytest.fixture
def damaged(made_up: Path, tmp_path: Path) -> Path:
    """The training split with a mask that is none, a box outside, an image gone, a hostile name."""
    root = tmp_path / "damaged"
    shutil.copytree(made_up, root)
    path = root / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = HOSTILE
    first, second, third = document["annotations"][:3]
    first["segmentation"] = [[1, 1, 2, 2]]
    second["bbox"] = [90, 90, 500, 500]
    third["category_id"] = 77
    gone = document["images"][-1]
    (root / "train2017" / gone["file_name"]).unlink()
    path.write_text(json.dumps(document))
    return root


def test_a_page_stands_alone_and_has_the_objects_of_its_images(
    made_up: Path, tmp_path: Path
) -> None:
    out = tmp_path / "view.html"
    done = run("view", "--data", made_up, "--number", 6, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    text = out.read_text()
    index = open_split(made_up, "train2017")
    rows = index.images_with_ids(told["image_ids"])
    objects = [index.annotations_of(i) for i in rows.tolist()]
    assert told["num_images"] == 6 == text.count("data:image/jpeg;base64,")
    assert (
        told["num_objects"] == sum(map(len, objects)) == len(re.findall(r'<g class="found', text))
    )
    assert text.count(' crowd"') == sum(int(o.iscrowd.sum()) for o in objects)
    for name in CATEGORIES.values():
        count = sum(int((o.category_ids == {v: k for k, v in CATEGORIES.items()}[name]).sum())
                    for o in objects)  # fmt: skip
        assert (f">{name} ({count})</option>" in text) == (count > 0)
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "default-src" in text
    again = run("view", "--data", made_up, "--number", 6, "--out", tmp_path / "b.html")
    assert again.exit_code == 0 and (tmp_path / "b.html").read_text() == text


def test_a_picture_is_a_grid(made_up: Path, tmp_path: Path) -> None:
    for number in (1, 5):
        out = tmp_path / f"{number}.png"
        assert run("view", "--data", made_up, "--number", number, "--out", out).exit_code == 0
        with Image.open(out) as image:
            columns, rows = {1: (1, 1), 5: (3, 2)}[number]
            assert image.size == (columns * 650 + 10, rows * 514 + 10)
            assert len(image.getcolors(1 << 22) or ()) > 1000


def test_findings_lead_to_their_images(damaged: Path, tmp_path: Path) -> None:
    report = tmp_path / "findings.json"
    report.write_text(run("verify", "--data", damaged, "--json").stdout)
    out = tmp_path / "view.html"
    done = run("view", "--data", damaged, "--findings", report, "--out", out, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    told = json.loads(done.stdout)
    found = json.loads(report.read_text())["findings"]
    by_image = {f["id"] for f in found if f["section"] == "images"}
    assert by_image and by_image <= set(told["image_ids"])
    text = out.read_text()
    assert "polygon 0 has 4 numbers" in text and "stands out of its" in text
    assert any("is not shown: cannot read the image" in note for note in told["notes"])
    assert any("only its box is drawn" in note for note in told["notes"])
    assert HOSTILE not in text and "category 77" in text
    missing = [f["id"] for f in found if f["kind"] == "image-missing"]
    one = run("view", "--data", damaged, "--findings", report, "--kind", "image-missing", "--out",
              tmp_path / "one.png", "--json")  # fmt: skip
    assert json.loads(one.stdout)["image_ids"] == missing


def test_sharded_sets_and_chosen_images_are_drawn(made_up: Path, tmp_path: Path) -> None:
    assert run("shard", "--data", made_up, "--out", tmp_path / "s").exit_code == 0
    ids = open_split(made_up, "train2017").image_ids.tolist()[3:6]
    pages = []
    for root in (made_up, tmp_path / "s"):
        out = tmp_path / "x" / root.name / "v.html"
        words = ["view", "--data", root, "--ids", ",".join(map(str, ids)), "--out", out, "--json"]
        done = run(*words)
        assert json.loads(done.stdout)["image_ids"] == ids, done.stderr
        pages.append(re.sub(r"<(title|h1)>.*?</\1>", "", out.read_text()))
    assert pages[0] == pages[1]
    done = run("view", "--data", made_up, "--category", "circle", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x.jpg"], "x.jpg is neither .html nor .png"),
        (["--number", "401"], "o.html: takes 400 images at most"),
        (["--category", "bird"], "no category 'bird'"),
        (["--ids", "99999"], "no image has the id or the name '99999'"),
        (["--findings", "nowhere.json"], "nowhere.json: cannot read"),
        (["--findings", "{empty}"], "no finding is of an image of this split"),
        (["--findings", "{other}"], "holds no findings"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    made_up: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    for name, document in {"empty": {"findings": []}, "other": [1]}.items():
        (tmp_path / name).write_text(json.dumps(document))
    given = [w.format(empty=tmp_path / "empty", other=tmp_path / "other") for w in words]
    out = [] if "--out" in words else ["--out", tmp_path / "o.html"]
    done = run("view", "--data", made_up, *out, *given)
    assert done.exit_code == 2 and said in done.stderr, (done.stderr, done.exception)
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "o.html").exists()


def dom_of(page: Path, profile: Path) -> str:
    """The page after its scripts ran, in a browser that had nothing to complain of."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--enable-logging=stderr",
             "--virtual-time-budget=1000", "--dump-dom", page.as_uri()]  # fmt: skip
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in ran.stderr
    return ran.stdout


def test_the_switches_and_the_choice_of_a_category_work(made_up: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    words = ["view", "--data", made_up, "--number", 5, "--out", out, "--json"]
    told: dict[str, Any] = json.loads(run(*words).stdout)
    dom = dom_of(out, tmp_path / "profile")
    assert f"{told['num_objects']} objects in 5 images" in dom
    assert "no-masks" not in dom.partition("<style>")[0]
    index = open_split(made_up, "train2017")
    rows = index.images_with_ids(told["image_ids"]).tolist()
    category = max(CATEGORIES)
    counts = [int((index.annotations_of(i).category_ids == category).sum()) for i in rows]
    assert sum(counts)
    hand = """<script>
      var choice = document.getElementById("category");
      choice.value = "CATEGORY";
      choice.dispatchEvent(new Event("change"));
      document.querySelector("input[data-shows=masks]").click();
    </script></body>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", out.read_text())
    (tmp_path / "used.html").write_text(
        text.replace("</body>", hand.replace("CATEGORY", str(category)))
    )
    dom = dom_of(tmp_path / "used.html", tmp_path / "profile")
    images = sum(n > 0 for n in counts)
    assert re.search(rf">{sum(counts)} objects? in {images} images?<", dom)
    assert 'class="js no-masks"' in dom
    assert len(re.findall(r'<article class="card shot" hidden', dom)) == 5 - images
