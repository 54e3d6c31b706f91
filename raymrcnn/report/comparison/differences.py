"""What was done otherwise: fields of the recipes, options, versions, hardware, data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raymrcnn.report.again import block, infer_command, train_command
from raymrcnn.report.collect import mapping
from raymrcnn.report.comparison.subjects import Subject, marker
from raymrcnn.report.markup import Markup, el, markup
from raymrcnn.report.parts import Section, count, table

_NONE = "–"
# Of run.json and manifest.json, besides the recipe; what names a folder or a time tells nothing.
_OF_RUN = ("device", "hardware", "versions", "weights")
_OF_DATA = ("root", "train_split", "fingerprint", "num_images")
_OF_JOB = ("options", "data", "versions", "hardware")


def recipes_section(subjects: Sequence[Subject]) -> Section:
    """Fields of the recipes that differ."""
    title = "Recipes"
    runs = [one for one in subjects if one.run is not None]
    if len(runs) < 2:
        return Section(key="recipes", title=title, why_absent="fewer than two runs were given")
    fields = [flat(mapping(one.run.document.get("recipe"))) for one in runs if one.run]
    rows = differing(fields)
    same = len(set().union(*fields)) - len(rows)
    lead = f"{count(same, 'field')} of the recipes are the same; these differ:"
    if not rows:
        lead = f"All {count(same, 'field')} of the recipes are the same."
    return Section(key="recipes", title=title, body=_body(runs, lead, rows))


def surroundings_section(subjects: Sequence[Subject]) -> Section:
    """Data, versions, hardware and options that differ."""
    title = "Data and machines"
    fields = [_surroundings(one) for one in subjects]
    rows = differing(fields)
    lead = "What the folders noted besides, where it differs."
    if not rows:
        lead = (
            "Data, versions, hardware and options are the same, as far as the folders noted them."
        )
    return Section(key="machines", title=title, body=_body(subjects, lead, rows))


def again_section(subjects: Sequence[Subject]) -> Section:
    """The commands that repeat each."""
    parts: list[Markup] = []
    for one in subjects:
        commands = []
        if one.run is not None:
            commands.append((f"Train {one.name}", train_command(one.run)))
        if one.predictions is not None:
            commands.append((f"Label images: {one.name}", infer_command(one.predictions)))
        parts += [block(title, text) for title, text in commands if text]
    if not parts:
        why = "the folders note no commands"
        return Section(key="again", title="Repeat", why_absent=why)
    return Section(key="again", title="Repeat", body=markup(*parts))


def differing(fields: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Names and values of what is not the same in all, in the order of their first mention."""
    names = dict.fromkeys(name for one in fields for name in one)
    rows = [(name, [one.get(name, _NONE) for one in fields]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values by dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{prefix}{name}"] = text[:200]
    return found


def _surroundings(subject: Subject) -> dict[str, str]:
    found: dict[str, str] = {}
    if subject.run is not None:
        document = subject.run.document
        data = mapping(document.get("data"))
        chosen = {name: document.get(name) for name in _OF_RUN}
        found |= flat({**chosen, "data": {k: data.get(k) for k in _OF_DATA}}, "training ")
    if subject.predictions is not None:
        manifest = subject.predictions.manifest
        found |= flat({name: manifest.get(name) for name in _OF_JOB}, "inference ")
        prints = mapping(manifest.get("fingerprint"))
        chosen = {k: prints.get(k) for k in ("weights", "annotations", "images")}
        found |= flat({k: v for k, v in chosen.items() if isinstance(v, str)}, "inference SHA-256 ")
    return found


def _body(subjects: Sequence[Subject], lead: str, rows: Sequence[tuple[str, list[str]]]) -> Markup:
    said = el("p", lead, class_="lead")
    if not rows:
        return said
    head = [el("th", "Field", scope="col")]
    head += [el("th", marker(one), el("bdi", one.name), scope="col") for one in subjects]
    lines = [
        markup(el("th", el("code", name), scope="row"), *(el("td", el("code", v)) for v in values))
        for name, values in rows
    ]
    body = el("div", table(head, lines, class_="fields"), class_="card scroll", tabindex=0,
              role="region", aria_label=lead)  # fmt: skip
    return markup(said, body)
