"""A prediction job whose network is a formula: ADDRESS FOLDER SOURCE WORKERS BLOCK_S.

A block takes BLOCK_S seconds, so that kills come in the midst of some.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from raymrcnn.infer.job import InferJob, PreparedInfer
from raymrcnn.infer.labeler import BlockSummary
from raymrcnn.infer.on_ray import run_inference
from raymrcnn.infer.sink import commit_block, open_predictions, read_images
from raymrcnn.infer.sources import images_named
from raymrcnn.structures import Detections, Failure


class FormulaLabeler:
    """Finds what the id of an image says; every seventh image fails."""

    def __init__(self, folder: Path, block_s: float) -> None:
        self.folder, self.block_s = folder, block_s

    def label_block(self, block: int, rows: range) -> BlockSummary:
        refs = read_images(self.folder, rows)
        found, failures = [], []
        for ref in refs:
            n = ref.image_id % 4
            if ref.image_id % 7 == 0:
                name = ref.file_name
                failures.append(Failure(image_id=ref.image_id, file_name=name, error="seventh"))
                continue
            found.append(
                Detections(
                    image_id=ref.image_id,
                    file_name=ref.file_name,
                    width=64,
                    height=48,
                    boxes=np.full((n, 4), ref.image_id, np.float32),
                    scores=np.linspace(0.9, 0.1, n, dtype=np.float32),
                    category_ids=np.arange(n),
                    rles=["0"] * n,
                )
            )
        time.sleep(self.block_s)
        commit_block(self.folder, block, found, failures)
        nothing = dict.fromkeys(("decode_s", "idle_s", "paste_s", "commit_s"), 0.0)
        return BlockSummary(
            block=block,
            num_images=len(refs),
            num_failures=len(failures),
            num_detections=sum(len(one.scores) for one in found),
            seconds=self.block_s,
            device_s=self.block_s,
            num_ready=0,
            num_to_paste=0,
            error="",
            note="",
            **nothing,
        )


class MakeFormula:
    def __init__(self, folder: Path, block_s: float) -> None:
        self.folder, self.block_s = folder, block_s

    def __call__(self, workers_here: int) -> FormulaLabeler:
        return FormulaLabeler(self.folder, self.block_s)


def main(address: str, folder: Path, source: str, workers: int, block_s: float) -> None:
    job = InferJob(weights="", out=folder, images=(source,), score=False, workers=workers)
    predictions = open_predictions(folder, images_named([source]), {"model": "formula"}, {})
    run_inference(
        PreparedInfer(job=job, predictions=predictions),
        cluster=address or None,
        make_labeler=MakeFormula(folder, block_s),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
