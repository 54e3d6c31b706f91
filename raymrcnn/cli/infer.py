"""`raymrcnn infer`."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raymrcnn import rundir
from raymrcnn.cli.jobs import OnCluster
from raymrcnn.cli.options import (
    AllowPartial,
    CardModel,
    Cluster,
    Detach,
    Device,
    Force,
    Json,
    Workers,
)
from raymrcnn.cli.show import ProgressLine, duration, print_json, print_scores

OLD_NAMES = {
    "--bs": "--batch-size",
    "--input-data-type": "--dtype",
    "--input_data_type": "--dtype",
    "--checkpoint": "--weights",
    "--modeldir": "--weights",
}


OVERLAYS = 24  # images drawn after a prediction


class WithOldNames(OnCluster):
    """Takes the names that the reference gave to options, without listing them."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Rename options, then parse."""
        renamed = []
        for text in args:
            name, equals, value = text.partition("=")
            renamed.append(f"{OLD_NAMES.get(name, name)}{equals}{value}")
        return super().parse_args(ctx, renamed)


def infer(
    weights: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="A run folder, a weight file, or a torchvision weight name."
        ),
    ] = "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
    allow_partial: AllowPartial = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Root of a data set in COCO's layout; a sharded one may be a URI.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "val2017",
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHERE",
            help="Instead of --data: a folder, a glob in quotes, a .txt list, an image, tars or "
            "parquet shards, or URIs of them (s3://...); may be given again.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Predictions folder, a path or a URI.")
    ] = "predictions",
    mode: Annotated[
        str | None,
        typer.Option(
            help="evaluation: score against the annotations at the end; predict: do "
            "not. \\[default: evaluation with --data, predict with --images]",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images a card takes at once. \\[default: 32, and 4 on a CPU]",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Have torch compile the backbone: a slower start.")
    ] = False,
    tta: Annotated[
        str | None,
        typer.Option(metavar="flip", help="Test-time augmentation: see each image mirrored too."),
    ] = None,
    tta_scales: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Test-time augmentation: see each image at these short sides, in pixels.",
        ),
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(help="A detection must score above, 0 to 1.")
    ] = 0.05,
    max_detections: Annotated[int, typer.Option(min=1, help="Kept of an image.")] = 100,
    max_failures: Annotated[
        int, typer.Option(help="Images that may fail before the job stops; -1: any number.")
    ] = -1,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Label images again that failed before.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many images; 0: all.")] = 0,
    coco_json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write COCO results here.")
    ] = None,
    overlays: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Draw so many images into overlays/ and gallery.html. "
            "\\[default: 24 with --mode predict, else 0]",
            show_default=False,
        ),
    ] = None,
    overlay_sample: Annotated[
        int | None,
        typer.Option(min=0, metavar="SEED", help="A sample of the images, not the first ones."),
    ] = None,
    workers: Workers = 0,
    decode_workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that only read and decode images, on any machine of the cluster; 0: "
            "threads beside each card do.",
        ),
    ] = 0,
    device: Device = "auto",
    cluster: Cluster = None,
    detach: Detach = False,
    accelerator: CardModel = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Label a data set or any images; the same command run again goes on.

    The predictions folder holds part-*.parquet with one row an image (boxes as x1 y1 x2 y2 in
    pixels of the upright image, masks as COCO RLE), failures.parquet with the images that could
    not be read and why, manifest.json, and scores.json after an evaluation.

    Example: raymrcnn infer --data coco --split val2017 --weights runs/r101 --out predictions
    """
    progress = ProgressLine(quiet=as_json)
    _require_drawable(out, overlays, overlay_sample)
    _require_json_target(coco_json)
    result = run(
        progress, weights=weights, allow_partial=allow_partial, data=data, split=split,
        images=tuple(images or ()), out=out, score=_scores(mode, data), batch_size=batch_size or 0,
        dtype=dtype, compile=compile_model, tta_flip=_flips(tta), tta_scales=_scales(tta_scales),
        score_threshold=score_threshold, max_detections=max_detections, max_failures=max_failures,
        retry_failures=retry_failures,
        limit=limit, workers=workers, decode_workers=decode_workers, device=device,
        cluster=cluster, accelerator=accelerator, force=force,
    )  # fmt: skip
    if coco_json is not None:
        from raymrcnn.infer.export import write_coco_json

        write_coco_json(result.folder, coco_json)
    drawn = _draw(result, overlays, overlay_sample, predict=not _scores(mode, data))
    report(result, coco_json, as_json, drawn)


def run(progress: ProgressLine, **options: Any) -> Any:
    """Infer with a progress line; returns the `InferResult`.

    Raises:
        RaymrcnnError: see `raymrcnn.api.infer`.
    """
    from raymrcnn import api

    line = _JobLine(progress)
    with contextlib.closing(progress):
        return api.infer(on_start=line.start, on_block=line.block, **options)


def _require_drawable(out: str, overlays: int | None, sample: int | None) -> None:
    """Better now than after the last image."""
    from raymrcnn.errors import ConfigError

    if "://" in out and (overlays or sample is not None):
        raise ConfigError(
            "images are drawn into a local predictions folder, not behind a URI",
            where="--overlays",
            todo="drop it, or give a path as --out",
        )


def _require_json_target(path: Path | None) -> None:
    """Better now than after the last image, and without making a folder."""
    from raymrcnn.errors import ConfigError

    if path is None:
        return
    target = rundir.local_path(path, "--coco-json")
    if os.path.isdir(target):
        raise ConfigError(f"{target} is a folder", where="--coco-json", todo="name a file")
    rundir.prepare_output(next(above for above in target.parents if os.path.exists(above)))


def _draw(result: Any, count: int | None, seed: int | None, *, predict: bool) -> Any:
    """Draw the images that were asked for; by default those of a prediction, once."""
    from raymrcnn import api

    skipped = not predict or result.already_done or isinstance(result.folder, str)
    if count is None and seed is None and skipped:
        return None
    count = OVERLAYS if count is None else count
    return api.draw(result.folder, count, sample_seed=seed) if count else None


class _JobLine:
    """What a prediction job is at, in one line.

    Args:
        progress: where to show it.
    """

    def __init__(self, progress: ProgressLine) -> None:
        self._progress = progress
        self._total = self._done = self._failed = self._new = 0
        self._began = time.perf_counter()
        self._noted = False

    def start(self, images: int, before: int, failed: int) -> None:
        """The input is known, what was done of it before, and what of that failed."""
        self._total, self._done, self._failed = images, before, failed
        if before:
            self._progress.note(f"going on: {before} of {images} images are done")
        else:  # Ray and the actors take their time, and nothing else is said until the first block
            self._progress.note(f"starting: {images} images")

    def block(self, block: Any) -> None:
        """A block was committed."""
        now = time.perf_counter()
        if not self._new:
            self._began = now - block.seconds  # without the start of Ray and the actors
        if block.note and not self._noted:
            self._noted = True
            self._progress.note(block.note)
        self._new += block.num_images
        self._done += block.num_images
        self._failed += block.num_failures
        rate = self._new / max(now - self._began, 1e-9)
        left = self._total - self._done
        # Within 80 columns, of which the failures are the first to be cut.
        self._progress.show(
            f"{self._done}/{self._total} images  {rate:.1f}/s  left {duration(left / rate)}  "
            f"ready {block.num_ready}, paste {block.num_to_paste}  {self._failed} failed",
            last=not left,
        )


def report(result: Any, coco_json: Path | None, as_json: bool, drawn: Any = None) -> None:
    """Say how a job ended."""
    from raymrcnn.score.coco import Scores

    manifest, scores = result.manifest, result.scores
    failures = manifest["num_failures"]
    if as_json:
        print_json({"predictions": str(result.folder), "num_images": manifest["num_images"],
                    "num_failures": failures, "images_per_s": manifest.get("images_per_s"),
                    "device_wait_share": manifest.get("device_wait_share"),
                    "stages": manifest.get("stages"), "already_done": result.already_done,
                    "gallery": drawn and str(drawn.gallery),
                    "scores": metrics_of(result)})  # fmt: skip
        return
    if result.already_done:
        typer.echo(f"{result.folder} is complete: nothing to do")
    elif isinstance(scores, Scores):
        print_scores(scores)
    left = manifest.get("options", {}).get("weights_left", [])
    if left:
        more = ", ..." if len(left) > 3 else ""
        typer.echo(f"left in the weights: {len(left)} tensors ({', '.join(left[:3])}{more})")
    note = f", {failures} failed (failures.parquet says why)" if failures else ""
    typer.echo(f"{manifest['num_images']} images{note}: {result.folder}")
    if not result.already_done and manifest.get("stages"):
        typer.echo(_where_time_went(manifest))
    if coco_json is not None:
        typer.echo(f"COCO results: {coco_json}")
    if drawn is not None:
        typer.echo(f"{len(drawn.overlays)} drawn images: {drawn.gallery}")
        for note in drawn.notes[:5]:
            typer.echo(f"  {note}")


def _where_time_went(manifest: dict[str, Any]) -> str:
    stages = manifest["stages"]
    whole = max(sum(stages.values()), 1e-9)
    parts = ", ".join(
        f"{name.removesuffix('_s')} {seconds / whole:.0%}" for name, seconds in stages.items()
    )
    return (
        f"{manifest['images_per_s']:.1f} images/s; the device stood idle "
        f"{manifest['device_wait_share']:.0%} of the time; work of all threads: {parts}"
    )


def _flips(tta: str | None) -> bool:
    from raymrcnn.errors import ConfigError

    if tta not in (None, "flip"):
        raise ConfigError(f"{tta!r} is not flip", where="--tta", todo="for scales: --tta-scales")
    return tta is not None


def _scales(text: str | None) -> tuple[int, ...]:
    from raymrcnn.errors import ConfigError

    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(
            f"{text!r} is no list of whole numbers", where="--tta-scales", todo="write 640,800"
        ) from None


def _scores(mode: str | None, data: str | None) -> bool:
    from raymrcnn.errors import ConfigError

    if mode not in (None, "evaluation", "predict"):
        raise ConfigError(f"{mode!r} is not evaluation or predict", where="--mode")
    if mode == "evaluation" and data is None:
        raise ConfigError("an evaluation needs annotations", where="--mode", todo="give --data DIR")
    return data is not None and mode != "predict"


def metrics_of(result: Any) -> dict[str, Any] | None:
    """The COCO numbers of a job, or None where it was not scored."""
    from raymrcnn.score.coco import Scores

    scores = result.scores
    document = scores.to_json() if isinstance(scores, Scores) else scores
    return document and {kind: document[kind] for kind in ("bbox", "segm") if kind in document}
