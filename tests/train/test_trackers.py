"""TensorBoard, MLflow and Weights & Biases, each read back as its own program reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import small_recipe

from raymrcnn.errors import ConfigError
from raymrcnn.train import trackers
from raymrcnn.train.trackers import Trackers, require_trackers

RECORD = {"step": 2, "loss": 0.5, "lr": 0.25, "left_out": [1], "time": "now"}
SCORED = {"step": 2, "validation": {"bbox": {"AP": 0.125}, "segm": {"AP": 0.25}}, "best": True}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    drawn = folder / "validation/step-0000002/overlays"
    drawn.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(drawn / "000001-a.jpg")
    return folder


def followed(run: Path, start: int, items: list[dict[str, Any]], *names: str) -> list[str]:
    """The notes of following a run."""
    notes: list[str] = []
    ours = Trackers(run, start, names, small_recipe(), lambda item: notes.append(item["note"]))
    for item in items:
        ours.take(item)
    ours.close()
    return notes


def test_tensorboard_shows_figures_scores_and_pictures_once(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    again = {**RECORD, "loss": 0.75}
    assert followed(run, 0, [{"note": "hello"}, RECORD, again, SCORED]) == []
    followed(run, 2, [{**RECORD, "step": 4}])
    events = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert losses == [(2, 0.75), (4, 0.5)], "the step that was done again stands once"
    assert [e.value for e in events.Scalars("val/segm_AP")] == [0.25]
    assert events.Images("val/000001-a")[0].step == 2
    assert "train/step" not in events.Tags()["scalars"]


def test_mlflow_keeps_one_run_over_restarts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    assert followed(run, 0, [RECORD, SCORED], "mlflow") == []
    assert followed(run, 2, [{**RECORD, "step": 4}], "mlflow") == []
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("raymrcnn")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["optim.batch_size"] == "4"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "train/loss")]
    assert steps == [2, 4]
    assert found.data.metrics["val_segm_AP"] == 0.25
    (picture,) = client.list_artifacts(found.info.run_id, "step-0000002")
    assert picture.path.endswith("000001-a.jpg")
    assert found.info.status == "FINISHED"


def test_weights_and_biases_takes_a_run_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert followed(run, 0, [RECORD, SCORED], "wandb") == []
    (events,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    written = events.read_bytes()
    for word in (b"train/loss", b"val_segm_AP", b"optim.batch_size"):
        assert word in written


def test_a_service_that_fails_is_named_once_and_left(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def __init__(self, *_: object) -> None:
            pass

        def log(self, *_: object) -> None:
            raise ConnectionError("no answer\nmore")

    monkeypatch.setitem(trackers._SERVICES, "mlflow", Fails)  # type: ignore[arg-type]
    notes = followed(run, 0, [RECORD, RECORD], "mlflow")
    assert notes == ["mlflow takes no more (no answer); training goes on"]


def test_what_is_unknown_or_not_installed_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="'neptune' is not mlflow or wandb"):
        require_trackers(["neptune"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'raymrcnn\[wandb\]'"):
        require_trackers(["wandb"])
