"""The main job through the command line and the real engines, and what kills leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from commands import (
    COMMAND,
    SETS,
    assert_same_rows,
    call,
    rows,
    start,
    wait_until,
    workers_of,
)
from s3 import BUCKET, s3_server
from safetensors.torch import load_file

from raymrcnn import storage

pytestmark = pytest.mark.ray


def train_words(data: Path, run: Path) -> list[object]:
    return ["train", "--data", data, "--recipe", "tiny", *SETS, "--set", "optim.max_iter=40",
            "--set", "checkpoint.every=10", "--workers", 2, "--out", run]  # fmt: skip


def infer_words(data: Path, run: Path, out: Path) -> list[object]:
    return ["infer", "--data", data, "--split", "train2017", "--weights", run, "--out", out,
            "--workers", 2, "--batch-size", 4]  # fmt: skip


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / (run / "last").read_text().strip() / "model.safetensors")


@pytest.fixture(scope="module")
def whole(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two workers."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert call(*train_words(made_up, run))["status"] == "complete"
    return run


@pytest.fixture(scope="module")
def labelled(made_up: Path, whole: Path) -> Path:
    """An uninterrupted prediction job of two actors."""
    out = whole.parent / "predictions"
    assert call(*infer_words(made_up, whole, out))["num_images"] == 32
    return out


def test_train_infer_score_report_hold_together(made_up: Path, whole: Path, labelled: Path) -> None:
    assert len(rows(labelled)) == 32
    scores = json.loads((labelled / "scores.json").read_text())
    assert list(scores["segm"]) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
    ]

    dt = labelled.parent / "dt.json"
    again = call(*infer_words(made_up, whole, labelled), "--coco-json", dt)
    assert again["already_done"]
    from_json = call("score", "--predictions", dt, "--data", made_up, "--split", "train2017")
    assert from_json["bbox"] == scores["bbox"]
    assert from_json["segm"] == scores["segm"]
    assert call("score", labelled)["segm"] == scores["segm"]

    page = Path(call("report", whole, labelled)["report"])
    assert "</html>" in page.read_text()
    done = call(*train_words(made_up, whole))
    assert (done["resumed_from"], done["step"]) == (40, 40)


@pytest.mark.slow
def test_signals_save_and_the_same_command_ends_with_the_same_bits(
    made_up: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    for number in (signal.SIGINT, signal.SIGTERM):
        seen = metrics.stat().st_size if metrics.exists() else 0
        driver = start(*train_words(made_up, run))
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > seen, driver, 120)  # noqa: B023
        driver.send_signal(number)
        output, _ = driver.communicate(timeout=60)
        assert driver.returncode == 130, output
        assert "goes on" in output
        assert "SIGTERM received" not in output
    done = call(*train_words(made_up, run))
    assert 0 < done["resumed_from"] < 40
    ours, theirs = parameters(run), parameters(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_killed_or_hanging_run_goes_on_and_ends_with_the_same_bits(
    made_up: Path, whole: Path, tmp_path: Path, victim: str
) -> None:
    run = tmp_path / "run"
    driver = start(*train_words(made_up, run), "--hang-timeout", 5)
    wait_until(lambda: (run / "last").exists(), driver, 120)
    if victim == "driver":
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
        for folder in (run / ".ray").iterdir():  # as a kill may leave it: written in place
            (folder / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [{')
        assert call(*train_words(made_up, run))["resumed_from"] >= 10
        assert not (run / ".ray").exists(), "what was left of it is gone"
    else:
        workers = workers_of(driver, "RayTrainWorker")
        assert workers, "no worker process was found"
        os.kill(workers[0], signal.SIGSTOP)  # it is found, and killed
        output, _ = driver.communicate(timeout=200)
        assert driver.returncode == 0, output
        assert "hangs at step" in output
    ours, theirs = parameters(run), parameters(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_run_in_an_object_store_goes_on_on_another_machine_with_the_same_bits(
    made_up: Path, whole: Path, tmp_path: Path
) -> None:
    with s3_server() as query:
        run = f"s3://{BUCKET}/run?{query}"
        words = [*train_words(made_up, tmp_path)[:-1], run, "--validate-every", 40]
        env = {**os.environ, "RAYMRCNN_CACHE_DIR": str(tmp_path / "one machine")}
        driver = start(*words, env=env)
        last = storage.join(run, "last")
        wait_until(lambda: storage.exists(last), driver, 120)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
        env["RAYMRCNN_CACHE_DIR"] = str(tmp_path / "another")
        done = call(*words, env=env)
        assert done["status"] == "complete"
        assert done["resumed_from"] >= 10
        assert done["best_step"] == 40
        newest = storage.join(run, storage.read_text(last).strip())
        storage.download(storage.join(newest, "model.safetensors"), tmp_path / "ours")
        ours, theirs = load_file(tmp_path / "ours"), parameters(whole)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        names = storage.names(run)
    kept = {"best", "checkpoints", "last", "metrics.jsonl", "run.json", "tensorboard"}
    assert set(names) == kept | {"validation", "validation.json"}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["actor", "driver"])
def test_a_killed_prediction_job_goes_on_with_each_image_once(
    made_up: Path, whole: Path, labelled: Path, tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "predictions"
    words = infer_words(made_up, whole, out)
    driver = start(*words)
    wait_until(lambda: len(workers_of(driver, "MapWorker")) > 0, driver, 120)
    if victim == "driver":
        wait_until(lambda: bool(list(out.glob("part-*"))) or driver.poll() is not None, driver, 120)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
        call(*words)
    else:
        os.kill(workers_of(driver, "MapWorker")[0], signal.SIGKILL)
        output, _ = driver.communicate(timeout=200)
        assert driver.returncode == 0, output
    assert_same_rows(rows(out), rows(labelled))


@pytest.mark.slow
def test_a_non_finite_loss_ends_with_one_line(made_up: Path, tmp_path: Path) -> None:
    words = train_words(made_up, tmp_path / "run")
    done = subprocess.run(
        [*COMMAND, *map(str, words), "--set", "optim.base_lr=1e30",
         "--set", "optim.clip_grad_norm=0"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: step ")]
    assert len(errors) == 1
    assert "for images" in errors[0]
    assert "Traceback" not in done.stderr
