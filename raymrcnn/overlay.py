"""Detections drawn over a photograph: masks, boxes and labels that can be read at any size.

A category has the same colour in every image. Small images are enlarged and large ones reduced
first, so that lines and letters have their size on the drawing. This module refuses to choose what
is shown beyond a least score.
"""

from __future__ import annotations

import colorsys
import contextlib
import os
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from raymrcnn.errors import DataError
from raymrcnn.masks import Bitmap, rle_to_bitmap
from raymrcnn.pictures import Picture, pixels_in_memory
from raymrcnn.structures import Detections

LEAST_SIDE_PX, LARGEST_SIDE_PX = 960, 1600  # of the longer side of a drawing
_MASK_SHARE = 0.45  # of the colour, where a mask lies
_GOLDEN = 0.618033988749895  # of the colour circle: neighbours in the list of ids stay apart
_MOST_COVERED = 0.4  # of a label by others; a label that would be covered more is left out
# Fonts for what Pillow's own cannot write, where the machine has one of them.
_EASTERN = 0x2E80
_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "msyh.ttc",
    "PingFang.ttc",
)
_WESTERN_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf")

_Box = tuple[float, float, float, float]
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def draw_detections(
    pixels: npt.NDArray[np.uint8],
    detections: Detections,
    names: Mapping[int, str],
    *,
    min_score: float = 0.5,
    scores: bool = True,
) -> Image.Image:
    """The photograph with its detections, large ones below small ones.

    Args:
        pixels: uint8 [height, width, 3] RGB, upright, of the size that `detections` state.
        detections: boxes, scores and masks, of which those below `min_score` are left out.
        names: category ids to names.
        min_score: 0 to 1.
        scores: write them behind the names.

    Raises:
        DataError: a mask is malformed or of another size.
    """
    height, width = pixels.shape[:2]
    scale = _scale(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    canvas = np.asarray(picture).copy()
    line = max(2, round(max(size) / 450))
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    chosen = np.flatnonzero(detections.scores >= min_score)
    chosen = chosen[np.argsort(-sides[chosen].prod(axis=1), kind="stable")]
    for d in chosen:
        bitmap = rle_to_bitmap(detections.rles[d], height, width)
        _blend(canvas, bitmap, size, colour(int(detections.category_ids[d])), line)
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    taken: list[_Box] = []
    for d in chosen:
        box = tuple((detections.boxes[d] * scale).tolist())
        shade = colour(int(detections.category_ids[d]))
        pen.rectangle(_ordered(box), outline=shade, width=line)
    for d in chosen[::-1]:  # small ones choose their place first
        k = int(detections.category_ids[d])
        text = names.get(k, f"category {k}")
        text = f"{text} {detections.scores[d]:.2f}" if scores else text
        box = tuple((detections.boxes[d] * scale).tolist())
        _label(pen, text, box, size, colour(k), taken)
    return drawn


def draw_over(picture: Picture, detections: Detections, *, min_score: float = 0.5) -> Image.Image:
    """The picture, read where it is a path, with its detections; see `draw_detections`.

    Raises:
        DataError: it cannot be read, or is of another size than `detections` state.
    """
    if isinstance(picture, (str, os.PathLike)):
        where = os.fspath(picture)
        try:
            with Image.open(picture) as opened:
                pixels = pixels_in_memory(opened, where)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise DataError(f"cannot read the image ({text})", where=where) from None
    else:
        where = "image"
        pixels = pixels_in_memory(picture)
    height, width = pixels.shape[:2]
    if (height, width) != (detections.height, detections.width):
        raise DataError(
            f"the image has {width}x{height} pixels, the detections are of "
            f"{detections.width}x{detections.height}",
            where=where,
            todo="give the image that was predicted on",
        )
    return draw_detections(pixels, detections, detections.names, min_score=min_score)


def colour(category_id: int) -> tuple[int, int, int]:
    """The RGB colour of a category, 0 to 255: bright, and far from those of the ids beside it."""
    turn = (category_id * _GOLDEN) % 1.0
    light = (0.95, 0.80, 1.0)[category_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.75 if category_id % 2 else 0.92, light)
    return round(255 * red), round(255 * green), round(255 * blue)


def _scale(height: int, width: int) -> float:
    longer = max(height, width)
    return min(max(longer, LEAST_SIDE_PX), LARGEST_SIDE_PX) / longer


def _blend(
    canvas: npt.NDArray[np.uint8],
    bitmap: Bitmap,
    size: tuple[int, int],
    shade: tuple[int, int, int],
    line: int,
) -> None:
    """Colour a mask, and more of it along its border; `canvas` [height, width, 3] is changed."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        return
    to_x, to_y = size[0] / bitmap.shape[1], size[1] / bitmap.shape[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    y1, y2 = int(top * to_y), min(size[1], max(int(top * to_y) + 1, round(bottom * to_y)))
    x1, x2 = int(left * to_x), min(size[0], max(int(left * to_x) + 1, round(right * to_x)))
    part = Image.fromarray(np.ascontiguousarray(bitmap[top:bottom, left:right] * 255))
    part = part.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
    inside = np.pad(np.asarray(part) >= 128, line)
    core = inside.copy()
    for _ in range(max(1, line // 2)):
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    inner = slice(line, -line)
    share = np.where(core, _MASK_SHARE, inside * 1.0)[inner, inner, None]
    region = canvas[y1:y2, x1:x2]
    region[:] = np.rint(region * (1 - share) + np.asarray(shade) * share).astype(np.uint8)


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, ...],
    size: tuple[int, int],
    shade: tuple[int, int, int],
    taken: list[_Box],
) -> None:
    """Write a label at its box where it covers least of other labels, unless it must cover much."""
    font, text = _font_for(text, max(13, round(max(size) / 62)))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pad = max(2, round((bottom - top) / 5))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x1, y1, x2, y2 = box
    places = [(x1, y1 - height), (x1, y1), (x1, y2 - height), (x1, y2), (x2 - width, y1 - height),
              (x2 - width, y2)]  # fmt: skip
    areas = []
    for x, y in places:
        x = min(max(x, 0.0), max(size[0] - width, 0.0))
        y = min(max(y, 0.0), max(size[1] - height, 0.0))
        areas.append((x, y, x + width, y + height))
    covered = [sum(_shared(area, other) for other in taken) for area in areas]
    if min(covered) > _MOST_COVERED * width * height:
        return  # the colour tells the category
    area = areas[covered.index(min(covered))]
    taken.append(area)
    pen.rectangle(area, fill=shade)
    dark = (0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]) > 120
    at = area[0] + pad - left, area[1] + pad - top
    pen.text(at, text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)


def _shared(a: _Box, b: _Box) -> float:
    """The area that two boxes share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)


def _ordered(box: tuple[float, ...]) -> _Box:
    x1, y1, x2, y2 = box
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _font_for(text: str, size: int) -> tuple[_Font, str]:
    """A font that can write a text, and the text, "?" for what no font here can."""
    highest = max(map(ord, text))
    if highest < 0x250:
        return _plain_font(size), text
    font = _font_among(_FONTS if highest >= _EASTERN else (*_WESTERN_FONTS, *_FONTS), size)
    if font is not None:
        return font, text
    return _plain_font(size), "".join(c if ord(c) < 0x250 else "?" for c in text)


@lru_cache(maxsize=8)
def _plain_font(size: int) -> _Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=8)
def _font_among(names: tuple[str, ...], size: int) -> _Font | None:
    for name in names:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return None
