"""What each command prints, writes and ends with. Ray's part is done in this process here."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command import done, raymrcnn, refused
from refusing_disks import full_disk
from rich.console import Console
from small_weights import small_predictor

from raymrcnn import api, rundir
from raymrcnn.cli import infer as infer_command
from raymrcnn.cli import score as score_command
from raymrcnn.cli.show import ProgressLine
from raymrcnn.data.fetch import Fetcher
from raymrcnn.data.shards import write_shards
from raymrcnn.device import on_ray as device_on_ray
from raymrcnn.errors import RunError
from raymrcnn.infer import on_ray as infer_on_ray
from raymrcnn.infer.job import PreparedInfer
from raymrcnn.infer.labeler import BlockSummary, Decoder, Labeler
from raymrcnn.infer.sink import read_results
from raymrcnn.recipes import RECIPES, tiny
from raymrcnn.score import on_ray as score_on_ray
from raymrcnn.score.files import (
    Asked,
    match_parts,
    match_undetected,
    part_files,
    undetected,
)
from raymrcnn.train import on_ray as train_on_ray
from raymrcnn.train.job import Failures, PreparedJob
from raymrcnn.train.validation import Validate
from raymrcnn.train.worker import Channel, train_worker

# recipes


def test_recipes_are_listed_and_shown() -> None:
    text = done("recipes")
    assert all(name in text for name in RECIPES)
    assert json.loads(done("recipes", "--json")).keys() == RECIPES.keys()
    lines = done("recipes", "tiny").splitlines()
    assert "optim.max_iter=400" in lines
    assert 'model.backbone="resnet18"' in lines
    assert "seed=0" in lines
    assert json.loads(done("recipes", "tiny", "--json")) == tiny().to_json()


def test_a_recipe_is_shown_as_it_would_be_changed() -> None:
    changes = ["--set", "optim.max_iter=7", "--set", "data.train_split=2017"]
    before, after = done("recipes", "tiny"), done("recipes", "tiny", *changes)
    changed = set(after.splitlines()) - set(before.splitlines())
    assert changed == {"optim.max_iter=7", 'data.train_split="2017"'}


def test_what_is_shown_can_be_set() -> None:
    lines = [line for line in done("recipes", "r101_fpn_1x").splitlines() if "name=" not in line]
    options = [word for line in lines for word in ("--set", line)]
    assert done("recipes", "r101_fpn_1x", *options) == done("recipes", "r101_fpn_1x")


# data


def test_a_made_up_data_set_is_written_once_and_then_found(tmp_path: Path) -> None:
    out = tmp_path / "made up"
    assert "8 images for training and 2 for validation written" in done(
        "data", "synth", "--out", out, "--images", 10
    )
    summary = json.loads(done("data", "synth", "--out", out, "--images", 10, "--json"))
    assert (summary["reused"], summary["num_val_images"]) == (True, 2)
    assert summary["root"] == str(out)
    assert raymrcnn("data", "synth", "--out", out, "--images", 11).exit_code == 2


def test_verify_ends_well_on_a_clean_split(made_up: Path) -> None:
    result = json.loads(done("data", "verify", "--data", made_up, "--split", "val2017", "--json"))
    assert (result["ok"], result["num_images"]) == (True, 8)
    assert result["levels"] == {"error": 0, "doubt": 0, "note": 1}
    assert result["decoded"]
    text = done("data", "verify", "--data", made_up, "--no-decode")
    assert "instances_train2017.json" in text
    assert "32" in text


def test_verify_lists_findings_and_ends_with_2(made_up: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(made_up, tmp_path / "data"))
    for path in sorted((data / "train2017").iterdir())[:25]:
        path.unlink()
    path = data / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["images"][-1]["file_name"] = "../../etc/passwd"
    path.write_text(json.dumps(document))
    result = raymrcnn("data", "verify", "--data", data, "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert report["counts"] == {"category-gap": 1, "image-missing": 25, "image-outside-root": 1}
    assert report["levels"]["error"] == 26
    assert result.stderr == ""
    result = raymrcnn("data", "verify", "--data", data)
    assert result.exit_code == 2
    assert "error  image-missing (25): put the file there, or remove the image" in result.stdout
    assert result.stdout.count("no file 0") == 5
    assert "and 20 more; --json lists all" in result.stdout
    assert "26 errors, 0 doubts, 1 note" in result.stdout


def test_verify_writes_a_cleaned_copy(made_up: Path, tmp_path: Path) -> None:
    data, clean = Path(shutil.copytree(made_up, tmp_path / "data")), tmp_path / "clean"
    min((data / "val2017").iterdir()).unlink()
    words = ["data", "verify", "--data", data, "--split", "val2017", "--fix", clean]
    assert "cleaned copy written" in done(*words)
    result = json.loads(done(*words, "--json"))
    assert result["ok"] is False
    assert result["fix"]["reused"] is True
    assert result["fix"]["num_images"] == 7
    words[3] = clean
    assert "0 errors" in done(*words[:-2], "--against", "all")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fix", "x", "--no-decode"], "images that are not decoded cannot be trusted"),
        (["--copy-images"], "there is no copy without --fix DIR"),
        (["--fix", "."], "never over it"),
        (["--against", "all", "--no-decode"], "images that are not decoded cannot be compared"),
        (["--against", "val2017"], "val2017 is the split itself"),
        (["--against", "test"], "no split 'test'"),
    ],
)
def test_what_verify_cannot_do_is_one_line(
    words: list[str], said: str, made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made_up)
    result = raymrcnn("data", "verify", "--data", ".", "--split", "val2017", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "address", "on_ray"),
    [([], "", False), (["--workers", "3"], "", True), ([], "h:1", True),
     (["--cluster", "h:1"], "", True)],
)  # fmt: skip
def test_verify_decodes_on_ray_where_it_is_asked_to_or_is_a_job(
    words: list[str], address: str, on_ray: bool, made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def stand_in(*_: Any, lookers: Any, **__: Any) -> Any:
        asked.append(lookers)
        raise KeyboardInterrupt

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("raymrcnn.data.verify.verify", stand_in)
    assert raymrcnn("data", "verify", "--data", made_up, *words).exit_code == 130
    assert asked[0].on_ray == on_ray
    assert asked[0].num_workers == (3 if "--workers" in words else 0)


def test_stats_tell_what_a_data_set_holds(made_up: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = done("data", "stats", "--data", made_up, "--html", page)
    assert "three numbers are the least, the median and the most" in text
    assert "circle" in text
    assert page.stat().st_size < 200_000
    words = ["data", "stats", "--data", made_up, "--split", "val2017", "--json"]
    document = json.loads(done(*words))
    assert list(document["splits"]) == ["val2017"]
    assert document["splits"]["val2017"]["num_images"] == 8
    assert "no split 'x'" in refused("data", "stats", "--data", made_up, "--split", "x")
    assert "no such folder" in refused("data", "stats", "--data", tmp_path / "x")


# infer


Hook = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook], None]:
    """Blocks are labelled one after another in this process; a hook may surround each."""
    hooks: list[Hook] = []

    def summaries(
        prepared: PreparedInfer, pending: list[int], make_labeler: object
    ) -> Iterator[BlockSummary]:
        predictions = prepared.predictions
        decode = Decoder(Fetcher(prepared.store))
        labeler = Labeler(small_predictor(), predictions.folder, prepared.job.batch_size, 1, decode)
        for block in pending:
            with hooks[-1](block) if hooks else contextlib.nullcontext():
                summary = labeler.label_block(block, predictions.rows_of(block))
            yield summary

    monkeypatch.setattr(infer_on_ray, "_summaries", summaries)
    monkeypatch.setattr(infer_on_ray, "ray_session", lambda *a: contextlib.nullcontext())
    return hooks.append


@pytest.fixture
def infer(made_up: Path, small_run: Path, tmp_path: Path, in_process: object) -> list[object]:
    """Labels 32 images in two blocks into `p`."""
    return [
        "infer", "--data", made_up, "--split", "train2017", "--mode", "predict", "--device", "cpu",
        "--weights", small_run, "--out", tmp_path / "p",
    ]  # fmt: skip


def ids_of(folder: Path) -> Counter[int]:
    failures = pq.read_table(folder / rundir.FAILURES).column("image_id").to_pylist()
    return Counter([*(one.image_id for one in read_results(folder)), *failures])


def image_ids(data: Path) -> list[int]:
    document = json.loads((data / "annotations/instances_train2017.json").read_text())
    return [image["id"] for image in document["images"]]


def test_infer_labels_each_image_once_and_a_second_time_does_nothing(
    infer: list[object], made_up: Path, tmp_path: Path
) -> None:
    first, second, *_ = done(*infer).splitlines()
    assert first == f"32 images: {tmp_path / 'p'}"
    assert re.fullmatch(
        r"[\d.]+ images/s; the device stood idle \d+% of the time; work of all threads: "
        r"decode \d+%, device \d+%, paste \d+%, commit \d+%",
        second,
    )
    assert ids_of(tmp_path / "p") == Counter(image_ids(made_up))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.*")}
    text = done(*infer)
    assert f"{tmp_path / 'p'} is complete: nothing to do" in text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.*")} == before


def test_infer_tells_machines_in_json(infer: list[object], tmp_path: Path) -> None:
    results = tmp_path / "more" / "coco.json"
    result = raymrcnn(*infer, "--json", "--coco-json", results)
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["num_images"] == 32
    assert document["num_failures"] == 0
    assert document["images_per_s"] > 0
    assert 0 <= document["device_wait_share"] <= 1
    assert set(document["stages"]) == {"decode_s", "device_s", "paste_s", "commit_s"}
    assert document["already_done"] is False
    assert document["scores"] is None
    assert len(json.loads(results.read_text())) == sum(
        len(one.scores) for one in read_results(tmp_path / "p")
    )
    assert json.loads(raymrcnn(*infer, "--json").stdout)["already_done"] is True


def test_infer_shows_how_far_it_is(infer: list[object]) -> None:
    lines = raymrcnn(*infer).stderr.splitlines()
    assert lines[0] == "starting: 32 images"
    assert re.fullmatch(
        r"32/32 images  [\d.]+/s  left 0 s  ready \d+, paste \d+  0 failed", lines[-1]
    )


def damaged(made_up: Path, tmp_path: Path) -> Path:
    """A copy with an image missing, one cut short, and one name that leads out."""
    data = Path(shutil.copytree(made_up, tmp_path / "data"))
    path = data / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    (data / "train2017" / document["images"][3]["file_name"]).unlink()
    cut = data / "train2017" / document["images"][20]["file_name"]
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "secret.jpg").write_bytes((made_up / "train2017" / cut.name).read_bytes())
    document["images"][30]["file_name"] = "../../secret.jpg"
    path.write_text(json.dumps(document))
    return data


def test_bad_images_are_recorded_and_the_run_goes_on(
    infer: list[object], made_up: Path, tmp_path: Path
) -> None:
    data = damaged(made_up, tmp_path)
    text = done(*infer, "--data", data)
    assert text.startswith(f"32 images, 3 failed (failures.parquet says why): {tmp_path / 'p'}\n")
    assert ids_of(tmp_path / "p") == Counter(image_ids(made_up))
    failures = pq.read_table(tmp_path / "p" / rundir.FAILURES).to_pylist()
    assert [row["image_id"] for row in failures] == [image_ids(made_up)[k] for k in (3, 20, 30)]
    assert "No such file" in failures[0]["error"]
    assert "cannot be decoded" in failures[1]["error"]
    assert "does not stay inside the data root" in failures[2]["error"]


def test_too_many_failures_stop_the_run_with_1(
    infer: list[object], made_up: Path, tmp_path: Path
) -> None:
    infer += ["--data", damaged(made_up, tmp_path)]
    for _ in range(2):  # a second start has seen no fewer failures
        result = raymrcnn(*infer, "--max-failures", 0)
        assert result.exit_code == 1
        line = result.stderr.splitlines()[-1]
        assert line.startswith("error: --max-failures: 1 images failed, the first being ")
        assert "No such file" in line
        assert "with a higher limit to go on" in line
    assert raymrcnn(*infer, "--max-failures", 2).exit_code == 1
    result = raymrcnn(*infer, "--max-failures", 2)  # all blocks are committed by now
    assert result.exit_code == 1
    assert "3 images failed" in result.stderr
    assert "going on: 32 of 32 images are done" in raymrcnn(*infer, "--max-failures", 3).stderr
    assert ids_of(tmp_path / "p") == Counter(image_ids(made_up))


def test_images_of_shards_are_drawn(infer: list[object], made_up: Path, tmp_path: Path) -> None:
    write_shards(made_up, "train2017", str(tmp_path / "shards"), 40_000)
    text = done(*infer, "--data", tmp_path / "shards", "--overlays", 3)
    assert text.endswith(f"3 drawn images: {tmp_path / 'p/gallery.html'}\n")


def test_failures_before_a_resume_count_in_the_progress(
    infer: list[object], made_up: Path, tmp_path: Path
) -> None:
    infer += ["--data", damaged(made_up, tmp_path)]
    assert raymrcnn(*infer, "--max-failures", 0).exit_code == 1
    first, *_, last = raymrcnn(*infer).stderr.splitlines()
    assert first == "going on: 16 of 32 images are done"
    assert last.startswith("32/32 images")
    assert last.endswith("  3 failed")


def on_a_terminal() -> tuple[ProgressLine, io.StringIO]:
    out = io.StringIO()
    progress = ProgressLine()
    progress._console = Console(file=out, force_terminal=True, width=80)
    return progress, out


def test_a_line_of_80_columns_has_the_queues_and_ends_before_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress, out = on_a_terminal()
    block = SimpleNamespace(
        seconds=2.0, note="", num_images=256, num_failures=3, num_ready=96, num_to_paste=12
    )

    def failing(on_start: Callable[..., None], on_block: Callable[..., None]) -> None:
        on_start(118_287, 0, 0)
        on_block(block)
        raise RunError("a card failed")

    monkeypatch.setattr(api, "infer", failing)
    with pytest.raises(RunError):
        infer_command.run(progress)
    assert "  ready 96, paste 12  3 failed\n" in out.getvalue()
    assert out.getvalue().endswith("\n")


def test_a_comparison_that_fails_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, out = on_a_terminal()

    def failing(*both: str, progress: Callable[[int, int], None], **options: Any) -> None:
        progress(3, 1000)
        raise RunError("a card failed")

    monkeypatch.setattr(api, "compare", failing)
    monkeypatch.setattr(score_command, "ProgressLine", lambda quiet: shown)
    assert raymrcnn("score", "--compare", "a", "b").exit_code == 1
    assert out.getvalue().endswith("3/1000 resamples\n")


def test_a_full_disk_on_the_way_costs_nothing_that_was_done(
    infer: list[object], in_process: Callable[[Hook], None], made_up: Path, tmp_path: Path
) -> None:
    in_process(lambda block: full_disk(500) if block else contextlib.nullcontext())
    result = raymrcnn(*infer)
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'p'}")
    assert "cannot write (" in line
    names = {path.name for path in (tmp_path / "p").glob("*.*")} - {rundir.LOCK}
    assert names == {"manifest.json", "images.parquet", "part-000000000.parquet"}
    assert sum(1 for _ in read_results(tmp_path / "p")) == 16
    in_process(lambda block: contextlib.nullcontext())
    result = raymrcnn(*infer)
    assert result.exit_code == 0
    assert "going on: 16 of 32 images are done" in result.stderr
    assert ids_of(tmp_path / "p") == Counter(image_ids(made_up))


def test_an_interrupt_ends_with_130_and_one_line(
    infer: list[object], in_process: Callable[[Hook], None], made_up: Path, tmp_path: Path
) -> None:
    def interrupt(block: int) -> contextlib.AbstractContextManager[None]:
        if block:
            raise KeyboardInterrupt
        return contextlib.nullcontext()

    in_process(interrupt)
    result = raymrcnn(*infer)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("interrupted; run the same command again")
    in_process(lambda block: contextlib.nullcontext())
    done(*infer)
    assert ids_of(tmp_path / "p") == Counter(image_ids(made_up))


def test_another_option_into_the_same_folder_is_refused(infer: list[object]) -> None:
    done(*infer, "--limit", 3)
    for options in (
        ["--limit", 5],
        ["--limit", 3, "--max-detections", 3],
        ["--limit", 3, "--dtype", "bfloat16"],
        ["--limit", 3, "--split", "val2017"],
    ):
        line = refused(*infer, *options)
        assert "holds predictions of another job" in line
        assert "choose another --out" in line


def test_images_are_labelled_without_annotations(
    infer: list[object], made_up: Path, tmp_path: Path, small_run: Path
) -> None:
    done(
        "infer", "--images", made_up / "val2017", "--images", f"{made_up}/train2017/*1.*",
        "--weights", small_run, "--out", tmp_path / "q", "--device", "cpu",
    )  # fmt: skip
    names = [one.file_name for one in read_results(tmp_path / "q")]
    expected = [p.name for p in (made_up / "val2017").iterdir()]
    expected += [p.name for p in (made_up / "train2017").glob("*1.*")]
    assert Counter(names) == Counter(expected)


# train


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trains in this process; the last number in the list stands for a Ctrl-C after that step."""
    numbers = [10**9]

    def run_training(
        prepared: PreparedJob,
        *,
        cluster: str | None,
        on_news: Callable[[dict[str, Any]], None],
        stop: threading.Event,
        failures: Failures,
        validate: Validate,
    ) -> int:
        assert failures == Failures()
        looks = iter(range(1, 10**9))

        def asked() -> bool:
            if next(looks) >= numbers[-1]:
                stop.set()
            return stop.is_set()

        return train_worker(prepared, torch.device("cpu"), Channel(tell=on_news, stop_asked=asked))

    monkeypatch.setattr(train_on_ray, "run_training", run_training)
    return numbers


