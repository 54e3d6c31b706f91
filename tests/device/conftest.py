"""The simulator's environment, for tests of what a host with cards tells."""

from __future__ import annotations

from fakes.conftest import simulator

__all__ = ["simulator"]
