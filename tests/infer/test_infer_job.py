"""What a prediction job checks before an actor starts, and what it notes of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_weights import CATEGORY_IDS, small_model, write_run

from raymrcnn import rundir
from raymrcnn.data.synthetic import CATEGORIES
from raymrcnn.device.accelerator import CPU
from raymrcnn.errors import (
    ConfigError,
    DataError,
    DeviceError,
    OutputError,
    RaymrcnnError,
    WeightError,
)
from raymrcnn.infer.job import InferJob, PreparedInfer, load_predictor, prepare


def job(made_up: Path, run: Path, out: Path, **changes: Any) -> PreparedInfer:
    options: dict[str, Any] = {"weights": str(run), "out": out, "data_root": made_up}
    return prepare(InferJob(**{**options, **changes}))


def test_the_manifest_says_what_the_job_is(made_up: Path, small_run: Path, tmp_path: Path) -> None:
    prepared = job(made_up, small_run, tmp_path, max_detections=7, limit=5)
    manifest = json.loads((tmp_path / rundir.MANIFEST).read_text())
    assert manifest == prepared.predictions.manifest
    assert (manifest["status"], manifest["num_images"]) == ("running", 5)
    assert manifest["options"]["max_detections"] == 7
    assert manifest["data"] == {"root": str(made_up), "split": "val2017"}
    assert manifest["categories"] == [[k, name] for k, name in CATEGORIES.items()]
    assert manifest["fingerprint"]["weights"] == sha256_of_weights(small_run)
    assert prepared.index is not None
    assert prepared.index.num_images == 8


def sha256_of_weights(run: Path) -> str:
    newest = run / (run / "last").read_text().strip()
    document = json.loads((newest / rundir.CHECKPOINT_JSON).read_text())
    return str(document["files"][rundir.MODEL_FILE]["sha256"])


def test_the_same_job_goes_on_whatever_does_not_change_results(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    job(made_up, small_run, tmp_path / "out")
    moved = tmp_path / "moved"
    shutil.copytree(made_up, moved)
    job(moved, small_run, tmp_path / "out", batch_size=3, workers=2, max_failures=1, score=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"score_threshold": 0.1},
        {"max_detections": 50},
        {"limit": 3},
        {"split": "train2017"},
    ],
)
def test_an_option_that_changes_results_is_another_job(
    made_up: Path, small_run: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job(made_up, small_run, tmp_path)
    with pytest.raises(OutputError, match="another job") as caught:
        job(made_up, small_run, tmp_path, **changes)
    name = next(iter(changes)).replace("split", "annotations")
    assert name in str(caught.value)


def test_other_weights_are_another_job(made_up: Path, small_run: Path, tmp_path: Path) -> None:
    job(made_up, small_run, tmp_path / "out")
    other = write_run(tmp_path / "other", seed=5)
    with pytest.raises(OutputError, match="another job .weights differ"):
        job(made_up, other, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"batch_size": 0}, ConfigError, "--batch-size: 0 is not positive"),
        ({"max_detections": -1}, ConfigError, "--max-detections: -1 is not positive"),
        ({"limit": -1}, ConfigError, "--limit: -1 is negative; 0 takes all images"),
        ({"weights": "~nobody-here/x"}, ConfigError, "~nobody-here/x: no user of this machine"),
        ({"score_threshold": 1.0}, ConfigError, "--score-threshold: 1.0 is not in [0, 1)"),
        ({"score_threshold": float("nan")}, ConfigError, "--score-threshold: nan"),
        ({"images": ("x",)}, ConfigError, "give either a data set or images"),
        ({"data_root": None}, ConfigError, "nothing to predict on"),
        ({"dtype": "float16"}, DeviceError, "cpu cannot run float16; choose float32 or bfloat16"),
        ({"dtype": "float23"}, ConfigError, "did you mean float32?"),
        ({"split": "test2017"}, DataError, "there are train2017, val2017"),
        ({"weights": "gone.pth"}, WeightError, "gone.pth: no such file or folder"),
        ({"data_root": Path("/nowhere")}, DataError, "/nowhere: no such folder"),
        ({"data_root": None, "images": ("/nowhere",)}, DataError, "/nowhere: no image is there"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    made_up: Path,
    small_run: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    kind: type[RaymrcnnError],
    said: str,
) -> None:
    with pytest.raises(kind) as caught:
        job(made_up, small_run, tmp_path / "out", **changes)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


# Weights


def test_a_bare_state_dict_with_other_tensors_is_one_line(made_up: Path, tmp_path: Path) -> None:
    state = dict(small_model().state_dict())
    del state["rpn.head.conv.0.0.bias"]
    state["roi_heads.extra"] = torch.zeros(3)
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightError) as caught:
        job(made_up, tmp_path / "cut.pth", tmp_path / "out", score=False)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "cut.pth"))
    assert "1 missing (rpn.head.conv.0.0.bias)" in text
    assert "1 unknown (roi_heads.extra)" in text
    assert "\n" not in text


def test_tensors_beside_the_networks_own_are_left_where_that_is_allowed(
    made_up: Path, tmp_path: Path
) -> None:
    state = dict(small_model().state_dict())
    torch.save({**state, "roi_heads.extra": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(WeightError, match=r"1 unknown \(roi_heads.extra\)"):
        job(made_up, tmp_path / "more.pth", tmp_path / "out", score=False)
    prepared = job(made_up, tmp_path / "more.pth", tmp_path / "out", score=False,
                   allow_partial=True)  # fmt: skip
    assert prepared.left == ("roi_heads.extra",)
    assert prepared.predictions.manifest["options"]["weights_left"] == ["roi_heads.extra"]
    assert prepared.source is not None
    assert prepared.source.state.keys() == state.keys()
    del state["rpn.head.conv.0.0.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(WeightError, match="1 missing"):  # of what nobody has trained
        job(made_up, tmp_path / "less.pth", tmp_path / "o", score=False, allow_partial=True)


def test_a_bare_state_dict_numbers_its_classes(made_up: Path, tmp_path: Path) -> None:
    torch.save(small_model().state_dict(), tmp_path / "bare.pth")
    with pytest.raises(DataError, match="call category 2 'class 2', the data set 'circle'"):
        job(made_up, tmp_path / "bare.pth", tmp_path / "out")
    prepared = job(made_up, tmp_path / "bare.pth", tmp_path / "out", score=False)
    assert prepared.predictions.manifest["categories"][0] == [1, "class 1"]


def test_categories_of_another_data_set_are_refused_where_they_would_be_scored(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(made_up, data)
    path = data / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    for category in document["categories"]:
        category["id"] += 100
    for annotation in document["annotations"]:
        annotation["category_id"] += 100
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="data set has none of that id") as caught:
        job(data, small_run, tmp_path / "out")
    assert "--mode predict" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert job(data, small_run, tmp_path / "out", score=False).index is not None


def test_a_predictor_names_the_categories_of_its_weights(small_run: Path, made_up: Path) -> None:
    from raymrcnn.data.images import decode_image
    from raymrcnn.structures import ImageRef

    predictor = load_predictor(
        str(small_run), CPU, torch.device("cpu"), max_detections=5, score_threshold=0.2
    )
    path = next((made_up / "val2017").iterdir())
    (found,) = predictor.predict(
        [decode_image(path)], [ImageRef(image_id=1, file_name="a", uri="")]
    )
    assert 0 < len(found.scores) <= 5
    assert found.scores.min() > 0.2
    assert set(found.category_ids.tolist()) <= set(CATEGORY_IDS)
