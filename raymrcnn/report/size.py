"""How large a page may be, and what is given up, in which order, to keep it so.

A page is passed round by mail and chat: it stays under `MOST_BYTES` whatever the run. This module
refuses to cut what was written; each level is a page that was made smaller on purpose and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raymrcnn.errors import OutputError

MOST_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Level:
    """How much a page shows."""

    photo_px: int = 960  # the longer side of a photograph; 0: none is embedded
    photos: int = 1000  # the most
    shapes: int = 60  # drawn in one picture, of objects and of detections each
    path_chars: int = 20_000  # of one outline; what is longer is traced coarser
    rows: int = 100_000  # of a table of categories

    def says(self) -> str:
        """What is given up, in words; empty for the first level."""
        if self == LEVELS[0]:
            return ""
        photographs = (
            f"photographs are at most {self.photo_px} px and {self.photos} in number, with "
            f"{self.shapes} outlines each"
            if self.photo_px
            else "no photographs are shown"
        )
        most = f", and tables have at most {self.rows} rows" if self.rows < 10_000 else ""
        return f"To keep this page under {MOST_BYTES // 10**6} MB, {photographs}{most}."


LEVELS = (
    Level(),
    Level(photo_px=720),
    Level(photo_px=480, path_chars=8_000),
    Level(photo_px=480, shapes=30, path_chars=4_000, rows=5_000),
    Level(photo_px=320, photos=100, shapes=20, path_chars=2_000, rows=2_000),
    Level(photo_px=240, photos=40, shapes=10, path_chars=1_000, rows=1_000),
    Level(photo_px=0, photos=0, shapes=0, path_chars=0, rows=300),
)


def fitted(make: Callable[[Level], str], where: str) -> str:
    """The document of the first level that is small enough.

    Args:
        make: writes the document at a level.
        where: the file that it is for, named in the error.

    Raises:
        OutputError: even the smallest is too large.
    """
    size = 0
    for level in LEVELS:
        document = make(level)
        size = len(document.encode("utf-8", "replace"))
        if size <= MOST_BYTES:
            return document
    raise OutputError(
        f"the page would have {size / 1e6:.1f} MB, and {MOST_BYTES / 1e6:.0f} is the most",
        where=where,
        todo="give fewer folders",
    )
