"""What a weight file is, for people: whose, which network, which conventions, what would load.

Tells what the tensors tell; whether a network takes them all is seen by whoever builds it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from raymrcnn.weights.names import is_classifier
from raymrcnn.weights.source import ModelSource, load_model_source, load_source


@dataclass(frozen=True, kw_only=True)
class Description:
    """One source of weights."""

    source: str
    format: str  # of the file
    program: str  # that made it
    kind: str  # "detector" or "backbone"
    conventions: tuple[str, ...]  # sheets that it is at home in
    num_tensors: int
    num_values: int
    dropped: dict[str, str]  # names in the file without a use here, and why
    model: dict[str, Any] | None  # of a detector
    num_classes: int  # of a detector, without background; 0: a backbone
    categories: tuple[str, ...]  # names of the first few classes
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


def describe(source: str) -> Description:
    """Say what a source of weights is; see `load_source` for what it may be.

    Raises:
        WeightError: nothing there, not weights, or a network that cannot be built here.
    """
    found = load_source(source)
    backbone = is_classifier(found.state)
    detector = None if backbone else load_model_source(source)
    return Description(
        source=found.description,
        format=found.format,
        program=found.program,
        kind="backbone" if backbone else "detector",
        conventions=(detector.config.conventions,) if detector else found.conventions,
        num_tensors=len(found.state),
        num_values=sum(tensor.numel() for tensor in found.state.values()),
        dropped=dict(found.dropped),
        model=asdict(detector.config) if detector else None,
        num_classes=len(detector.categories) if detector else 0,
        categories=_first_names(detector),
        sha256=found.digest,
    )


def _first_names(detector: ModelSource | None) -> tuple[str, ...]:
    named = () if detector is None else detector.categories
    return tuple(category.name for category in named if category is not None)[:5]
