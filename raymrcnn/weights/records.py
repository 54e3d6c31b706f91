"""What stands beside tensors so that they can be used: network, classes, conventions; as JSON.

The same record is in a checkpoint's manifest and in a converted file. A file may come from anybody,
so every field is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from raymrcnn.config import ModelConfig, recipe_from_json
from raymrcnn.errors import ConfigError, WeightError
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.weights.programs import SHEETS, Sheet

NOTE = "raymrcnn"  # key of the record in a converted file
_MAX_SIDE = 2**16  # pixels


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What is known of an ImageNet network alone."""

    program: str
    conventions: tuple[Sheet, ...]
    norm_eps: float | None


def info_to_json(info: ModelInfo) -> dict[str, Any]:
    """The record of a detector; `info_from_json` reads it back."""
    return {
        "model": info.model,
        "categories": [None if c is None else [c.id, c.name] for c in info.categories],
        "short_side": info.short_side,
        "long_side": info.long_side,
    }


def info_from_json(document: Mapping[str, Any]) -> ModelInfo:
    """Read the record of a detector.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: it is malformed.
    """
    sides = int(document["short_side"]), int(document["long_side"])
    if not 0 < sides[0] <= sides[1] < _MAX_SIDE:
        raise ValueError(f"images of {sides[0]} by {sides[1]} pixels")
    return ModelInfo(
        model=dict(document["model"]),
        categories=tuple(
            None if entry is None else Category(id=int(entry[0]), name=str(entry[1]))
            for entry in document["categories"]
        ),
        short_side=sides[0],
        long_side=sides[1],
    )


def config_of(info: ModelInfo, where: str) -> ModelConfig:
    """The network of a record.

    Raises:
        WeightError: it is none that can be built here.
    """
    try:
        return recipe_from_json({"name": "weights", "model": info.model}).model
    except ConfigError as error:
        raise WeightError(error.what, where=where, todo=error.todo) from None


def record_text(info: ModelInfo | BackboneInfo) -> str:
    """The record that goes into a converted file."""
    if isinstance(info, ModelInfo):
        return json.dumps(info_to_json(info))
    return json.dumps(
        {
            "backbone": {
                "program": info.program,
                "conventions": list(info.conventions),
                "norm_eps": info.norm_eps,
            }
        }
    )


def read_record(text: str, where: str) -> ModelInfo | BackboneInfo:
    """Read the record of a converted file.

    Raises:
        WeightError: it is malformed.
    """
    try:
        document = json.loads(text)
        if "backbone" not in document:
            return info_from_json(document)
        about = document["backbone"]
        sheets, eps = tuple(about["conventions"]), about["norm_eps"]
        if not sheets or not set(sheets) <= set(SHEETS):
            raise ValueError(f"conventions {sheets}")
        return BackboneInfo(
            program=str(about["program"]),
            conventions=cast("tuple[Sheet, ...]", sheets),
            norm_eps=None if eps is None else float(eps),
        )
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WeightError(
            f"has a malformed {NOTE} record ({type(error).__name__}: {error})"[:200],
            where=where,
            todo="convert the file anew",
        ) from None
