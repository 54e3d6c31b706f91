"""The top of the page: what was run, on what, and the few numbers that matter most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from raymrcnn import rundir
from raymrcnn.report.charts import number
from raymrcnn.report.collect import Metrics, Predictions, Run, mapping
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import as_float, count, date, duration, facts, grouped, score
from raymrcnn.report.training import last_loss, recipe_details

_STATES = {"complete": "good", "running": "warn", "interrupted": "warn", "failed": "bad"}


def title_of(run: Run | None, predictions: Predictions | None) -> str:
    """What the page is called: the recipe or weights, and the data."""
    data = data_of(run, predictions)
    place = PurePath(str(data.get("root") or "")).name
    if run is not None:
        name = str(mapping(run.document.get("recipe")).get("name") or run.folder.name)
    else:
        assert predictions is not None
        weights = str(mapping(predictions.manifest.get("options")).get("weights") or "")
        named = [part for part in PurePath(weights).parts if not _is_inside_run(part)]
        name = named[-1] if named else predictions.folder.name
    return f"{name} on {place}" if place else name


def _is_inside_run(name: str) -> bool:
    """Whether a part of a path only says which weights of a run are meant."""
    return name.startswith("step-") or name in (
        "/",
        rundir.BEST,
        rundir.LAST,
        rundir.CHECKPOINTS,
        rundir.MODEL_FILE,
    )


def data_of(run: Run | None, predictions: Predictions | None) -> dict[str, Any]:
    """Root and split of the data: of the predictions if there are any, else of the run."""
    if predictions is not None:
        data = mapping(predictions.manifest.get("data"))
        if data.get("root"):
            return data
    if run is None:
        return {}
    data = mapping(run.document.get("data"))
    recipe = mapping(mapping(run.document.get("recipe")).get("data"))
    return {"root": data.get("root"), "split": recipe.get("val_split")}


def header(run: Run | None, predictions: Predictions | None) -> Markup:
    """Kind, title, state, and the tiles."""
    kinds = [
        name
        for name, present in (
            ("Training", run is not None),
            ("Evaluation", predictions is not None and bool(predictions.scores)),
            ("Prediction", predictions is not None and not predictions.scores),
        )
        if present
    ]
    states = []
    if run is not None:
        states.append(_state("training", run.document.get("status")))
    if predictions is not None:
        states.append(_state("inference", predictions.manifest.get("status")))
    tiles = [el("div", *parts, class_="tile") for parts in _tiles(run, predictions)]
    return el(
        "header",
        el("p", " and ".join(kinds) + " report", class_="kind"),
        el("h1", title_of(run, predictions)),
        el("p", *states, class_="states"),
        el("div", *tiles, class_="tiles"),
        class_="top",
    )


def about(run: Run | None, predictions: Predictions | None) -> Markup:
    """Everything that one needs in order to do it again."""
    cards = []
    if run is not None:
        cards.append(el("div", el("h3", "Training"), _run_facts(run), class_="card"))
    if predictions is not None:
        cards.append(
            el("div", el("h3", "Inference"), _prediction_facts(predictions), class_="card")
        )
    grid = el("div", *cards, class_="grid pair")
    return grid if run is None else markup(grid, recipe_details(run))


def _state(what: str, value: Any) -> Markup:
    if not isinstance(value, str):
        return Markup()
    return el("span", f"{what}: {value}", class_=f"chip {_STATES.get(value, 'neutral')}")


def _tiles(run: Run | None, predictions: Predictions | None) -> list[tuple[Markup, ...]]:
    tiles: list[tuple[str, str, str]] = []
    if predictions is not None:
        for kind, name in (("segm", "Mask AP"), ("bbox", "Box AP")):
            scores = mapping(predictions.scores.get(kind))
            if scores:
                tiles.append((name, score(scores.get("AP")), f"AP50 {score(scores.get('AP50'))}"))
        tiles.append(_labelled(predictions))
        rate = as_float(predictions.manifest.get("images_per_s"))
        if rate > 0:
            spent = duration(as_float(predictions.manifest.get("seconds"))) or ""
            tiles.append(("Inference", f"{number(rate)}/s", f"images; {spent}".rstrip("; ")))
        if predictions.failures is not None:
            tiles.append(("Failures", grouped(predictions.failures.total), "images, see below"))
    if run is not None and run.metrics is not None:
        steps = run.metrics.columns["step"]
        planned = mapping(mapping(run.document.get("recipe")).get("optim")).get("max_iter")
        done = f"step {steps[-1]:.0f}" + (f" of {planned}" if planned else "")
        loss = last_loss(run.metrics)
        if np.isfinite(loss):
            tiles.append(("Training loss", number(loss), done))
        rates = run.metrics.column("images_per_s")
        if rates is not None:
            tiles.append(("Training", f"{number(float(np.nanmedian(rates)))}/s", "images, median"))
    return [
        (el("span", name), el("strong", value), el("small", rest)) for name, value, rest in tiles
    ]


def _labelled(predictions: Predictions) -> tuple[str, str, str]:
    num, failures = len(predictions.image_ids), predictions.failures
    asked = as_float(predictions.manifest.get("num_images"))
    rest = count(predictions.num_detections, "detection")
    if asked > num + (0 if failures is None else failures.total):
        rest = f"of {grouped(int(asked))}; unfinished"
    return "Images labelled", grouped(num), rest


def _run_facts(run: Run) -> Markup:
    document = run.document
    device, data = mapping(document.get("device")), mapping(document.get("data"))
    recipe = mapping(document.get("recipe"))
    metrics = run.metrics
    seconds = None if metrics is None else metrics.column("seconds")
    workers = device.get("workers")
    return facts(
        [
            ("Recipe", _text(recipe.get("name"))),
            (
                "Device",
                _text(device.get("name")) and
                f"{device['name']}" + (f" × {workers} workers" if workers else ""),
            ),
            ("Data", _text(data.get("root"))),
            ("Split", _text(data.get("train_split"))),
            ("Images", _text(data.get("num_images"))),
            ("Categories", _category_list(data.get("categories"))),
            ("Fingerprint", _text(data.get("fingerprint"))),
            ("Initial weights", _text(document.get("weights"))),
            ("Seed", _text(recipe.get("seed"))),
            ("Started", date(document.get("started"))),
            ("Time", None if seconds is None else duration(float(np.nanmax(seconds)))),
            ("Restarts", None if metrics is None else str(len(metrics.resumed_at) or "none")),
            ("Peak memory", _peak_memory(metrics)),
            ("Hardware", _hardware(mapping(document.get("hardware")))),
            ("Versions", _versions(mapping(document.get("versions")))),
        ]
    )  # fmt: skip


def _prediction_facts(predictions: Predictions) -> Markup:
    manifest = predictions.manifest
    options, data = mapping(manifest.get("options")), mapping(manifest.get("data"))
    known = {"weights", "score_threshold", "max_detections", "dtype", "device", "batch_size"}
    other = {
        k: v
        for k, v in options.items()
        if k not in known and isinstance(v, (str, int, float)) and v != ""
    }
    return facts(
        [
            ("Weights", _text(options.get("weights"))),
            ("Data", _text(data.get("root"))),
            ("Split", _text(data.get("split"))),
            ("Device", _text(options.get("device") or manifest.get("device"))),
            ("Number format", _text(options.get("dtype"))),
            ("Batch size", _text(options.get("batch_size"))),
            ("Score threshold", _text(options.get("score_threshold"))),
            ("Most detections", _text(options.get("max_detections"))),
            *((name.replace("_", " ").capitalize(), _text(v)) for name, v in other.items()),
            ("Started", date(manifest.get("started"))),
            ("Finished", date(manifest.get("finished"))),
            ("Time", duration(as_float(manifest.get("seconds")))),
            ("Card idle", _share(manifest.get("device_wait_share"))),
            ("Fingerprint", _fingerprint(mapping(manifest.get("fingerprint")))),
            ("Hardware", _hardware(mapping(manifest.get("hardware")))),
            ("Versions", _versions(mapping(manifest.get("versions")))),
            ("Folder", str(predictions.folder)),
        ]
    )


def _category_list(pairs: Any) -> str | None:
    if not isinstance(pairs, list) or not pairs:
        return None
    names = [str(p[1]) for p in pairs[:6] if isinstance(p, list) and len(p) == 2]
    more = ", …" if len(pairs) > 6 else ""
    return f"{len(pairs)}: {', '.join(names)}{more}"


def _versions(versions: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) or None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    return str(value)[:300]


def _share(value: Any) -> str | None:
    share = as_float(value)
    return f"{100 * share:.0f}% of the time, waiting for images" if 0 <= share <= 1 else None


def _fingerprint(prints: Mapping[str, Any]) -> str | None:
    """Of the weights, the annotations and the list of images."""
    known = [(name, prints.get(name)) for name in ("weights", "annotations", "images")]
    return ", ".join(f"{name} {v[:16]}" for name, v in known if isinstance(v, str)) or None


def _peak_memory(metrics: Metrics | None) -> str | None:
    peak = None if metrics is None else metrics.column("peak_memory_bytes")
    if peak is None or not np.nanmax(peak):
        return None
    return f"{float(np.nanmax(peak)) / 2**30:.1f} GiB, of the first worker"


def _hardware(found: Mapping[str, Any]) -> str | None:
    """Cards, processor and memory of the host that started it."""
    cards = found.get("cards")
    counted = Counter(map(str, cards)) if isinstance(cards, list) else {}
    parts = [f"{times} × {name}" for name, times in counted.items()]
    if found.get("cpu"):
        parts.append(f"{found['cpu']}, {found.get('cpus')} logical cores")
    if as_float(found.get("memory_gib")) > 0:
        parts.append(f"{as_float(found['memory_gib']):g} GiB")
    return "; ".join([*parts, *([str(found["system"])] if found.get("system") else [])]) or None
