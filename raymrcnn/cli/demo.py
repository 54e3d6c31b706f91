"""`raymrcnn demo`: the whole product on made-up data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from raymrcnn import rundir
from raymrcnn.cli import infer, train
from raymrcnn.cli.options import Device, Json
from raymrcnn.cli.show import ProgressLine, duration, print_json, print_scores, stop_on_signals

NUM_IMAGES = 400
WORKERS = 2


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything.")] = Path("demo"),
    device: Device = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 8 images.")] = 200,
    as_json: Json = False,
) -> None:
    """Make data, train, infer, score and report, in minutes on a CPU.

    Writes a made-up data set with exact masks, trains a small Mask R-CNN on it with two Ray Train
    workers, labels the validation images through Ray Data, scores them and writes one HTML page.
    Run again, it goes on where it ended.

    Example: raymrcnn demo --out /tmp/demo
    """
    from raymrcnn.data.synthetic import write_synthetic
    from raymrcnn.report.page import write_report

    began = time.perf_counter()
    progress = ProgressLine(quiet=as_json)
    home = rundir.local_path(out, "--out")
    data, run, predictions = home / "data", home / "run", home / "predictions"
    progress.note(f"1/4 data: {NUM_IMAGES} made-up images in {data}")
    write_synthetic(data, NUM_IMAGES)
    progress.note(f"2/4 train: {WORKERS} Ray Train workers, {steps} steps")
    with stop_on_signals(progress) as stop:
        trained = train.run(
            progress, stop.event, data=data, recipe="tiny", out=run, workers=WORKERS,
            device=device, weights=None, resume="auto", cluster=None,
            assignments=[f"optim.max_iter={steps}",
                         f"optim.steps={sorted({steps * 8 // 10, steps * 19 // 20})}"],
        )  # fmt: skip
    if trained.status != "complete":
        raise typer.Exit(train.INTERRUPTED)
    progress.note("3/4 infer and score: the validation split, through Ray Data")
    result = infer.run(
        progress, weights=str(run), out=predictions, data=data, split="val2017", device=device,
        workers=WORKERS,
    )  # fmt: skip
    progress.note("4/4 report")
    page = write_report([run, predictions])
    if as_json:
        print_json({"data": str(data), "run": str(run), "predictions": str(predictions),
                    "report": str(page), "seconds": time.perf_counter() - began,
                    "scores": infer.metrics_of(result)})  # fmt: skip
        return
    print_scores(result.scores)
    typer.echo(f"data         {data}\nrun          {run}\npredictions  {predictions}")
    typer.echo(f"report       {page}\ntook         {duration(time.perf_counter() - began)}")
