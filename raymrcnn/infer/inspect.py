"""A weight file looked into: what it says of itself, and that a network takes all of it."""

from __future__ import annotations

import torch

from raymrcnn.errors import WeightError
from raymrcnn.model.maskrcnn import build_mask_rcnn
from raymrcnn.weights.describe import Description, describe
from raymrcnn.weights.load import load_into
from raymrcnn.weights.source import load_model_source


def inspect_weights(source: str) -> Description:
    """Say what a source of weights is, after a detector of it was filled without a rest.

    Args:
        source: see `raymrcnn.weights.load_source`.

    Raises:
        WeightError: nothing there, not weights, a network that cannot be built here, or tensors
            that are missing, unknown or of another shape.
    """
    found = describe(source)
    if found.kind == "detector":
        detector = load_model_source(source)
        with torch.device("meta"):  # names and shapes decide; no memory is needed
            model = build_mask_rcnn(detector.config, found.num_classes, 800, 1333)
        try:
            load_into(model, detector.state, allow_new_heads=False)
        except WeightError as error:
            raise WeightError(error.what, where=found.source, todo=error.todo) from None
    return found
