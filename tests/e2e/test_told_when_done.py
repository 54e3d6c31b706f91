"""What is told of a block is told when it is committed, not when the next one is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from raymrcnn.infer.inputs import tables_of
from raymrcnn.infer.job import InferJob, PreparedInfer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.on_ray import run_inference
from raymrcnn.infer.sink import commit_block, open_predictions
from raymrcnn.structures import ImageRef

pytestmark = pytest.mark.ray
LIMIT_S = 60


class Waiting:
    """Finds nothing; each block but the first waits until the one before was told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, workers_here: int) -> Waiting:
        return self

    def label_block(self, block: int, rows: range) -> BlockSummary:
        end = time.monotonic() + LIMIT_S
        told = self.folder.parent / f"told-{block - 1}"
        while block and not told.exists() and time.monotonic() < end:
            time.sleep(0.05)
        commit_block(self.folder, block, [], [])
        zeros: dict[str, Any] = dict.fromkeys(
            ("num_failures", "num_detections", "seconds", "decode_s", "device_s", "idle_s",
             "paste_s", "commit_s", "num_ready", "num_to_paste"), 0,
        )  # fmt: skip
        late = "" if time.monotonic() < end else "late"
        return BlockSummary(block=block, num_images=len(rows), error="", note=late, **zeros)


def test_a_block_is_told_of_before_the_next_is_done(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder = tmp_path / "predictions"
    refs = [ImageRef(image_id=k, file_name=f"{k}.jpg", uri="") for k in range(1, 49)]
    predictions = open_predictions(folder, tables_of(refs), {}, {})
    seen: list[BlockSummary] = []

    def on_block(summary: BlockSummary) -> None:
        seen.append(summary)
        (tmp_path / f"told-{summary.block}").touch()

    run_inference(
        PreparedInfer(job=InferJob(weights="", out=folder, images=("x",)), predictions=predictions),
        cluster=None,
        on_block=on_block,
        make_labeler=Waiting(folder),
    )
    assert [(one.block, one.note) for one in seen] == [(0, ""), (1, ""), (2, "")]
