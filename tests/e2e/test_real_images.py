"""The main job on real photographs: it learns them, and it handles what cameras write."""

from __future__ import annotations

import collections
import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import call, start, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def eight(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 8 training photographs of COCO with 1 to 4 objects, none small, no crowd."""
    source = shared / "data" / "coco-mini"
    document = json.loads((source / "annotations/instances_train2017.json").read_text())
    found = collections.defaultdict(list)
    for annotation in document["annotations"]:
        found[annotation["image_id"]].append(annotation)

    def suits(image: dict[str, int]) -> bool:
        least = 0.03 * image["width"] * image["height"]
        objects = found[image["id"]]
        return 1 <= len(objects) <= 4 and all(
            not one["iscrowd"] and one["area"] > least for one in objects
        )

    images = [image for image in document["images"] if suits(image)][:8]
    root = tmp_path_factory.mktemp("eight")
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    for image in images:
        (root / "train2017" / image["file_name"]).symlink_to(
            source / "train2017" / image["file_name"]
        )
    document["images"] = images
    document["annotations"] = [one for image in images for one in found[image["id"]]]
    (root / "annotations/instances_train2017.json").write_text(json.dumps(document))
    return root


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_photographs_are_learnt_from_scratch_over_a_kill(eight: Path, tmp_path: Path) -> None:
    changes = ["data.flip_prob=0", "optim.batch_size=4", "optim.reference_batch_size=4",
               "optim.max_iter=200", "optim.steps=[160,190]", "checkpoint.every=40"]  # fmt: skip
    run = tmp_path / "run"
    sets = [word for change in changes for word in ("--set", change)]
    words = ["train", "--data", eight, "--recipe", "tiny", *sets, "--out", run]
    driver = start(*words)
    wait_until((run / "checkpoints/step-0000080").exists, driver, 500)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(30)
    assert call(*words, limit_s=700)["resumed_from"] >= 80
    result = call("infer", "--data", eight, "--split", "train2017", "--weights", run,
                  "--out", tmp_path / "predictions")  # fmt: skip
    assert result["num_images"] == 8
    assert result["scores"]["segm"]["AP"] >= 0.5


@pytest.mark.slow
def test_odd_jpegs_come_out_upright_or_among_the_failures(
    shared: Path, eight: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "predictions"
    changes = ["optim.max_iter=1", "optim.steps=[]", "optim.batch_size=2"]
    sets = [word for change in changes for word in ("--set", change)]
    call("train", "--data", eight, "--recipe", "tiny", *sets, "--out", run)
    folder = shared / "data" / "jpeg-edge"
    result = call("infer", "--images", folder, "--weights", run, "--out", out, "--workers", 2)
    failures = pq.read_table(out / "failures.parquet").to_pylist()
    assert [row["file_name"] for row in failures] == ["pillow/truncated_jpeg.jpg"]
    assert "truncated" in failures[0]["error"]
    assert result["num_failures"] == 1
    rows = {
        row["file_name"]: row
        for part in out.glob("part-*.parquet")
        for row in pq.read_table(part).to_pylist()
    }
    assert len(rows) + 1 == result["num_images"] == len(list(folder.rglob("*.jpg")))
    for name, row in rows.items():
        if "Landscape" in name:
            assert (row["width"], row["height"]) == (1800, 1200), name
        if "Portrait" in name:
            assert (row["width"], row["height"]) == (1200, 1800), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_coco_is_trained_labelled_and_scored_with_two_workers(
    shared: Path, tmp_path: Path
) -> None:
    data, run, out = shared / "data" / "coco-mini", tmp_path / "run", tmp_path / "predictions"
    sets = ["--set", "optim.max_iter=6", "--set", "optim.steps=[]"]
    call("train", "--data", data, "--recipe", "tiny", *sets, "--workers", 2, "--out", run)
    call("infer", "--data", data, "--split", "val2017", "--weights", run, "--out", out,
         "--workers", 2)  # fmt: skip
    ids = [
        i
        for part in out.glob("part-*.parquet")
        for i in pq.read_table(part).column("image_id").to_pylist()
    ]
    truth = json.loads((data / "annotations/instances_val2017.json").read_text())
    assert len(ids) == 206
    assert sorted(ids) == sorted(image["id"] for image in truth["images"])
    assert pq.read_table(out / "failures.parquet").num_rows == 0
    assert call("score", out)["num_images"] == 206
