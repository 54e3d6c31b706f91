"""One worker's run, in this process: repeats to the bit, resumes, stops, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import prepared, run_here

from raymrcnn.errors import ConfigError, DataError, OutputError, WeightError
from raymrcnn.train.checkpoint import committed_steps, load_newest
from raymrcnn.train.loop import NonFiniteLossError
from raymrcnn.train.metrics import read_metrics


@pytest.fixture(scope="module")
def whole(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six steps."""
    run = tmp_path_factory.mktemp("whole")
    done, _ = run_here(prepared(made_up, run))
    assert done == 6
    return run


def parameters(run: Path) -> dict[str, torch.Tensor]:
    newest = run / (run / "last").read_text().strip()
    return load_file(newest / "model.safetensors")


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_an_interrupted_run_ends_with_the_same_bits(
    made_up: Path, whole: Path, tmp_path: Path, cut: int
) -> None:
    done, _ = run_here(prepared(made_up, tmp_path), stop_after=cut)
    assert done == cut
    again = prepared(made_up, tmp_path)
    assert again.start == cut
    done, _ = run_here(again)
    assert done == 6
    ours, theirs = parameters(tmp_path), parameters(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [record["step"] for record in read_metrics(tmp_path)]
    assert steps == sorted(set(steps))


def test_metrics_hold_every_loss_and_finite_numbers(whole: Path) -> None:
    records = read_metrics(whole)
    assert [r["step"] for r in records] == [2, 4, 6]
    for record in records:
        parts = [v for k, v in record.items() if k.startswith("loss_")]
        assert len(parts) == 5
        assert record["loss"] == pytest.approx(sum(parts))
        assert record["images_per_s"] > 0


def test_run_json_says_what_is_run(whole: Path) -> None:
    document = json.loads((whole / "run.json").read_text())
    assert document["recipe"]["optim"]["max_iter"] == 6
    assert document["data"]["num_images"] > 0
    assert [c for c, _ in document["data"]["categories"]] == [2, 5, 9]
    assert document["versions"]["torch"] == torch.__version__


def test_only_the_newest_checkpoints_are_kept(made_up: Path, tmp_path: Path) -> None:
    run_here(prepared(made_up, tmp_path, "checkpoint.every=1", "checkpoint.keep=2"))
    assert committed_steps(tmp_path) == [5, 6]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    made_up: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with (run / "checkpoints/step-0000006/model.safetensors").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"damage")
    warnings: list[str] = []
    newest = load_newest(run, warnings.append)
    assert newest is not None
    assert newest.step == 4
    assert "step-0000006" in warnings[0]
    assert "damaged" in warnings[0]


def test_a_finished_run_whose_last_checkpoint_was_damaged_is_finished_again(
    made_up: Path, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    last = run / (run / "last").read_text().strip()
    os.truncate(last / "model.safetensors", 100)
    job = prepared(made_up, run)
    assert job.start < 6
    run_here(job)
    assert prepared(made_up, run).start == 6
    ours, theirs = (load_newest(folder, lambda text: None) for folder in (run, whole))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)


def test_a_run_with_damaged_checkpoints_alone_is_refused(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for state in run.glob("checkpoints/*/state.pt"):
        state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(WeightError, match="all 3 checkpoints are damaged"):
        load_newest(run, lambda text: None)


def test_a_full_disk_leaves_the_checkpoints_before(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    # A limit on the size of files refuses the write as a full disk does, with an OSError.
    code = f"""
import resource, torch
from pathlib import Path
from raymrcnn.errors import OutputError
from raymrcnn.structures import ModelInfo
from raymrcnn.train.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path({str(run)!r}), 7, {{"w": torch.zeros(10**6)}}, {{}}, ModelInfo(), 3)
except OutputError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused:")
    assert committed_steps(run) == [2, 4, 6]
    assert not list((run / "checkpoints").glob(".tmp-*"))
    newest = load_newest(run, lambda text: None)
    assert newest is not None
    assert newest.step == 6


def test_another_recipe_in_the_same_folder_is_refused(made_up: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="optim.base_lr was 0.001 and is 0.5"):
        prepared(made_up, whole, "optim.base_lr=0.5")


def test_a_longer_schedule_may_go_on(made_up: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    job = prepared(made_up, run, "optim.max_iter=7")
    assert job.start == 6
    done, _ = run_here(job)
    assert done == 7


def test_a_loss_that_is_not_finite_stops_with_step_and_images(
    made_up: Path, tmp_path: Path
) -> None:
    job = prepared(made_up, tmp_path, "optim.base_lr=1e30", "optim.clip_grad_norm=0")
    with pytest.raises(NonFiniteLossError) as caught:
        run_here(job)
    assert caught.value.exit_code == 1
    assert caught.value.where.startswith("step ")
    ids = [int(x) for x in caught.value.what.rpartition("images ")[2].split(", ")]
    assert len(ids) == 4


def test_a_missing_image_stops_at_the_start_with_count_and_names(
    made_up: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(made_up, data)
    gone = sorted((data / "train2017").iterdir())[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError, match="2 ") as caught:
        prepared(data, tmp_path / "run")
    assert gone[0].name in str(caught.value)


def test_workers_that_cannot_share_the_batch_are_refused(made_up: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optim.batch_size=5"):
        prepared(made_up, tmp_path, workers=5)
    assert not (tmp_path / "run.json").exists()


def test_a_folder_that_cannot_be_written_is_refused(made_up: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        prepared(made_up, tmp_path / "file" / "run")


def test_a_part_of_a_file_starts_a_run_where_that_is_allowed_and_is_recorded(
    made_up: Path, whole: Path, tmp_path: Path
) -> None:
    state = parameters(whole)
    del state["rpn.head.conv.0.0.bias"]
    torch.save({**state, "roi_heads.extra": torch.zeros(1)}, tmp_path / "part.pth")
    source = str(tmp_path / "part.pth")
    with pytest.raises(WeightError, match="1 missing .* 1 unknown"):
        prepared(made_up, tmp_path / "run", weights=source)
    job = prepared(made_up, tmp_path / "run", weights=source, allow_partial=True)
    done, told = run_here(job, stop_after=1)
    assert done == 1
    assert any("roi_heads.extra" in str(item.get("note")) for item in told)
    loaded = json.loads((tmp_path / "run" / "run.json").read_text())["weights_loaded"]
    assert loaded["new"] == ["rpn.head.conv.0.0.bias"]
    assert loaded["left"] == ["roi_heads.extra"]
