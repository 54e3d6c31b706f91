"""A million rows through the whole pipeline with a network that finds nothing.

What is measured is what is left when decoding and predicting cost nothing: listing the input,
passing blocks through Ray, reading the input's rows, committing results. The job runs in a process
of its own; it is killed in the middle (SIGKILL, with all of its Ray) and started again, as a user
would. Stated: rows a second, the growth of the driver's memory from the first block to the last,
and the seconds from the start of the command to its first block, fresh and after the kill.

Run as `python benchmarks/scale.py [--quick] [--rows N] [--workers N] [--only HALF]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results" / "scale.json"
CHUNK = 100_000
SAMPLE_EVERY = 50  # blocks between two looks at the driver's memory


class NullLabeler:
    """Commits rows without detections; opens no image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def label_block(self, block: int, rows: range) -> Any:  # noqa: D102
        from raymrcnn.infer.labeler import BlockSummary
        from raymrcnn.infer.sink import commit_block, read_images
        from raymrcnn.structures import Detections

        began = time.perf_counter()
        nothing: dict[str, Any] = {
            "boxes": np.zeros((0, 4), np.float32),
            "scores": np.zeros(0, np.float32),
            "category_ids": np.zeros(0, np.int64),
            "rles": [],
        }
        found = [
            Detections(
                image_id=ref.image_id, file_name=ref.file_name, width=640, height=480, **nothing
            )
            for ref in read_images(self.folder, rows)
        ]
        mark = time.perf_counter()
        commit_block(self.folder, block, found, [])
        now = time.perf_counter()
        return BlockSummary(
            block=block, num_images=len(found), num_failures=0, num_detections=0,
            seconds=now - began, decode_s=0.0, device_s=0.0, idle_s=0.0, paste_s=0.0,
            commit_s=now - mark, num_ready=0, num_to_paste=0, error="", note="",
        )  # fmt: skip


class MakeNull:
    """Makes it, in an actor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, workers_here: int) -> NullLabeler:  # noqa: D102
        return NullLabeler(self.folder)


def write_rows(path: Path, rows: int) -> None:
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string())])) as writer:
        for start in range(0, rows, CHUNK):
            names = [f"/data/{k // 1000:06d}/{k:09d}.jpg" for k in range(start, start + CHUNK)]
            writer.write_table(pa.table({"uri": names[: rows - start]}))


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_job(folder: Path, source: Path, workers: int) -> None:
    """The job, in this process; a line of JSON now and then, and one at the end."""
    began = time.perf_counter()
    from raymrcnn.infer.job import InferJob, PreparedInfer
    from raymrcnn.infer.on_ray import run_inference
    from raymrcnn.infer.sink import open_predictions
    from raymrcnn.infer.sources import images_named

    predictions = open_predictions(folder, images_named([str(source)]), {"model": "null"}, {})
    listed_s = time.perf_counter() - began
    job = InferJob(
        weights="", out=folder, images=(str(source),), score=False, workers=workers, batch_size=1
    )
    first: dict[str, float] = {}
    state = {"blocks": 0, "rows": 0, "most_mb": 0.0}

    def on_block(summary: Any) -> None:
        state["blocks"] += 1
        state["rows"] += summary.num_images
        if state["blocks"] % SAMPLE_EVERY and first:
            return
        state["most_mb"] = max(state["most_mb"], rss_mb())
        if not first:
            first.update(at=time.perf_counter(), mb=rss_mb(), rows=state["rows"])
            say(event="first", seconds=first["at"] - began, listed_s=listed_s)
        say(event="blocks", done=state["blocks"])

    def say(**what: object) -> None:
        print(json.dumps(what), flush=True)

    done, _ = run_inference(
        PreparedInfer(job=job, predictions=predictions),
        cluster=None,
        on_block=on_block,
        make_labeler=MakeNull(folder),
    )
    seconds = time.perf_counter() - first["at"]
    say(
        event="end",
        rows_per_s=(state["rows"] - first["rows"]) / seconds,
        growth_mb=max(state["most_mb"], rss_mb()) - first["mb"],
        driver_mb=rss_mb(),
        blocks=done.num_blocks,
    )


def start(folder: Path, source: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--job", str(folder), "--source", str(source)]
    return subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def events(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def undisturbed(source: Path, rows: int, workers: int, folder: Path) -> dict[str, Any]:
    """A job from its start to its end."""
    whole = start(folder, source, workers)
    seen = {event.pop("event"): event for event in events(whole)}
    assert whole.wait() == 0, "the job failed"
    require_each_once(folder, rows)
    return {
        "blocks": seen["end"]["blocks"],
        "listed_s": round(seen["first"]["listed_s"], 2),
        "first_block_s": round(seen["first"]["seconds"], 2),
        "rows_per_s": round(seen["end"]["rows_per_s"]),
        "driver_growth_mb": round(seen["end"]["growth_mb"], 1),
        "driver_mb": round(seen["end"]["driver_mb"], 1),
        "load": round(os.getloadavg()[0], 1),
    }


def killed(source: Path, rows: int, workers: int, folder: Path) -> dict[str, Any]:
    """A job that is killed in the middle and started again."""
    first = start(folder, source, workers)
    for event in events(first):
        if event["event"] == "blocks" and event["done"] >= -(-rows // 256) // 2:
            os.kill(first.pid, signal.SIGKILL)
            break
    first.wait()
    there = len(list(folder.glob("part-*")))
    again = start(folder, source, workers)
    resumed = {event.pop("event"): event for event in events(again)}
    assert again.wait() == 0, "the resumed job failed"
    require_each_once(folder, rows)
    return {
        "blocks_before_kill": there,
        "resume_first_block_s": round(resumed["first"]["seconds"], 2),
        "resume_driver_growth_mb": round(resumed["end"]["growth_mb"], 1),
        "rows_lost": 0,
        "rows_doubled": 0,
        "resume_load": round(os.getloadavg()[0], 1),
    }


def require_each_once(folder: Path, rows: int) -> None:
    ids = [
        pq.read_table(path, columns=["image_id"]).column(0).to_numpy()
        for path in sorted(folder.glob("part-*.parquet"))
    ]
    assert np.array_equal(np.concatenate(ids), np.arange(1, rows + 1)), folder


PARTS = {"undisturbed": undisturbed, "killed": killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 000 rows, no file")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=list(PARTS), help="one half; the other's is kept")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_job(options.job, options.source, options.workers)
        return
    rows = 50_000 if options.quick else options.rows
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result: dict[str, Any] = {
        "benchmark": "scale",
        "what": "rows through the pipeline with a network that finds nothing",
        "rows": rows,
        "workers": options.workers,
        **({k: before[k] for k in PARTS if k in before} if before.get("rows") == rows else {}),
    }
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "input.parquet"
        write_rows(source, rows)
        for name in [options.only] if options.only else PARTS:
            result[name] = PARTS[name](source, rows, options.workers, Path(home) / name)
            print(json.dumps(result[name]), file=sys.stderr, flush=True)
    result["machine"] = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    )
    print(json.dumps(result, indent=2))
    if not options.quick and options.rows >= 1_000_000:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
