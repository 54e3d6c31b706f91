"""The Python API where it does not need Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import raymrcnn
from raymrcnn import api
from raymrcnn.errors import DataError, DeviceError
from raymrcnn.masks import rle_to_bitmap


def test_the_package_offers_what_it_says_and_no_more() -> None:
    assert raymrcnn.__all__ == ["infer", "predict", "score", "train"]
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
    assert raymrcnn.predict([], str(small_run), device="cpu") == []


def test_an_image_that_cannot_be_read_stops_a_prediction(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not an image")
    with pytest.raises(DataError, match="a.jpg: not an image in a known format"):
        raymrcnn.predict([tmp_path / "a.jpg"], str(small_run), device="cpu")
    with pytest.raises(DeviceError, match="cpu cannot run float16"):
        raymrcnn.predict([], str(small_run), device="cpu", dtype="float16")
