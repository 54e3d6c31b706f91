"""Mask R-CNN on every card of a cluster: training, labelling, scoring.

The public API is `train`, `infer`, `predict`, `score` and `write_dataset` (see `raymrcnn.api`).
They are imported at first use, so that `import raymrcnn` costs nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymrcnn.api import infer, predict, score, train, write_dataset

__all__ = ["infer", "predict", "score", "train", "write_dataset"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raymrcnn' has no attribute {name!r}")
    from raymrcnn import api

    return getattr(api, name)


class _Procedure(ModuleType):
    """A package of the name of a function, called like it: `train`, `infer` and `score`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*args, **options)


class _Package(ModuleType):
    """The type of this package: an import of `raymrcnn.train.job` hides no `raymrcnn.train()`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _Procedure
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
