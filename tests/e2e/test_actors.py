"""Actors of a prediction job: when what they did is told, and which thread they work in."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray import cloudpickle

from raymrcnn.device.accelerator import CPU
from raymrcnn.device.on_ray import ray_session
from raymrcnn.errors import DataError, RunError
from raymrcnn.infer.decode_workers.on_ray import RemoteDecoder, start_decoders
from raymrcnn.infer.inputs import tables_of
from raymrcnn.infer.job import InferJob, PreparedInfer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.on_ray import run_inference
from raymrcnn.infer.sink import commit_block, open_predictions, read_images
from raymrcnn.infer.tries import Tries
from raymrcnn.structures import Detections, ImageRef

pytestmark = pytest.mark.ray
LIMIT_S = 60


class Labeler:
    """Finds nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, workers_here: int) -> Labeler:
        return self

    def note(self, block: int) -> str:
        raise NotImplementedError

    def label_block(self, block: int, rows: range) -> BlockSummary:
        note = self.note(block)
        nothing: dict[str, Any] = {
            "width": 1, "height": 1, "boxes": np.zeros((0, 4), np.float32), "rles": [],
            "scores": np.zeros(0, np.float32), "category_ids": np.zeros(0, np.int64),
        }  # fmt: skip
        found = [
            Detections(image_id=ref.image_id, file_name=ref.file_name, **nothing)
            for ref in read_images(self.folder, rows)
        ]
        commit_block(self.folder, block, found, [])
        zeros: dict[str, Any] = dict.fromkeys(
            ("num_failures", "num_detections", "seconds", "decode_s", "device_s", "idle_s",
             "paste_s", "commit_s", "num_ready", "num_to_paste"), 0,
        )  # fmt: skip
        return BlockSummary(block=block, num_images=len(rows), error="", note=note, **zeros)


class Waiting(Labeler):
    """Each block but the first waits until the one before was told of; Ray chooses their order."""

    before: int | None = None

    def note(self, block: int) -> str:
        before, self.before = self.before, block
        end = time.monotonic() + LIMIT_S
        told = self.folder.parent / f"told-{before}"
        while before is not None and not told.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return "" if time.monotonic() < end else "late"


class EndingItsProcess(Labeler):
    """The block in the middle ends its process, so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.times = times

    def note(self, block: int) -> str:
        if block == 1:
            with (self.folder.parent / "begun").open("a") as begun:
                begun.write("x")
                begun.flush()
                if begun.tell() <= self.times:
                    os.kill(os.getpid(), signal.SIGKILL)
        return ""


class EndingStore:
    """Of images one of which ends the process that reads it."""

    def read(self, image_id: int, name: str) -> bytes:
        if name == "bad.png":
            os.kill(os.getpid(), signal.SIGKILL)
        stream = io.BytesIO()
        Image.new("RGB", (image_id, 2)).save(stream, "png")
        return stream.getvalue()


class NamingItsThread(Labeler):
    def note(self, block: int) -> str:
        return "main" if threading.current_thread() is threading.main_thread() else "another"


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_session(None, CPU, 1):
        yield


def run(labeler: Labeler, on_block: Callable[[BlockSummary], None]) -> None:
    refs = [ImageRef(image_id=k, file_name=f"{k}.jpg", uri="") for k in range(1, 49)]
    predictions = open_predictions(labeler.folder, tables_of(refs), {}, {})
    job = InferJob(weights="", out=labeler.folder, images=("x",))
    run_inference(
        PreparedInfer(job=job, predictions=predictions),
        cluster=None,
        on_block=on_block,
        make_labeler=labeler,
    )


def test_a_block_is_told_of_before_the_next_is_done(tmp_path: Path) -> None:
    seen: list[BlockSummary] = []

    def on_block(summary: BlockSummary) -> None:
        seen.append(summary)
        (tmp_path / f"told-{summary.block}").touch()

    run(Waiting(tmp_path / "predictions"), on_block)
    assert sorted((one.block, one.note) for one in seen) == [(0, ""), (1, ""), (2, "")]


def test_on_a_cpu_the_network_runs_in_the_main_thread(tmp_path: Path) -> None:
    """The C allocator keeps freed memory for that thread alone (see `reuse_freed_memory`)."""
    notes: list[str] = []
    run(NamingItsThread(tmp_path / "predictions"), lambda summary: notes.append(summary.note))
    assert notes == ["main"] * 3


def test_a_block_whose_process_ends_is_tried_again_and_not_for_ever(tmp_path: Path) -> None:
    passing, hopeless = tmp_path / "passing/predictions", tmp_path / "hopeless/predictions"
    seen: list[int] = []
    run(EndingItsProcess(passing, 2), lambda summary: seen.append(summary.block))
    assert sorted(seen) == [0, 1, 2]
    assert (passing.parent / "begun").read_text() == "xxx"
    with pytest.raises(RunError) as caught:
        run(EndingItsProcess(hopeless, 99), lambda summary: None)
    assert "images 17.jpg to 32.jpg was ended each of 5 times" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (hopeless.parent / "begun").read_text() == "xxxxx"


def test_an_image_that_ends_decode_workers_is_a_failure_of_its_own() -> None:
    job = InferJob(weights="", out="", decode_workers=1)
    tries = ray.remote(num_cpus=0)(Tries).remote()  # type: ignore[attr-defined]
    store = ray.put(EndingStore())
    actors = start_decoders(job, store, CPU, tries)
    decode = RemoteDecoder(actors)
    names = ["a.png", "bad.png", "c.png", "d.png"]
    refs = [ImageRef(image_id=k, file_name=n, uri="") for k, n in enumerate(names, start=1)]

    def outcome(ref: ImageRef) -> object:
        try:
            return decode(ref).shape[-1]
        except DataError as error:
            return error.what

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outcome, refs))
    for actor in (tries, *actors):
        ray.kill(actor)
    assert found == [1, "each process that decodes it ends", 3, 4]