@pytest.fixture
def train(made_up: Path, tmp_path: Path, stop_after: list[int]) -> list[object]:
    from small import SMALL

    changes = [word for change in SMALL for word in ("--set", change)]
    where = ["--data", made_up, "--out", tmp_path / "run"]
    return ["train", "--recipe", "tiny", "--device", "cpu", *where, *changes]


@pytest.mark.parametrize("workers", ["x", "2:1", "0:3", "1:2:3", "-1", "2:"])
def test_a_number_of_workers_that_is_none_is_one_line(train: list[object], workers: str) -> None:
    result = raymrcnn(*train, "--workers", workers)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--workers" in result.stderr


def test_train_says_how_it_went_and_a_second_time_does_nothing(
    train: list[object], tmp_path: Path
) -> None:
    result = raymrcnn(*train)
    assert result.exit_code == 0
    assert result.stdout == f"trained 6 steps: {tmp_path / 'run'}\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("starting: tiny to step 6 on 1 cpu worker, batch 4, in ")
    assert lines[-1].startswith("step 6/6  left 0 s  ")
    for word in ("images/s", "loss", "obj", "rpn", "cls", "box", "mask", "lr", "data wait", "GiB"):
        assert word in lines[-1]
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert record["workers"] == 1
    assert 100 << 20 < record["peak_memory_bytes"] < 100 << 30
    again = raymrcnn(*train, "--json")
    assert again.stderr == ""
    assert json.loads(again.stdout) == {
        "run": str(tmp_path / "run"), "step": 6, "status": "complete", "resumed_from": 6,
        "best_step": None, "scores": None,
    }  # fmt: skip
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "complete"


