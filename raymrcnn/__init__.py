"""Mask R-CNN on every card of a cluster: training, labelling, scoring.

The public API is `train`, `infer`, `predict` and `score` (see `raymrcnn.api`). They are imported
at first use, so that `import raymrcnn` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymrcnn.api import infer, predict, score, train

__all__ = ["infer", "predict", "score", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raymrcnn' has no attribute {name!r}")
    from raymrcnn import api

    return getattr(api, name)
