"""The simulator's environment, for a doctor with cards."""

from __future__ import annotations

from fakes.conftest import simulator

__all__ = ["simulator"]
