"""Makes `hosts`, and the commands of other tests, importable by the tests beside it."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(_TESTS / "e2e"), str(_TESTS / "train")]
