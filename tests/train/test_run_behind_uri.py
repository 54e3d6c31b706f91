"""Runs in an object store: resumed on another machine, damaged, left half-uploaded, held by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from s3 import BUCKET, s3_server
from safetensors.torch import load_file
from small import prepared, run_here, small_recipe

from raymrcnn import rundir, storage
from raymrcnn.api import train
from raymrcnn.errors import OutputError, WeightError
from raymrcnn.infer.inspect import inspect_weights
from raymrcnn.report.places import write_report_of
from raymrcnn.train import lease, remote
from raymrcnn.train.checkpoint import committed_steps, load_newest
from raymrcnn.train.lease import leased
from raymrcnn.train.metrics import read_metrics
from raymrcnn.weights import copies, load_source

MODEL = "checkpoints/step-0000006/model.safetensors"


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


@pytest.fixture
def run(query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a run that is not there, on a machine that has never seen one."""
    monkeypatch.setenv("RAYMRCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAITS_S", (0.01,))
    return f"s3://{BUCKET}/runs/{tmp_path.name}?{query}"


@pytest.fixture(scope="module")
def whole(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What an uninterrupted run on a disk ends with."""
    folder = tmp_path_factory.mktemp("whole")
    run_here(prepared(made_up, folder))
    return load_file(folder / MODEL)


def another_machine(run: str) -> None:
    shutil.rmtree(copies.folder_of(run))


def damage(uri: str) -> None:
    data = bytearray(storage.read(uri))
    data[len(data) // 2] ^= 1
    storage.write(uri, bytes(data))


def test_a_run_goes_on_elsewhere_and_ends_with_the_same_bits(
    made_up: Path, run: str, whole: dict[str, torch.Tensor]
) -> None:
    assert run_here(prepared(made_up, run), stop_after=3)[0] == 3
    another_machine(run)
    again = prepared(made_up, run)
    assert again.start == 3
    assert run_here(again)[0] == 6
    assert committed_steps(run) == [3, 4, 6]
    another_machine(run)
    newest = load_newest(run, lambda text: pytest.fail(text))
    assert newest is not None
    assert newest.model.keys() == whole.keys()
    assert all(torch.equal(newest.model[name], whole[name]) for name in whole)
    assert [r["step"] for r in read_metrics(run)] == [2, 3, 4, 6]
    assert storage.read_json(storage.join(run, "run.json"))["data"]["num_images"] > 0
    assert storage.read_text(storage.join(run, "last")).strip() == "checkpoints/step-0000006"


def test_checkpoints_that_are_not_kept_and_uncommitted_ones_are_deleted(
    made_up: Path, run: str
) -> None:
    half = "checkpoints/step-0000005/model.safetensors"
    storage.write(storage.join(run, half), b"of a process that was killed")
    assert prepared(made_up, run).start == 0, "without its manifest it does not count"
    run_here(prepared(made_up, run, "checkpoint.every=1", "checkpoint.keep=2", "optim.max_iter=4"))
    left = {
        name.partition("/")[0] for name in storage.files_below(storage.join(run, "checkpoints"))
    }
    assert left == {"step-0000003", "step-0000004"}


def test_a_damaged_newest_checkpoint_is_skipped_and_done_again(
    made_up: Path, run: str, whole: dict[str, torch.Tensor]
) -> None:
    run_here(prepared(made_up, run))
    another_machine(run)
    damage(storage.join(run, MODEL))
    notes: list[str] = []
    newest = load_newest(run, notes.append)
    assert newest is not None
    assert newest.step == 4
    assert "model.safetensors is damaged; going back" in notes[0]
    run_here(prepared(made_up, run))
    newest = load_newest(run, lambda text: pytest.fail(text))
    assert newest is not None
    assert all(torch.equal(newest.model[name], whole[name]) for name in whole)
    for step in (2, 4, 6):
        storage.remove(storage.join(run, f"checkpoints/step-{step:07d}/state.pt"))
    another_machine(run)
    with pytest.raises(WeightError, match="all 3 checkpoints are damaged"):
        load_newest(run, notes.append)


def test_a_store_that_refuses_leaves_the_checkpoints_before(
    made_up: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(prepared(made_up, run), stop_after=2)
    upload = storage.upload

    def refuses(source: Path, uri: str) -> None:
        if "step-0000004" in uri and source.name == rundir.CHECKPOINT_JSON:
            raise OutputError("cannot write (503)", where=uri)
        upload(source, uri)

    monkeypatch.setattr(storage, "upload", refuses)
    with pytest.raises(OutputError, match="503"):
        run_here(prepared(made_up, run))
    another_machine(run)
    assert prepared(made_up, run).start == 2


def test_its_weights_and_its_report_are_read_from_there(made_up: Path, run: str) -> None:
    run_here(prepared(made_up, run))
    another_machine(run)
    storage.write_text(storage.join(run, rundir.BEST), "checkpoints/step-0000004\n")
    newest, best = load_source(run), load_source(storage.join(run, rundir.BEST))
    assert newest.digest == inspect_weights(run).sha256
    assert best.digest != newest.digest
    assert best.digest == load_source(storage.join(run, "checkpoints/step-0000004")).digest
    assert load_source(storage.join(run, MODEL)).state.keys() == newest.state.keys()
    page = write_report_of([run])
    assert page == storage.join(run, rundir.REPORT)
    assert "</html>" in storage.read_text(page)
    damage(storage.join(run, MODEL))
    assert load_source(run).digest == newest.digest, "the copy here is whole"
    another_machine(run)
    with pytest.raises(WeightError, match="damaged"):
        load_source(run)
    with pytest.raises(WeightError, match="no such file, checkpoint or run"):
        load_source(storage.join(run, "nothing"))


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(
    made_up: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "PATIENCE_S", 20.0)
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    where = storage.join(run, rundir.LEASE)
    with leased(run, lambda text: None) as require:
        with pytest.raises(OutputError, match="another process is at work here"):
            train(made_up, small_recipe(), out=run, device="cpu")
        require()
        # What one that was suspended finds: another has taken over.
        with pytest.raises(OutputError, match="taken this run over"):  # noqa: PT012
            while True:
                # Again and again, as it beats: a beat of ours may come between.
                storage.write_json(where, {"token": "of another", "beat": 1})
                require()
    assert storage.exists(where), "a lease is given back by its holder alone"

    code = f"""
import os, sys
from raymrcnn.train import lease
lease.SETTLE_S = 0.01
with lease.leased({run!r}, print):
    os._exit(9)  # as killed
"""
    storage.remove(where)
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 9
    assert json.loads(storage.read(where))["pid"] > 0
    with leased(run, pytest.fail):
        pass
    assert not storage.exists(where)


def test_a_silent_holder_elsewhere_is_watched_and_followed(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PATIENCE_S", 0.2)
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    there = {"host": "node-7", "pid": 1, "boot": "another", "token": "t", "beat": 40}
    storage.write_json(storage.join(run, rundir.LEASE), there)
    notes: list[str] = []
    with leased(run, notes.append):
        assert "node-7 was at work here" in notes[0]


def test_a_uri_of_this_machine_is_its_path(tmp_path: Path) -> None:
    assert storage.settled(f"file://{tmp_path}/run/") == tmp_path / "run"
    assert storage.settled("s3://bucket/run/?region=x") == "s3://bucket/run?region=x"
