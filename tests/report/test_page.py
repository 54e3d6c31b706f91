from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_folders import CATEGORIES, HOSTILE, Folders, detections_of

from raymrcnn import rundir
from raymrcnn.data.coco import open_split
from raymrcnn.data.shards import write_shards
from raymrcnn.errors import ConfigError, DataError, OutputError
from raymrcnn.masks import bitmap_to_rle
from raymrcnn.report import size
from raymrcnn.report.page import write_report
from raymrcnn.rows import coco_results, iter_detections, results_table
from raymrcnn.score.coco import match_shard, merge

VOID = {"meta", "input", "br", "img", "link", "wbr"}
SECTIONS = (
    *("about", "accuracy", "categories", "mistakes", "detections", "images", "failures"),
    *("training", "again"),
)


class Page(HTMLParser):
    """Reads a page, and fails where an element is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text += data

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.elements if "id" in attrs]

    def sections(self) -> list[str]:
        return [attrs["id"] or "" for tag, attrs in self.elements if tag == "section"]

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(attrs.get(k.rstrip("_")) == v for k, v in wanted.items())
            for name, attrs in self.elements
        )


def page_of(folders: list[Path], out: Path, **options: object) -> Page:
    return Page(write_report(folders, out, **options))  # type: ignore[arg-type]


def test_run_and_predictions_fill_all_sections(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.run, folders.predictions], tmp_path / "r.html")
    assert page.sections() == list(SECTIONS)
    assert "Not in this report" not in page.text
    assert "0.432" in page.text  # mask AP
    assert "tiny on data" in page.text
    assert "Total loss" in page.text and "Learning rate" in page.text
    for title in ("RPN objectness", "RPN boxes", "Classes", "Boxes", "Masks", "Throughput"):
        assert title in page.text
    assert page.count("article", class_="card shot") == 12


def test_mistakes_are_shown_as_the_scores_state_them(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.predictions], tmp_path / "r.html")
    for text in ("+0.123", "1\u202f234", "expected error 0.077", "Confusions, masks"):
        assert text in page.text
    detail = json.loads((folders.predictions / rundir.SCORES).read_text())["detail"]
    assert page.count("h3") and len(detail) == 2
    plain = tmp_path / "plain"
    shutil.copytree(folders.predictions, plain)
    without = json.loads((plain / rundir.SCORES).read_text())
    for broken in ({}, {"segm": {"errors": 3, "confusion": {"pairs": [1, {}]}}}, 7):
        (plain / rundir.SCORES).write_text(json.dumps({**without, "detail": broken}))
        found = page_of([plain], tmp_path / "p.html")
        assert ("mistakes" in found.sections()) == (broken not in ({}, 7))
        assert ("score --detail" in found.text) == (broken in ({}, 7))


def test_page_names_no_other_file_and_no_address(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.run, folders.predictions], tmp_path / "r.html")
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "@import" not in page.source and "url(" not in page.source
    for tag, attrs in page.elements:
        assert "src" not in attrs and tag not in ("link", "iframe", "object", "base")
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))


def test_links_and_labels_lead_to_ids_that_exist_once(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.run, folders.predictions], tmp_path / "r.html")
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "data-filters"):
            assert attrs.get(name) in (None, *ids)
        link = attrs.get("href") or ""
        assert not link.startswith("#") or link[1:] in ids


def test_names_of_categories_and_files_are_shown_and_never_run(
    folders: Folders, tmp_path: Path
) -> None:
    page = page_of([folders.run, folders.predictions], tmp_path / "r.html")
    assert page.count("script") == 1
    assert HOSTILE not in page.source
    assert html.escape(HOSTILE) in page.source
    assert HOSTILE in page.text
    assert CATEGORIES[7] in page.text
    assert f"{HOSTILE}3.jpg" in page.text


def test_policy_lets_only_the_own_script_run(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.run], tmp_path / "r.html")
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert policy and f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_drawing_is_described_or_hidden(folders: Folders, tmp_path: Path) -> None:
    page = page_of([folders.run, folders.predictions], tmp_path / "r.html")
    for tag, attrs in page.elements:
        if tag == "svg":
            described = attrs.get("role") == "img" and attrs.get("aria-label")
            assert described or attrs.get("aria-hidden") == "true"


def test_run_alone_says_what_is_left_out(folders: Folders) -> None:
    target = write_report([folders.run])
    assert target == folders.run / "report.html"
    page = Page(target)
    assert page.sections() == ["about", "training", "again"]
    assert "Accuracy: no predictions folder was given." in page.text


def test_predictions_alone_say_what_is_left_out(folders: Folders) -> None:
    page = Page(write_report([folders.predictions]))
    assert page.sections() == [name for name in SECTIONS if name != "training"]
    assert "Training: no run folder was given." in page.text


def test_predictions_without_optional_files_are_enough(folders: Folders) -> None:
    for name in (rundir.SCORES, rundir.MANIFEST, rundir.FAILURES):
        (folders.predictions / name).unlink()
    page = Page(write_report([folders.predictions]))
    assert page.sections() == ["about", "detections", "images", "again"]
    assert "the predictions have no scores.json" in page.text
    assert "no image failed" in page.text
    assert "Examples without ground truth" in page.text
    assert page.count("article", class_="card shot") == 6


def test_run_that_has_not_logged_yet_is_enough(folders: Folders) -> None:
    (folders.run / rundir.METRICS).unlink()
    (folders.run / rundir.RUN_JSON).write_text('{"status": "running"}')
    page = Page(write_report([folders.run]))
    assert page.sections() == ["about", "again"]
    assert "Training: the run has no metrics.jsonl with a readable line." in page.text


def test_predictions_in_which_all_failed_are_enough(folders: Folders) -> None:
    for path in folders.predictions.glob(rundir.PART_GLOB):
        path.unlink()
    (folders.predictions / rundir.SCORES).unlink()
    page = Page(write_report([folders.predictions]))
    assert page.sections() == ["about", "failures", "again"]
    assert "26 images could not be labelled." in page.text


def test_what_the_scorer_writes_is_shown(folders: Folders) -> None:
    index = open_split(folders.root, "val")
    images, annotations = index.to_coco_dicts(range(index.num_images))
    parts = sorted(folders.predictions.glob(rundir.PART_GLOB))
    found = [e for p in parts for d in iter_detections(pq.read_table(p)) for e in coco_results(d)]
    scores = merge([match_shard(images, annotations, found, index.categories)])
    (folders.predictions / rundir.SCORES).write_text(json.dumps(scores.to_json()))
    page = Page(write_report([folders.predictions]))
    assert {"accuracy", "categories"} <= set(page.sections())
    assert f"Mask AP{scores.metrics['segm']['AP']:.3f}" in page.text
    assert page.text.count("Precision over recall, ") == 2
    assert page.count("svg", class_="spark") == 2  # category 7 has nothing but a crowd


def test_unfinished_predictions_say_how_far_they_are(folders: Folders) -> None:
    (folders.predictions / rundir.FAILURES).rename(folders.predictions / "failed-000000.parquet")
    manifest = {"status": "running", "num_images": 5000, "device_wait_share": 0.25}
    (folders.predictions / rundir.MANIFEST).write_text(json.dumps(manifest))
    text = Page(write_report([folders.predictions])).text
    assert "inference: running" in text
    assert "of 5\u202f000; unfinished" in text
    assert "26 images could not be labelled." in text
    assert "25% of the time, waiting for images" in text


def test_failures_are_counted_by_reason_and_the_first_are_listed(folders: Folders) -> None:
    text = Page(write_report([folders.predictions])).text
    assert "25the image is cut short (N bytes)" in text
    assert "1the file is empty" in text
    assert "Which images (the first 20)" in text
    assert f"119{HOSTILE}19.jpg" in text and f"{HOSTILE}20.jpg" not in text


def test_given_data_root_takes_the_place_of_the_noted_one(folders: Folders, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(folders.root, moved)
    away = Page(write_report([folders.predictions]))
    assert "Examples without ground truth: the annotations cannot be read" in away.text
    assert away.count("image") == 0
    assert "is not shown: cannot read the image" in away.text
    back = Page(write_report([folders.predictions], data_root=moved, split="val"))
    assert back.count("image") == 12


def test_given_data_root_that_is_wrong_is_refused(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_report([folders.predictions], data_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="no split 'test'"):
        write_report([folders.predictions], data_root=folders.root, split="test")
    (folders.predictions / rundir.MANIFEST).write_text("{}")
    shutil.copy(
        folders.root / "annotations" / "instances_val.json",
        folders.root / "annotations" / "instances_other.json",
    )
    with pytest.raises(ConfigError, match="--split: .* choose one of other, val"):
        write_report([folders.predictions], data_root=folders.root)


def test_folder_of_neither_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder, says in ((tmp_path, "neither a run nor"), (tmp_path / "x", "no such folder")):
        with pytest.raises(DataError, match=says) as caught:
            write_report([folder])
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    with pytest.raises(ConfigError, match="no folder given"):
        write_report([])


def test_a_folder_given_twice_is_refused(folders: Folders) -> None:
    with pytest.raises(ConfigError, match="is given twice"):
        write_report([folders.run, folders.predictions, folders.run.parent / "run" / ".." / "run"])


def test_damaged_files_are_refused_with_their_names(folders: Folders) -> None:
    part = folders.predictions / rundir.part_name(0)
    good = part.read_bytes()
    part.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"part-0+\.parquet: cannot be read"):
        write_report([folders.predictions])
    pq.write_table(pa.table({"image_id": [1]}), part)
    with pytest.raises(DataError, match="no column 'scores'"):
        write_report([folders.predictions])
    (folders.run / rundir.RUN_JSON).write_text("[1, 2")
    with pytest.raises(DataError, match=r"run\.json: is not JSON"):
        write_report([folders.run])
    (folders.run / rundir.RUN_JSON).write_text("[1, 2]")
    with pytest.raises(DataError, match="not a JSON object"):
        write_report([folders.run])


def test_json_of_odd_shapes_is_passed_over(folders: Folders) -> None:
    odd = {"segm": {"AP": "high"}, "bbox": [1], "per_category": {"segm": [3, {"name": "x"}]}}
    odd["precision_recall"] = {"segm": {"recall": 7, "precision": {"0.50": [1, 2]}}}
    (folders.predictions / rundir.SCORES).write_text(json.dumps(odd))
    manifest = {"options": ["weights"], "data": {"root": 3, "split": None}, "seconds": "long"}
    (folders.predictions / rundir.MANIFEST).write_text(json.dumps(manifest))
    run = {"recipe": [], "device": "cpu", "data": {"categories": [[1], "x", ["a", "b"]]}}
    (folders.run / rundir.RUN_JSON).write_text(json.dumps({**run, "status": 3, "started": 5}))
    page = Page(write_report([folders.run, folders.predictions]))
    assert "accuracy" in page.sections()


def test_image_name_that_leaves_the_data_root_is_not_read(folders: Folders, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "secret.png")
    (folders.predictions / rundir.IMAGES).unlink()
    (folders.predictions / rundir.part_name(1)).unlink()
    row = detections_of(1, [(0.9, 1, (8, 8, 40, 40))], "../../secret.png")
    pq.write_table(results_table([row]), folders.predictions / rundir.part_name(0))
    page = Page(write_report([folders.predictions]))
    assert page.count("image") == 0
    assert "does not stay inside the data root" in page.text


def test_image_of_another_size_than_predicted_is_not_shown(folders: Folders) -> None:
    for path in (folders.root / "val").iterdir():
        Image.new("RGB", (50, 50)).save(path)
    page = Page(write_report([folders.predictions]))
    assert page.count("image") == 0
    assert "50x50" in page.text


def test_thumbnails_are_small(folders: Folders) -> None:
    wide = folders.root / "val" / "001.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (640, 960, 3), np.uint8)).save(wide)
    notes = folders.root / "annotations" / "instances_val.json"
    small, large = '"width": 96, "height": 64', '"width": 960, "height": 640'
    notes.write_text(notes.read_text().replace(small, large))
    row = detections_of(1, [])
    big = row.__class__(**{**vars(row), "width": 960, "height": 640})
    (folders.predictions / rundir.part_name(1)).unlink()
    pq.write_table(results_table([big]), folders.predictions / rundir.part_name(0))
    page = Page(write_report([folders.predictions]))
    image = next(attrs for tag, attrs in page.elements if tag == "image")
    assert (image["width"], image["height"]) == ("960", "640")
    assert len(image["href"] or "") < 800_000


def test_unwritable_target_leaves_nothing_behind(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report([folders.run], tmp_path / "file" / "report.html")
    folder = tmp_path / "site"
    folder.mkdir()
    assert write_report([folders.run], folder) == folder / "report.html"
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_1200_categories_stay_a_small_page(folders: Folders) -> None:
    scores = json.loads((folders.predictions / rundir.SCORES).read_text())
    row = scores["per_category"]["segm"][0]
    many = [{**row, "category_id": k, "name": f"category {k}", "AP": k / 1200} for k in range(1200)]
    scores["per_category"] = {"segm": many, "bbox": many}
    (folders.predictions / rundir.SCORES).write_text(json.dumps(scores))
    page = Page(write_report([folders.predictions]))
    assert "1200 categories" in page.text
    assert len(page.source) < 3_000_000
    assert len(re.findall(r'<tr><th scope="row"><bdi>', page.source)) == 1200


def test_file_names_that_are_not_utf8_can_be_written(folders: Folders) -> None:
    run = json.loads((folders.run / rundir.RUN_JSON).read_text())
    run["weights"] = "/weights/\udcff\u202egnp.pth"
    (folders.run / rundir.RUN_JSON).write_text(json.dumps(run))
    page = Page(write_report([folders.run]))
    assert "/weights/��gnp.pth" in page.text


def test_a_page_stays_under_its_most_bytes(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for k in range(1, 17):
        pixels = rng.integers(0, 255, (640, 960, 3), np.uint8)
        Image.fromarray(pixels).save(folders.root / "val" / f"{k:03d}.png", compress_level=0)
    notes = folders.root / "annotations" / "instances_val.json"
    document = json.loads(notes.read_text())
    for image in document["images"]:
        image |= {"width": 960, "height": 640}
    document["annotations"] = []
    notes.write_text(json.dumps(document))
    rows = [detections_of(k, []) for k in range(1, 13)]
    found = rng.random((640, 960)) < 0.5  # ragged as none is
    noise = bitmap_to_rle(found.astype(np.uint8))
    big = [
        row.__class__(**{
            **vars(row), "width": 960, "height": 640, "rles": [noise],
            "boxes": np.float32([[0, 0, 960, 640]]), "scores": np.float32([0.9]),
            "category_ids": np.int64([1]),
        })
        for row in rows
    ]  # fmt: skip
    for path in folders.predictions.glob(rundir.PART_GLOB):
        path.unlink()
    pq.write_table(results_table(big), folders.predictions / rundir.part_name(0))
    page = write_report([folders.run, folders.predictions])
    assert 6_000_000 < page.stat().st_size <= 10_000_000
    assert "To keep this page under" not in Page(page).text
    for most, photos in ((4_000_000, True), (200_000, False)):
        monkeypatch.setattr(size, "MOST_BYTES", most)
        assert write_report([folders.run, folders.predictions]).stat().st_size <= most
        small = Page(page)
        assert (small.count("image") == 12) == photos
        assert "To keep this page under" in small.text
    before = page.read_bytes()
    monkeypatch.setattr(size, "MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="MB, and 0 is the most"):
        write_report([folders.run, folders.predictions])
    assert page.read_bytes() == before


def test_images_in_shards_and_in_tars_are_shown(folders: Folders, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    write_shards(folders.root, "val", str(sharded), 1 << 20)
    (folders.predictions / rundir.IMAGES).unlink()
    page = Page(write_report([folders.predictions], data_root=sharded, split="val"))
    assert page.count("image") == 12
    names = [f"{k:03d}.png" for k in range(1, 17)]
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in names:
            archive.add(folders.root / "val" / name, name)
    with tarfile.open(tmp_path / "all.tar") as archive:
        places = [archive.getmember(name) for name in names]
    table = pa.table({
        "image_id": list(range(1, 17)), "file_name": names, "uri": [str(tmp_path / "all.tar")] * 16,
        "offset": [m.offset_data for m in places], "length": [m.size for m in places],
    })  # fmt: skip
    pq.write_table(table, folders.predictions / rundir.IMAGES)
    for path in (folders.root / "val").iterdir():
        path.unlink()
    assert Page(write_report([folders.predictions])).count("image") == 12


def test_restarts_waits_and_scores_on_the_way_are_shown(folders: Folders) -> None:
    lines = [json.loads(line) for line in (folders.run / rundir.METRICS).open()]
    for k, line in enumerate(lines):
        line |= {"checkpoint_wait_s": 0.5, "workers": 2 if k < 20 else 1, "peak_memory_bytes": 3e9}
    lines[20] |= {"resumed_from": 200, "without_cards": ["MLU card 1 of host-b"]}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folders.run / rundir.METRICS).write_text(text)
    scored = {
        str(k): {"segm": {"AP": ap, "AP50": 2 * ap}, "bbox": {"AP": ap / 2}, "num_images": 8}
        for k, ap in ((100, 0.2), (200, 0.31), (400, 0.3))
    }
    (folders.run / rundir.VALIDATION_JSON).write_text(json.dumps({"steps": scored}))
    page = Page(write_report([folders.run]))
    for said in (
        "Waiting for checkpoints", "Workers", "resumed at step 200", "2.8 GiB",
        "Left out, as they did no work: MLU card 1 of host-b.",
        "best at step 200: mask AP 0.310", "Scores of 3 checkpoints",
    ):  # fmt: skip
        assert said in page.text, said
    assert page.count("line", class_="mark") > 3
