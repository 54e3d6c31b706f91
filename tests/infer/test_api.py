"""The Python API where it does not need Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_weights import write_run

import raymrcnn
from raymrcnn import api
from raymrcnn.data.synthetic import CATEGORIES
from raymrcnn.errors import DataError, DeviceError, OutputError
from raymrcnn.masks import rle_to_bitmap


def test_the_package_offers_what_it_says_and_no_more() -> None:
    assert raymrcnn.__all__ == ["infer", "predict", "score", "train", "write_dataset"]
    for name in raymrcnn.__all__:
        assert callable(getattr(raymrcnn, name))
        assert "Raises:" in getattr(api, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = raymrcnn.trian


CALLS: dict[str, dict[str, Any]] = {
    "train": {"data": "/nowhere", "out": "/nowhere", "device": "cpu", "recipe": "tiny"},
    "infer": {"weights": "x", "out": "/nowhere", "data": "/nowhere", "device": "cpu"},
    "score": {"predictions": "/nowhere"},
    "predict": {"images": [], "weights": "/nowhere", "device": "cpu"},
}


def test_the_import_is_instant_and_each_function_can_be_called_again() -> None:
    """Each first call imports packages, three of which are named like the functions."""
    program = f"""
import sys, raymrcnn
from raymrcnn.errors import RaymrcnnError

assert not {{"torch", "numpy", "ray", "raymrcnn.api"}} & set(sys.modules)
for call in range(3):
    for function, options in {CALLS!r}.items():
        try:
            getattr(raymrcnn, function)(**options)
        except RaymrcnnError as error:
            assert "/nowhere" in str(error), error
        else:
            raise SystemExit("it found something")
print("fine")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "fine\n", ran.stderr


def test_packages_of_the_name_of_a_function_stay_packages() -> None:
    import raymrcnn.infer.sink as sink
    import raymrcnn.train.job
    from raymrcnn import train

    assert raymrcnn.infer.sink is sink
    assert raymrcnn.train.job.prepare.__module__ == "raymrcnn.train.job"
    with pytest.raises(DataError, match="/nowhere: no such folder"):
        train("/nowhere", out="/nowhere", device="cpu", recipe="tiny")


def test_a_folder_is_held_from_before_its_job_is_looked_at(
    made_up: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymrcnn.infer import on_ray

    options: dict[str, Any] = {"out": tmp_path / "out", "data": made_up, "device": "cpu"}
    refused = []

    def run_inference(prepared: Any, **_: Any) -> Any:
        with pytest.raises(OutputError, match="another process is at work here"):
            raymrcnn.infer(str(small_run), **options, limit=2)
        refused.append(prepared.predictions.num_images)
        return prepared.predictions, None

    monkeypatch.setattr(on_ray, "run_inference", run_inference)
    for _ in range(2):  # and let go of afterwards
        raymrcnn.infer(str(small_run), **options)
    assert refused == [8, 8]


def test_a_few_images_are_predicted_in_this_process(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    paths = sorted((made_up / "val2017").iterdir())[:2]
    found = raymrcnn.predict(
        paths, str(small_run), device="cpu", score_threshold=0.1, max_detections=4
    )
    assert [one.file_name for one in found] == [path.name for path in paths]
    for one, path in zip(found, paths, strict=True):
        with Image.open(path) as image:
            assert (one.width, one.height) == image.size
        assert 0 < len(one.scores) <= 4
        assert one.scores.min() > 0.1
        assert np.all(np.diff(one.scores) <= 0)
        assert rle_to_bitmap(one.rles[0], one.height, one.width).any()
        assert one.names == CATEGORIES
    assert raymrcnn.predict([], str(small_run), device="cpu") == []


def test_one_image_is_predicted_however_it_is_held(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    path = min((made_up / "val2017").iterdir())
    with Image.open(path) as opened:
        opened.load()
    pixels = np.asarray(opened)
    found = raymrcnn.predict(path, small_run, device="cpu")
    assert len(found.scores)
    for same in (str(path), opened, pixels, np.dstack([pixels, pixels[:, :, :1]])):
        other = raymrcnn.predict(same, small_run, device="cpu")
        np.testing.assert_array_equal(other.boxes, found.boxes)
        assert other.rles == found.rles
    (listed,) = raymrcnn.predict([pixels], small_run, device="cpu")
    assert listed.rles == found.rles
    turned = opened.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right brings it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as stored:
        assert raymrcnn.predict(stored, small_run, device="cpu").rles == found.rles
    gray = raymrcnn.predict(pixels[:, :, 0], small_run, device="cpu")
    assert (gray.width, gray.height) == opened.size


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "pixels of type float32"),
        (np.zeros((4, 4, 7), np.uint8), "an array of 4x4x7 is no image"),
        (np.zeros(4, np.uint8), "an array of 4 is no image"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        ([None], "a NoneType is no image"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, said: str, small_run: Path) -> None:
    with pytest.raises(DataError, match=said):
        raymrcnn.predict(image, small_run, device="cpu")


def test_detections_become_coco_entries_pixels_and_a_drawing(
    made_up: Path, small_run: Path
) -> None:
    path = min((made_up / "val2017").iterdir())
    found = raymrcnn.predict(path, small_run, device="cpu", max_detections=3)
    entries = found.to_coco()
    assert len(entries) == len(found.scores) == len(found.masks())
    assert entries[0]["segmentation"] == {
        "size": [found.height, found.width], "counts": found.rles[0],
    }  # fmt: skip
    assert found.masks().shape[1:] == (found.height, found.width)
    with Image.open(path) as opened:
        drawings = [found.overlay(held, min_score=0.0) for held in (path, opened)]
        drawings.append(found.overlay(np.asarray(opened), min_score=0.0))
        plain = found.overlay(opened, min_score=1.0)
    assert drawings[0].tobytes() == drawings[1].tobytes() == drawings[2].tobytes()
    assert drawings[0].tobytes() != plain.tobytes()
    with pytest.raises(DataError, match="the image has 9x9 pixels"):
        found.overlay(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="cannot read the image"):
        found.overlay("/nowhere.jpg")


def test_a_newer_checkpoint_is_not_missed(made_up: Path, tmp_path: Path) -> None:
    path = min((made_up / "val2017").iterdir())
    first = raymrcnn.predict(path, write_run(tmp_path / "run"), device="cpu")
    again = raymrcnn.predict(path, write_run(tmp_path / "run", seed=1), device="cpu")
    assert first.boxes.tolist() != again.boxes.tolist()


def test_an_image_that_cannot_be_read_stops_a_prediction(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not an image")
    with pytest.raises(DataError, match="a.jpg: not an image in a known format"):
        raymrcnn.predict([tmp_path / "a.jpg"], str(small_run), device="cpu")
    with pytest.raises(DeviceError, match="cpu cannot run float16"):
        raymrcnn.predict([], str(small_run), device="cpu", dtype="float16")
