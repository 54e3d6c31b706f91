"""Checkpoints scored while training goes on, by the command line; the driver is killed once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from commands import SETS, call, start, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_checkpoints_are_scored_once_over_a_kill_and_the_best_is_labelled_with(
    made_up: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", "--data", made_up, "--recipe", "tiny", *SETS, "--set", "optim.max_iter=30",
             "--set", "checkpoint.every=10", "--set", "checkpoint.keep=1", "--workers", 1,
             "--validate-every", 15, "--out", run]  # fmt: skip
    driver = start(*words)
    manifest = run / "validation/step-0000015/manifest.json"  # it is being scored
    wait_until(manifest.exists, driver, 200)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(30)
    done = call(*words)
    assert done["status"] == "complete"

    scored = json.loads((run / "validation.json").read_text())
    assert sorted(scored["steps"]) == ["15", "30"]
    assert done["best_step"] == scored["best"]
    assert done["scores"] == scored["steps"][str(scored["best"])]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    joined = {r["step"]: r["val_segm_AP"] for r in records if "val_segm_AP" in r}
    assert joined == {int(s): record["segm"]["AP"] for s, record in scored["steps"].items()}
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {"step-0000030", f"step-{scored['best']:07d}"}
    assert len(list((run / "validation/step-0000030/overlays").glob("*.jpg"))) == 8

    # What was scored on the way is what the commands give afterwards.
    after = call("infer", "--data", made_up, "--weights", run / "best", "--out", tmp_path / "dt")
    assert after["num_images"] == scored["steps"]["30"]["num_images"] == 8
    for kind in ("bbox", "segm"):
        theirs = json.loads((tmp_path / "dt/scores.json").read_text())[kind]["AP"]
        assert abs(theirs - done["scores"][kind]["AP"]) < 1e-3
    again = call(*words)
    assert (again["status"], again["resumed_from"]) == ("complete", 30)
