"""Predictions in the formats of others."""

from __future__ import annotations

import json
from pathlib import Path

from raymrcnn import rundir
from raymrcnn.infer.sink import Folder, read_results
from raymrcnn.rows import coco_results


def write_coco_json(folder: Folder, path: Path) -> None:
    """Commit the results of a predictions folder as a COCO results file, an image at a time.

    Raises:
        DataError: the folder holds no predictions, or a file of them is damaged.
        ConfigError: the path is a URI.
        OutputError: the disk refuses.
    """
    target = rundir.local_path(path, "--coco-json")

    def write(tmp: Path) -> None:
        with tmp.open("w", encoding="utf-8") as stream:
            between = "["
            for detections in read_results(folder):
                for entry in coco_results(detections):
                    stream.write(f"{between}\n{json.dumps(entry)}")
                    between = ","
            stream.write("[]\n" if between == "[" else "\n]\n")

    with rundir.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(target, write)
