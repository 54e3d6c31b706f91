"""What a page that takes long to make tells of how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is done, how often it was, and of how many.
Progress = Callable[[str, int, int], None]
