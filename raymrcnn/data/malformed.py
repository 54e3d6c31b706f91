"""Entries of an annotation file that cannot be taken as they are: found one by one, and named.

A reader that trusts its file stops at the first; verification collects them here and goes on.
Numbers that are not finite are no JSON, though Python writes them (`NaN`): such a file is read
by Python's own, slower reader, and only here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import msgspec

SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """What is wrong with one entry."""

    section: str  # "images", "annotations" or "categories"
    position: int  # in the list of its section, from 0
    id: int  # -1 where it has none
    kind: str  # as of a finding
    what: str
    left_out: bool = True  # whether the columns lack the entry


def is_no_number(text: str) -> bool:
    """Whether msgspec says this of a number that no float holds."""
    return "number out of range" in text.lower()


def odd_crowd(position: int, annotation_id: int, flag: int) -> Malformed:
    """An annotation with another crowd flag than 0 or 1, which counts as 1."""
    return Malformed(
        section="annotations",
        position=position,
        id=annotation_id,
        kind="crowd-flag",
        what=f"iscrowd is {flag}, neither 0 nor 1",
        left_out=False,
    )


def finite_entries(content: bytes, malformed: list[Malformed]) -> dict[str, Any] | None:
    """The file's sections as lists of JSON texts, where its numbers alone are at fault.

    Numbers that are not finite become null, which no field that is read but `area` takes.

    Args:
        content: of the file.
        malformed: takes the entries with such numbers.

    Returns:
        None if it is not what Python writes either.
    """
    try:
        document = json.loads(content)
        sections = {name: list(document[name]) for name in SINGULAR}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    for section, entries in sections.items():
        for position, entry in enumerate(entries):
            place = _not_finite(entry)
            raw = msgspec.Raw(msgspec.json.encode(entry))
            entries[position] = raw
            if place:
                malformed.append(
                    Malformed(
                        section=section,
                        position=position,
                        id=_id(entry),
                        kind="number-not-finite",
                        what=f"{place}: not a finite number",
                        left_out=False,  # as far as is known here
                    )
                )
    return sections


def merged(malformed: list[Malformed]) -> list[Malformed]:
    """One for each entry and kind, in the order of the file."""
    found: dict[tuple[str, int, str], Malformed] = {}
    infinite = {(m.section, m.position) for m in malformed if m.kind == "number-not-finite"}
    for item in malformed:
        # Null instead of a number is one fault, not two.
        if (item.section, item.position) in infinite and item.left_out:
            key = (item.section, item.position, "number-not-finite")
            found[key] = replace(found.get(key, item), left_out=True)
        else:
            found.setdefault((item.section, item.position, item.kind), item)
    order = list(SINGULAR)
    return sorted(found.values(), key=lambda m: (order.index(m.section), m.position))


def _not_finite(value: Any, place: str = "") -> str:
    """Where the first number that is not finite stands; empty if there is none."""
    if isinstance(value, float):
        return place if not math.isfinite(value) else ""
    parts: list[tuple[str, Any]] = []
    if isinstance(value, list):
        parts = [(f"{place}[{i}]", part) for i, part in enumerate(value)]
    elif isinstance(value, dict):
        parts = [(f"{place}.{key}".lstrip("."), part) for key, part in value.items()]
    return next((found for name, part in parts if (found := _not_finite(part, name))), "")


def _id(entry: Any) -> int:
    found = entry.get("id") if isinstance(entry, dict) else None
    return found if isinstance(found, int) and found >= 0 else -1
