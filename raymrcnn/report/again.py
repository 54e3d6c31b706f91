"""The commands that repeat a run, made from what the folders noted.

What a folder did not note (the images of a job without a data set) stays a word in capitals.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from raymrcnn.config import recipe_from_json
from raymrcnn.errors import ConfigError
from raymrcnn.recipes import RECIPES
from raymrcnn.report.collect import Predictions, Run, mapping
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section

_BASE = "r50_fpn_1x"  # of recipes that have no name here
_Words = list[tuple[str, ...]]


def again_section(run: Run | None, predictions: Predictions | None) -> Section:
    """The commands, to be copied."""
    blocks = []
    if run is not None:
        blocks.append(("Train", train_command(run)))
    if predictions is not None:
        blocks.append(("Label images", infer_command(predictions)))
        if predictions.scores:
            detail = " --detail" if predictions.scores.get("detail") else ""
            blocks.append(("Score", f"raymrcnn score {_quoted(predictions.folder)}{detail}"))
    folders = [str(one.folder) for one in (run, predictions) if one is not None]
    blocks.append(("This page", f"raymrcnn report {shlex.join(folders)}"))
    lead = el(
        "p",
        "Made from what the folders noted: the same recipe, weights and options. "
        "The data set and the weights must lie where they did.",
        class_="lead",
    )
    body = [block(title, text) for title, text in blocks if text]
    return Section(key="again", title="Repeat", body=markup(lead, *body))


def block(title: str, text: str) -> Markup:
    """A command with its heading and a button that copies it."""
    copy = el("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {title}")
    return el("div", el("h3", title), el("pre", el("code", text), tabindex=0), copy,
              class_="card command")  # fmt: skip


def train_command(run: Run) -> str:
    """The command that trains such a run; empty where run.json has no recipe that is known here."""
    document = run.document
    try:
        recipe = recipe_from_json(mapping(document.get("recipe")))
    except ConfigError:
        return ""
    base = recipe.name if recipe.name in RECIPES else _BASE
    before, now = _flat(RECIPES[base]().to_json()), _flat(recipe.to_json())
    changed = {k: v for k, v in now.items() if k != "name" and before.get(k) != v}
    device, data = mapping(document.get("device")), mapping(document.get("data"))
    words: _Words = [("raymrcnn", "train"), *_option("--data", data.get("root"))]
    words.append(("--recipe", base))
    words += [("--set", f"{k}={_value(v)}") for k, v in changed.items()]
    words += _option("--workers", device.get("workers"))
    words += _option("--device", device.get("name"))
    words += _option("--accelerator", device.get("model"))
    words += _option("--weights", document.get("weights"))
    if any(mapping(document.get("weights_loaded")).get(key) for key in ("new", "left")):
        words.append(("--allow-partial",))
    return _lines([*words, ("--out", str(run.folder))])


def infer_command(predictions: Predictions) -> str:
    """The command that labels the same images; empty without the options of the job."""
    manifest = predictions.manifest
    options, data = mapping(manifest.get("options")), mapping(manifest.get("data"))
    if not options:
        return ""
    words: _Words = [("raymrcnn", "infer")]
    if data.get("root"):
        words += [*_option("--data", data["root"]), *_option("--split", data.get("split"))]
    else:
        words.append(("--images", "IMAGES"))
    for name in ("weights", "dtype", "score_threshold", "max_detections", "batch_size", "device"):
        words += _option(f"--{name.replace('_', '-')}", options.get(name))
    words += [("--tta", "flip")] if options.get("tta_flip") else []
    scales = options.get("tta_scales")
    if isinstance(scales, Sequence) and not isinstance(scales, str) and scales:
        words.append(("--tta-scales", ",".join(map(str, scales))))
    words += _option("--limit", mapping(manifest.get("fingerprint")).get("limit"))
    words += [("--allow-partial",)] if options.get("weights_left") else []
    words += [("--mode", "predict")] if data.get("root") and not predictions.scores else []
    return _lines([*words, ("--out", str(predictions.folder))])


def _option(name: str, value: Any) -> _Words:
    return [(name, str(value))] if isinstance(value, (str, int, float)) and value != "" else []


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(value: object) -> str:
    return shlex.quote(str(value))


def _lines(words: _Words) -> str:
    """A line an option."""
    return " \\\n  ".join(shlex.join(group) for group in words)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{leaf}": v for leaf, v in value.items()}
        else:
            flat[name] = value
    return flat
