"""`raymrcnn train`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from raymrcnn import rundir
from raymrcnn.cli.options import (
    AllowPartial,
    CardModel,
    Cluster,
    Detach,
    Device,
    Force,
    Json,
)
from raymrcnn.cli.show import ProgressLine, duration, print_json, stop_on_signals

if TYPE_CHECKING:
    from raymrcnn.train.job import Resume

INTERRUPTED = 130


def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Root of a data set in COCO's layout, or a URI of a sharded one."
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", help="What to train: see `raymrcnn recipes`; or a .json file."
        ),
    ] = "r50_fpn_1x",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe, again for each: --set optim.max_iter=5000",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Processes, one a card; 0: every card, and 1 on a CPU. 4:8: begin with what is "
            "there, go on with fewer where some are lost, and with more where some come.",
        ),
    ] = "0",
    device: Device = "auto",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Run folder, a path or a URI. \\[default: runs/RECIPE-DATA]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Initial weights: a file, a run folder or a "
            "torchvision weight name. A head of another size starts anew.",
        ),
    ] = None,
    allow_partial: AllowPartial = False,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on where the run in --out ended; never: refuse such a "
            "folder; must: refuse another."
        ),
    ] = "auto",
    validate_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="STEPS",
            help="Score the checkpoints of every so many steps, and the last, on the validation "
            "split: beside training where something is free. `best` names the best by mask AP.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Newest checkpoints that stay, besides the best. \\[default: the recipe's, 3]",
            show_default=False,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE", help="mlflow or wandb, again for each; TensorBoard always."
        ),
    ] = None,
    cluster: Cluster = None,
    detach: Detach = False,
    accelerator: CardModel = None,
    force: Force = False,
    max_failures: Annotated[
        int,
        typer.Option(
            min=0, help="Deaths of workers that the run goes on after, from its newest checkpoint."
        ),
    ] = 3,
    hang_timeout: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Without a step for so long, what hangs is ended, as a failure.",
        ),
    ] = 300,
    as_json: Json = False,
) -> None:
    """Train on every card; the same command run again goes on.

    Ctrl-C saves a checkpoint and exits with 130. The run folder holds run.json, metrics.jsonl,
    checkpoints/, and events for TensorBoard.

    Example: raymrcnn train --data coco --recipe r101_fpn_1x --workers 8 --out runs/r101
    """
    from raymrcnn import storage

    progress = ProgressLine(quiet=as_json)
    chosen = [] if validate_every is None else [f"validate.every={validate_every}"]
    chosen += [] if keep is None else [f"checkpoint.keep={keep}"]
    with stop_on_signals(progress) as stop:
        result = run(
            progress, stop.event, data=data, recipe=recipe,
            assignments=[*(assignments or []), *chosen], track=track or [],
            out=out or default_out(recipe, data), workers=_range(workers), device=device,
            weights=weights, allow_partial=allow_partial, resume=resume, cluster=cluster,
            accelerator=accelerator, force=force, max_failures=max_failures,
            hang_timeout_s=hang_timeout,
        )  # fmt: skip
    if as_json:
        print_json({"run": str(result.run_dir), "step": result.step, "status": result.status,
                    "resumed_from": result.resumed_from, "best_step": result.best_step,
                    "scores": result.scores})  # fmt: skip
    elif result.status == "complete":
        typer.echo(f"trained {result.step} steps: {result.run_dir}")
        if result.best_step is not None:
            typer.echo(f"best: step {result.best_step}, mask AP {result.scores['segm']['AP']:.3f}: "
                       f"{storage.below(result.run_dir, rundir.BEST)}")  # fmt: skip
    else:
        typer.echo(f"saved step {result.step} in {result.run_dir}; the same command goes on")
    if result.status != "complete":
        raise typer.Exit(INTERRUPTED)


def _range(text: str) -> int | tuple[int, int]:
    """What --workers says: a number, or the fewest and the most."""
    found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is neither 8 nor 4:8", param_hint="'--workers'")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def default_out(recipe: str, data: str) -> Path:
    """A run folder that the same command finds again."""
    name = rundir.home_expanded(data.partition("?")[0]).absolute().name
    kind = Path(recipe).stem if recipe.lower().endswith(".json") else recipe
    return Path("runs") / f"{kind}-{name}"


def run(progress: ProgressLine, stop: Any, *, recipe: str, assignments: list[str],
        resume: str, **options: Any) -> Any:  # fmt: skip
    """Train with a progress line; returns the `TrainResult`.

    Raises:
        RaymrcnnError: see `raymrcnn.api.train`.
    """
    from raymrcnn import api
    from raymrcnn.config import override
    from raymrcnn.errors import ConfigError
    from raymrcnn.recipes import recipe_named

    if resume not in ("auto", "never", "must"):
        raise ConfigError(f"{resume!r} is not auto, never or must", where="--resume")
    chosen = override(recipe_named(recipe), assignments)
    last = chosen.optim.max_iter

    def on_start(job: Any, start: int) -> None:
        unit = "worker" if job.workers == 1 else "workers"
        if start >= last:
            progress.note(f"{job.run_dir} is complete: nothing to do")
            return
        begin = f"going on from step {start}" if start else "starting"
        progress.note(f"{begin}: {chosen.name} to step {last} on {job.workers} {job.accelerator} "
                      f"{unit}, batch {chosen.optim.batch_size}, in {job.run_dir}")  # fmt: skip

    def on_news(item: dict[str, Any]) -> None:
        if "note" in item:
            progress.note(str(item["note"]))
        elif "validation" in item:
            progress.note(_scored(item))
        else:
            progress.show(_line(item, last, chosen.optim.batch_size), last=item["step"] >= last)

    with contextlib.closing(progress):
        return api.train(
            recipe=chosen,
            resume=cast("Resume", resume),
            on_start=on_start,
            on_news=on_news,
            stop=stop,
            **options,
        )


def _scored(item: dict[str, Any]) -> str:
    record = item["validation"]
    aps = ", ".join(f"{word} AP {record[kind]['AP']:.3f}"
                    for kind, word in (("segm", "mask"), ("bbox", "box")))  # fmt: skip
    best = ", the best so far" if item["best"] else ""
    return (f"step {item['step']} scored: {aps}{best} ({record['num_images']} images in "
            f"{duration(record['seconds'])})")  # fmt: skip


def _line(record: dict[str, Any], last: int, batch_size: int) -> str:
    parts = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    short = ("obj", "rpn", "cls", "box", "mask")
    losses = " ".join(
        f"{name} {record[f'loss_{part}']:.3f}" for name, part in zip(short, parts, strict=True)
    )
    workers = int(record.get("workers", 1))
    each = f" ({record['images_per_s'] / workers:.1f} a worker)" if workers > 1 else ""
    left_s = (last - record["step"]) * batch_size / max(record["images_per_s"], 1e-9)
    return (
        f"step {record['step']}/{last}  left {duration(left_s)}  {record['images_per_s']:.1f} "
        f"images/s{each}  loss {record['loss']:.3f} ({losses})  lr {record['lr']:.2e}  "
        f"data wait {record['data_wait_s'] * 1000:.0f} ms  "
        f"memory {record['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