def test_an_interrupted_training_ends_with_130_and_goes_on(
    train: list[object], stop_after: list[int], tmp_path: Path
) -> None:
    stop_after.append(3)
    result = raymrcnn(*train)
    assert result.exit_code == 130
    assert result.stdout == f"saved step 3 in {tmp_path / 'run'}; the same command goes on\n"
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    stop_after.append(10**9)
    result = raymrcnn(*train, "--resume", "must")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0].startswith("going on from step 3: ")
    assert result.stdout.startswith("trained 6 steps")


def test_a_training_that_fails_ends_with_1_and_one_line(
    train: list[object], tmp_path: Path
) -> None:
    result = raymrcnn(*train, "--set", "optim.base_lr=1e30", "--set", "optim.clip_grad_norm=0")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: step ")
    assert "images " in line
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_the_run_folder_is_named_after_recipe_and_data(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("train", "--recipe", "tiny", "--data", made_up, "--resume", "must")
    assert line.startswith(f"{tmp_path / 'runs' / f'tiny-{made_up.name}'}: ")


# score and report


def as_results(document: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO results that find each object as it is annotated."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"],
         "score": 0.9, "segmentation": a["segmentation"]}
        for a in document["annotations"] if not a["iscrowd"]
    ]  # fmt: skip


def test_results_of_other_programs_are_scored(made_up: Path, tmp_path: Path) -> None:
    truth = made_up / "annotations/instances_val2017.json"
    document = json.loads(truth.read_text())
    perfect = as_results(document)
    (tmp_path / "results.json").write_text(json.dumps(perfect))
    where = ["score", "--predictions", tmp_path / "results.json"]
    scores = json.loads(done(*where, "--annotations", truth, "--json"))
    assert list(scores)[:2] == ["bbox", "segm"]
    assert list(scores["segm"]) == [
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
    ]  # fmt: skip
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == 1.0
    text = done(*where, "--data", made_up, "--split", "val2017")
    for word in ("COCO scores", "AP50", "circle", "square", "triangle"):
        assert word in text


