"""Makes `commands`, and the small run of the training tests, importable by the tests beside it."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")]
