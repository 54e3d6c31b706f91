"""Masks from outlines, straight into the cells of boxes: no bitmap of an image is ever made.

A cell is inside where its centre is: a line from there to the right crosses the outline of some
part of the object an odd number of times. Everything stays on the device of the outlines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raymrcnn.structures import Outlines

_MAX_CROSSINGS = 1 << 22  # computed at a time: bounds the memory for outlines of thousands of edges


def cells_inside(outlines: Outlines, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Which cells of a side x side grid over each box lie in its object; [n, side, side] float32.

    Args:
        outlines: of the objects of one image, in the frame of the boxes.
        boxes: [n, 4] XYXY.
        matched: [n] int64: the object of each.
        side: cells a side.
    """
    inside = boxes.new_zeros((len(boxes), side, side))
    each = max(1, _MAX_CROSSINGS // max(1, len(outlines.edges) * side))
    for first in range(0, len(boxes), each):
        some = slice(first, first + each)
        inside[some] = _cells_inside(outlines, boxes[some], matched[some], side)
    return inside


def _cells_inside(outlines: Outlines, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    box, part = torch.where(matched[:, None] == outlines.object_of_part)  # rows: parts in boxes
    row, edge = torch.where(part[:, None] == outlines.part_of_edge)
    x1, y1, x2, y2 = outlines.edges[edge].unbind(1)
    left, top, right, bottom = boxes[box[row]].unbind(1)
    centres = (torch.arange(side, device=boxes.device) + 0.5) / side
    y = top[:, None] + (bottom - top)[:, None] * centres  # [edges of rows, side]
    crossed = (y1[:, None] <= y) != (y2[:, None] <= y)
    # Where it is crossed; level edges never are, and are kept from dividing by 0.
    rise = torch.where(y1 == y2, torch.ones_like(y1), y2 - y1)[:, None]
    x = x1[:, None] + (x2 - x1)[:, None] * (y - y1[:, None]) / rise
    # How many centres of the row of cells are to the left of the crossing.
    width = (right - left).clamp(min=1e-6)[:, None]
    number = ((x - left[:, None]) / width * side + 0.5).floor().clamp(0, side).long()
    counts = boxes.new_zeros(len(box) * side * (side + 1))
    line = row[:, None] * side + torch.arange(side, device=boxes.device)
    counts.index_add_(0, (line * (side + 1) + number).flatten(), crossed.to(boxes).flatten())
    counts = counts.view(len(box), side, side + 1)
    # Crossings to the right of cell c are those with more than c centres to their left.
    to_the_right = counts.flip(2).cumsum(2).flip(2)[:, :, 1:]
    odd = (to_the_right % 2).to(boxes)
    inside = boxes.new_zeros((len(boxes), side, side))
    return inside.index_add_(0, box, odd).clamp_(max=1.0)
