"""Predicted masks, M x M probabilities in a box, straight to COCO's run-length strings.

No image-sized bitmap is made. A mask stretched bilinearly over its box is, down each column of
pixels, a line with M + 2 corners (one of padding at each end, 0). So each column is interpolated
at those corners alone, and where the line passes the threshold the run ends: the work grows with
the width of a box, not with its area. How a mask lies over its box, `mask_layout.py` says.

The outcome is bit for bit that of the program whose layout it is: a pixel so near the threshold
that float32 rounding decides it sends its box the long way, through torch's own interpolation.
The bounds for that hold whether or not the machine fuses multiplications and additions.

This module refuses boxes that are not numbers, and those beyond any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raymrcnn.mask_layout import LAYOUTS, Doubles, Flags, Floats, Ints, Layout
from raymrcnn.rle import check_size, encode_runs

if TYPE_CHECKING:
    import torch


_COLUMNS_AT_ONCE = 4096  # their corners (4096 * 30 * 4 bytes) stay in a core's cache
# Float32 steps of both ways together are under 4e-7 for probabilities in [0, 1]; twice that.
_ROUNDING = 8e-7


@dataclass(frozen=True)
class _Spans:
    """Vertical spans of ones, sorted by box, column and row: [num_spans] each."""

    box: Ints
    start: Ints  # column * height + row, in the image
    end: Ints  # one past the last


def paste_to_rles(
    mask_probs: torch.Tensor,
    boxes: torch.Tensor,
    height: int,
    width: int,
    threshold: float = 0.5,
    way: Literal["stretched", "sampled"] = "stretched",
) -> list[str]:
    """The compressed counts of (height, width) masks that are over `threshold`.

    Args:
        mask_probs: [num_masks, M, M], probabilities; computed with in float32.
        boxes: [num_masks, 4] XYXY, pixels of the image; what lies outside the image is cut off.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: 0 to 1; a pixel belongs to the mask where it is greater, or, "sampled", equal.
        way: how a mask lies over its box; see mask_layout.py.

    Raises:
        RunError: a box is not finite, or has over 2**28 pixels.
    """
    import torch

    check_size(height, width)
    assert 0 <= threshold <= 1
    num_masks = len(mask_probs)
    if num_masks == 0:
        return []
    probs = mask_probs.detach().to("cpu", torch.float32)
    padded = torch.nn.functional.pad(probs, (1, 1, 1, 1))
    layout = LAYOUTS[way](boxes.detach().to("cpu", torch.float32), probs, height, width)

    fast, unsure = _trace(padded.numpy(), layout, height, threshold)
    certain = ~unsure[fast.box]
    parts = [_Spans(fast.box[certain], fast.start[certain], fast.end[certain])]
    for n in np.flatnonzero(unsure).tolist():
        parts.append(_bitmap_spans(layout, n, height, threshold))
    return _encode(parts, num_masks, height, width)


def _trace(
    padded: Floats, layout: Layout, image_height: int, threshold: float
) -> tuple[_Spans, Flags]:
    """The spans of all boxes, and the boxes whose spans are not to be trusted."""
    unsure = np.asarray((~((padded >= 0) & (padded <= 1))).any(axis=(1, 2)))
    # Rows of `down` are columns of masks: their corners from top to bottom.
    down = np.ascontiguousarray(padded.transpose(0, 2, 1)) - np.float32(threshold)
    down = down.reshape(-1, padded.shape[-1])

    frames = layout.frames
    num_columns = frames.end_x - frames.first_x
    box_of = np.repeat(np.arange(len(padded)), num_columns)
    begins = np.cumsum(num_columns) - num_columns
    column = np.arange(len(box_of)) - (begins - frames.first_x)[box_of]
    spans = []
    for i in range(0, len(box_of), _COLUMNS_AT_ONCE):
        some = slice(i, i + _COLUMNS_AT_ONCE)
        spans.append(_trace_columns(down, box_of[some], column[some], layout, image_height, unsure))
    return _joined(spans), unsure


def _trace_columns(
    down: Floats,
    box: Ints,
    column: Ints,
    layout: Layout,
    image_height: int,
    unsure: Flags,
) -> _Spans:
    """The spans in some columns of the image; boxes that rounding may decide become `unsure`."""
    side = down.shape[1]
    left, weight, error_x = _sample(*layout.position(column, box, 0), side)
    row = box * side + left
    weight = weight[:, None]
    values = down[row]  # [num_columns, side]
    values += (down[row + (left < side - 1)] - values) * weight

    # A corner this near the threshold leaves the pixels around it open.
    widest = _ROUNDING + 2 * float(np.spacing(np.float32(side)))
    near = np.flatnonzero(np.abs(values) <= widest)
    unsure[box[near // side]] = True

    inside = values > 0
    crossing = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    where, corner = np.divmod(crossing, side - 1)
    here = box[where]
    above = values[where, corner].astype(np.float64)
    below = values[where, corner + 1].astype(np.float64)
    frames = layout.frames
    first, end = frames.first_y[here], frames.end_y[here]
    position = corner + above / (above - below)
    pixel = np.ceil(layout.pixel(position, here, 1)).astype(np.int64)
    for neighbour, expected in ((pixel - 1, above), (pixel, below)):
        at, lerp, error_y = _sample(*layout.position(neighbour, here, 1), side)
        value = (above + (below - above) * lerp) * np.sign(expected)
        doubtful = value <= _ROUNDING + error_x[where] + error_y
        doubtful &= (at == corner) & (neighbour >= first) & (neighbour < end)
        unsure[here[doubtful]] = True

    # Columns begin and end outside (padding), so crossings come in pairs: in, out.
    row_px = np.clip(pixel, first, end)
    flat = column[where] * image_height + row_px
    start, end = flat[0::2], flat[1::2]
    some = end > start
    return _Spans(here[0::2][some], start[some], end[some])


def _sample(steps: Doubles, fused: Doubles, side: int) -> tuple[Ints, Floats, Doubles]:
    """What positions mean among `side` corners, beyond which lies what the outer ones are.

    Returns:
        The corner before, the weight of the one after, and by how much that weight may differ
        where a machine multiplies and adds in one step.
    """
    position = steps.clip(0, side - 1)
    corner = position.astype(np.int64)
    weight = (position - corner).astype(np.float32)
    return corner, weight, np.abs(fused.clip(0, side - 1) - position)


def _bitmap_spans(layout: Layout, n: int, image_height: int, threshold: float) -> _Spans:
    """The spans of box `n` the long way."""
    inside = layout.bitmap(n, threshold)
    framed = np.zeros((inside.shape[0], inside.shape[1] + 2), np.bool_)
    framed[:, 1:-1] = inside
    column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])
    flat = (column + layout.frames.first_x[n]) * image_height + row + layout.frames.first_y[n]
    return _Spans(np.full(len(flat) // 2, n), flat[0::2], flat[1::2])


def _joined(parts: list[_Spans]) -> _Spans:
    def all_of(name: str) -> Any:
        return np.concatenate([getattr(p, name) for p in parts] or [np.zeros(0, np.int64)])

    return _Spans(all_of("box"), all_of("start"), all_of("end"))


def _encode(parts: list[_Spans], num_masks: int, height: int, width: int) -> list[str]:
    spans = _joined(parts)
    order = np.argsort(spans.box, kind="stable")
    box, start, end = spans.box[order], spans.start[order], spans.end[order]
    # A span that reaches the bottom goes on where the next column's begins at the top.
    goes_on = (end[:-1] == start[1:]) & (box[:-1] == box[1:])
    keep_end, keep_start = np.append(~goes_on, True), np.append(True, ~goes_on)
    if len(box) == 0:
        keep_end = keep_start = np.zeros(0, np.bool_)
    start, end, box = start[keep_start], end[keep_end], box[keep_start]

    # All masks behind one another, each closed by its last pixel; runs are the differences.
    num_pixels = height * width
    num_spans = np.bincount(box, minlength=num_masks)
    bounds = np.empty(2 * len(box) + num_masks, np.int64)
    place = 2 * np.arange(len(box)) + box
    bounds[place] = box * num_pixels + start
    bounds[place + 1] = box * num_pixels + end
    num_runs = 2 * num_spans + 1
    closing = np.cumsum(num_runs) - 1
    bounds[closing] = np.arange(1, num_masks + 1) * num_pixels
    runs = np.diff(bounds, prepend=0)
    kept = np.ones(len(runs), np.bool_)
    kept[closing] = runs[closing] > 0  # COCO writes no empty run at the end
    num_runs -= ~kept[closing]
    return encode_runs(runs[kept], num_runs)
