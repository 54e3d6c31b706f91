"""How much Ray says: errors alone, or all, where the command line was given --verbose."""

from __future__ import annotations

import logging
import os
from typing import Any

_VERBOSE = "RAYMRCNN_VERBOSE"  # set by the command line, for all that it starts


def log_level() -> int:
    """The least level of what Ray's libraries log."""
    return logging.INFO if os.environ.get(_VERBOSE) else logging.ERROR


def ray_log() -> dict[str, Any]:
    """Arguments of `ray.init`."""
    return {"log_to_driver": log_level() < logging.ERROR, "logging_level": log_level()}
