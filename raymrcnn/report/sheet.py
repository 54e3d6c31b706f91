"""Annotated images side by side in one PNG, each with its name below it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from raymrcnn import rundir
from raymrcnn.overlay import draw_detections
from raymrcnn.report.annotated_page import Card

TILE_PX = (640, 480)  # width, height of a photograph at most
_GAP_PX, _TEXT_PX = 10, 24
_BACK, _INK, _MUTED = (245, 246, 249), (23, 32, 44), (225, 229, 235)


def write_sheet(
    out: Path,
    drawings: Iterable[tuple[Card, npt.NDArray[np.uint8] | None]],
    names: Mapping[int, str],
) -> tuple[list[Card], list[str]]:
    """Write the picture.

    Args:
        out: the PNG.
        drawings: annotated images, and their pixels [height, width, 3]; None: not to be had.
        names: category ids to names.

    Returns:
        What was drawn, and what could not be.

    Raises:
        OutputError: the disk refuses.
    """
    cards: list[Card] = []
    tiles: list[Image.Image] = []
    for card, pixels in drawings:
        cards.append(card)
        tiles.append(_tile(card, pixels, names))
    columns = max(1, min(len(tiles), math.ceil(math.sqrt(len(tiles) * 1.2))))
    wide, high = TILE_PX[0] + _GAP_PX, TILE_PX[1] + _TEXT_PX + _GAP_PX
    rows = math.ceil(len(tiles) / columns)
    whole = Image.new("RGB", (columns * wide + _GAP_PX, rows * high + _GAP_PX), _BACK)
    for k, tile in enumerate(tiles):
        whole.paste(tile, (_GAP_PX + k % columns * wide, _GAP_PX + k // columns * high))
    rundir.prepare_output(out.parent)
    rundir.write_atomic(out, functools.partial(_save, whole))
    return cards, [note for card in cards for note in card.notes]


def _tile(
    card: Card, pixels: npt.NDArray[np.uint8] | None, names: Mapping[int, str]
) -> Image.Image:
    tile = Image.new("RGB", (TILE_PX[0], TILE_PX[1] + _TEXT_PX), _BACK)
    pen = ImageDraw.Draw(tile)
    if pixels is None:
        tile.paste(_MUTED, (0, 0, *TILE_PX))
        pen.text((12, 12), "cannot be shown", fill=_INK, font=ImageFont.load_default(20))
    else:
        drawn = draw_detections(pixels, card.found, names, min_score=0.0, scores=False)
        drawn.thumbnail(TILE_PX, Image.Resampling.LANCZOS, reducing_gap=3.0)
        tile.paste(drawn, ((TILE_PX[0] - drawn.width) // 2, TILE_PX[1] - drawn.height))
    text = f"{card.image_id}  {card.found.file_name}"
    text = "".join(c if ord(c) < 0x250 else "?" for c in text)[:64]
    pen.text((2, TILE_PX[1] + 4), text, fill=_INK, font=ImageFont.load_default(15))
    return tile


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "PNG")