@pytest.fixture
def score_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matches folders in this process."""

    def match(
        folder: Path, truth: Any, *, images: Any = "all", asked: Asked, progress: Any = None,
        max_tasks: object = None, early: object = None,
    ) -> Any:  # fmt: skip
        paths = part_files(folder)
        state, ids = match_parts(paths, truth, asked)
        if progress:
            progress(len(paths), len(paths))
        rows = undetected(truth, ids, images)
        every = np.concatenate([ids, truth.image_ids[rows]])
        return [state, match_undetected(rows, truth, asked)], every

    monkeypatch.setattr(score_on_ray, "match_predictions", match)
    monkeypatch.setattr(device_on_ray, "ray_session", lambda *a: contextlib.nullcontext())


@pytest.mark.usefixtures("score_in_process")
def test_scores_of_other_annotations_are_not_taken_for_those_of_the_job(
    infer: list[object], made_up: Path, tmp_path: Path
) -> None:
    words = [*infer, "--mode", "evaluation", "--json"]
    kept = tmp_path / "p" / rundir.SCORES
    first = json.loads(done(*words))
    own = json.loads(kept.read_text())
    again = json.loads(done(*words))
    assert again["already_done"]
    assert again["scores"] == first["scores"]
    truth = made_up / "annotations/instances_train2017.json"
    document = json.loads(truth.read_text())
    document["annotations"] = document["annotations"][:5]
    (tmp_path / "few.json").write_text(json.dumps(document))
    done("score", tmp_path / "p", "--annotations", tmp_path / "few.json")
    other = json.loads(kept.read_text())
    assert other["num_objects"] < own["num_objects"]
    old = {name: value for name, value in own.items() if name != "annotations"}
    for written in (other, old):
        kept.write_text(json.dumps(written))
        again = json.loads(done(*words))
        assert not again["already_done"]
        assert again["scores"] == first["scores"]
        assert json.loads(kept.read_text()) == own


@pytest.mark.usefixtures("score_in_process")
def test_scores_that_cannot_be_kept_are_given_all_the_same(
    infer: list[object], tmp_path: Path
) -> None:
    done(*infer)
    with full_disk(100):
        text = done("score", tmp_path / "p")
        document = json.loads(done("score", tmp_path / "p", "--json"))
    assert "COCO scores" in text
    (line,) = [line for line in text.splitlines() if line.startswith("note: ")]
    assert line.startswith(f"note: scores.json is as it was before: {tmp_path / 'p'}")
    assert "cannot write (" in line
    assert document["notes"] == [line.removeprefix("note: ")]
    assert not (tmp_path / "p" / rundir.SCORES).exists()
    assert "note" not in done("score", tmp_path / "p")
    assert "notes" not in json.loads((tmp_path / "p" / rundir.SCORES).read_text())


@pytest.mark.usefixtures("score_in_process")
def test_files_of_both_runs_count_in_the_progress(infer: list[object], tmp_path: Path) -> None:
    done(*infer)
    seen: list[tuple[int, int]] = []
    api.score(tmp_path / "p", on_matched=lambda *numbers: seen.append(numbers))
    api.compare(
        tmp_path / "p", tmp_path / "p", resamples=0, on_matched=lambda *n: seen.append(n)
    )  # fmt: skip
    assert seen == [(2, 2), (2, 4), (4, 4)]


def test_what_a_comparison_leaves_out_is_listed(made_up: Path, tmp_path: Path) -> None:
    document = json.loads((made_up / "annotations/instances_val2017.json").read_text())
    results = as_results(document)
    (tmp_path / "a.json").write_text(json.dumps(results))
    results[1]["segmentation"] = None
    (tmp_path / "b.json").write_text(json.dumps(results))
    bad = document["annotations"][0]
    bad["segmentation"] = [[1, 2]]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    words = ["score", "--annotations", tmp_path / "truth.json", "--skip-bad-annotations"]
    both = ["--compare", tmp_path / "a.json", tmp_path / "a.json", "--resamples", 0]
    assert json.loads(done(*words, *both, "--json"))["skipped_annotations"] == [bad["id"]]
    left = f"1 annotations without a usable mask were left out of the mask scores: {bad['id']}"
    assert left in done(*words, *both)
    said = f"b.json: masks are not scored: 1 of {len(results)} detections have none"
    both[2] = tmp_path / "b.json"
    assert said in done(*words, *both)
    text = done(*words, tmp_path / "b.json")
    assert said in text
    assert "mask" not in text.replace(said, "")
    assert said in json.loads(done(*words, tmp_path / "b.json", "--json"))["notes"][0]
    assert "note" not in done(*words, tmp_path / "a.json")


def test_a_report_is_written_where_it_is_asked_for(infer: list[object], tmp_path: Path) -> None:
    done(*infer)
    page = tmp_path / "p" / rundir.REPORT
    assert done("report", tmp_path / "p") == f"report: {page}\n"
    assert page.read_text().startswith("<!DOCTYPE html>")
    other = tmp_path / "page.html"
    assert json.loads(done("report", tmp_path / "p", "--out", other, "--json")) == {
        "report": str(other)
    }
    assert other.stat().st_size == pytest.approx(page.stat().st_size, rel=0.1)
