"""Predicted masks, M x M probabilities in a box, straight to COCO's run-length strings.

No image-sized bitmap is made. A mask stretched bilinearly over its box is, down each column of
pixels, a line with M + 2 corners (one of padding at each end, 0). So each column is interpolated
at those corners alone, and where the line passes the threshold the run ends: the work grows with
the width of a box, not with its area.

Two ways of laying a mask over its box are known, each with its program's own bits:
- "stretched": the box, grown by the padding, is cut to whole pixels, and the mask is interpolated
  to so many; a pixel belongs to it above the threshold. torchvision (models/detection/
  roi_heads.py, paste_mask_in_image) and maskrcnn-benchmark (roi_heads/mask_head/inference.py,
  Masker).
- "sampled": the mask is sampled where the middle of each pixel falls in the box, up to a pixel
  around it; a pixel belongs to it at or above the threshold. detectron2 (layers/mask_ops.py,
  _do_paste_mask, on a CPU).
A pixel so near the threshold that float32 rounding decides it sends its box the long way, through
torch's own interpolation. The bounds for that hold whether or not the machine fuses
multiplications and additions. Source for the sampling positions: ATen/native/UpSample.h,
area_pixel_compute_source_index; ATen/native/GridSampler.h, grid_sampler_unnormalize.

This module refuses boxes that are not numbers, and those beyond any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import RunError
from raymrcnn.rle import check_size, encode_runs

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_COLUMNS_AT_ONCE = 4096  # their corners (4096 * 30 * 4 bytes) stay in a core's cache
_MAX_BOX_PX = 2**28  # area that a box may have; torchvision would need 1 GiB for it
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
        way: how a mask lies over its box; see the module.

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
    layout = _LAYOUTS[way](boxes.detach().to("cpu", torch.float32), probs, height, width)

    fast, unsure = _trace(padded.numpy(), layout, height, threshold)
    certain = ~unsure[fast.box]
    parts = [_Spans(fast.box[certain], fast.start[certain], fast.end[certain])]
    for n in np.flatnonzero(unsure).tolist():
        parts.append(_bitmap_spans(layout, n, height, threshold))
    return _encode(parts, num_masks, height, width)


@dataclass(frozen=True)
class _Frames:
    """The pixels of the image that each box's mask may cover: [num_boxes] int64 each."""

    first_x: Ints
    first_y: Ints
    end_x: Ints
    end_y: Ints

    @classmethod
    def of(cls, first: Ints, end: Ints, image_height: int, image_width: int) -> _Frames:
        """From [num_boxes, 2] XY pixels that may lie outside the image."""
        first_x, first_y = np.maximum(first, 0).T
        end_x = np.minimum(end[:, 0], image_width)
        end_y = np.minimum(end[:, 1], image_height)
        outside = (end_x <= first_x) | (end_y <= first_y)
        return cls(
            first_x=first_x,
            first_y=first_y,
            end_x=np.where(outside, first_x, end_x),
            end_y=np.where(outside, first_y, end_y),
        )


class _Layout(Protocol):
    """How masks lie over their boxes; axis 0 is x, 1 is y."""

    frames: _Frames

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        """Where pixels of the image fall among the corners, of which the first is number 0.

        In float32 steps as torch takes them: with each step rounded, and with the last
        multiplication and addition fused.
        """

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        """The inverse, roughly."""

    def bitmap(self, n: int, threshold: float) -> Flags:
        """Box `n` through torch's own interpolation: its frame as [columns, rows]."""


class _Stretched:
    """Masks interpolated to a whole number of pixels."""

    def __init__(
        self, boxes: torch.Tensor, probs: torch.Tensor, image_height: int, image_width: int
    ) -> None:
        import torch

        self._padded = torch.nn.functional.pad(probs, (1, 1, 1, 1))
        corners = _expanded(boxes, probs.shape[-1])
        self._origin = corners[:, :2]
        self._length = np.maximum(corners[:, 2:] - corners[:, :2] + 1, 1)
        self._side = self._padded.shape[-1]
        self.frames = _Frames.of(corners[:, :2], corners[:, 2:] + 1, image_height, image_width)

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        scale = np.float32(self._side) / self._length[box, axis].astype(np.float32)
        centre = (pixel - self._origin[box, axis]).astype(np.float32) + np.float32(0.5)
        steps = scale * centre - np.float32(0.5)
        return steps.astype(np.float64), _fused(scale, centre)

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        pixel: Doubles = (position + 0.5) * self._length[box, axis] / self._side - 0.5
        pixel += self._origin[box, axis]
        return pixel

    def bitmap(self, n: int, threshold: float) -> Flags:
        import torch

        width, height = self._length[n].tolist()
        whole = torch.nn.functional.interpolate(
            self._padded[n][None, None], size=(height, width), mode="bilinear", align_corners=False
        )[0, 0]
        x, y = self._origin[n].tolist()
        of = self.frames
        rows = slice(int(of.first_y[n]) - y, int(of.end_y[n]) - y)
        columns = slice(int(of.first_x[n]) - x, int(of.end_x[n]) - x)
        inside: Flags = (whole[rows, columns] > threshold).numpy().T
        return inside


class _Sampled:
    """Masks sampled at the middles of pixels."""

    def __init__(
        self, boxes: torch.Tensor, probs: torch.Tensor, image_height: int, image_width: int
    ) -> None:
        _check(boxes, boxes)
        self._probs = probs
        self._boxes = boxes
        self._begin = boxes[:, :2].numpy()
        # Of a box without extent nothing can be sampled, and torch samples 0 at what is no number.
        self._length = (boxes[:, 2:] - boxes[:, :2]).numpy()
        self._side = probs.shape[-1]
        first = boxes[:, :2].floor().sub(1).long().numpy()
        end = boxes[:, 2:].ceil().add(1).long().numpy()
        self.frames = _Frames.of(first, end, image_height, image_width)

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        middle = pixel.astype(np.float32) + np.float32(0.5)
        with np.errstate(all="ignore"):
            ratio = (middle - self._begin[box, axis]) / self._length[box, axis]
            unit = (ratio * np.float32(2) - np.float32(1)) + np.float32(1)
            half = np.float32(self._side / 2)
            steps = (unit * half - np.float32(0.5)).astype(np.float64)
            # Corner 0 is the padding before the mask's first cell.
            return _number(steps + 1), _number(_fused(half, unit) + 1)

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        pixel: Doubles = (position - 0.5) / self._side * self._length[box, axis] - 0.5
        pixel += self._begin[box, axis]
        return pixel

    def bitmap(self, n: int, threshold: float) -> Flags:
        import torch

        of = self.frames
        x0, y0, x1, y1 = self._boxes[n]
        x = torch.arange(int(of.first_x[n]), int(of.end_x[n]), dtype=torch.float32) + 0.5
        y = torch.arange(int(of.first_y[n]), int(of.end_y[n]), dtype=torch.float32) + 0.5
        x, y = (x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=2)
        whole = torch.nn.functional.grid_sample(
            self._probs[n][None, None], grid[None], align_corners=False
        )[0, 0]
        inside: Flags = (whole >= threshold).numpy().T
        return inside


_LAYOUTS: dict[str, type[_Stretched] | type[_Sampled]] = {
    "stretched": _Stretched,
    "sampled": _Sampled,
}


def _fused(scale: Floats | np.float32, centre: Floats) -> Doubles:
    """The product less a half, rounded once to float32."""
    exact = np.asarray(scale, np.float64) * centre - 0.5  # 24 bits times 24
    return exact.astype(np.float32).astype(np.float64)


def _number(positions: Doubles) -> Doubles:
    """Positions far outside instead of what is no number."""
    return np.nan_to_num(positions, nan=-9.0, posinf=1e9, neginf=-1e9)


def _expanded(boxes: torch.Tensor, side: int) -> Ints:
    """Boxes grown for the padding and cut to whole pixels, [num_boxes, 4] int64 XYXY.

    The same float32 operations in the same order as torchvision's `expand_boxes`.
    """
    import torch

    scale = float(side + 2) / side
    half_width = (boxes[:, 2] - boxes[:, 0]) * 0.5 * scale
    half_height = (boxes[:, 3] - boxes[:, 1]) * 0.5 * scale
    x = (boxes[:, 2] + boxes[:, 0]) * 0.5
    y = (boxes[:, 3] + boxes[:, 1]) * 0.5
    grown = torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), 1)
    _check(boxes, grown)
    corners: Ints = grown.to(torch.int64).numpy()
    return corners


def _check(boxes: torch.Tensor, grown: torch.Tensor) -> None:
    import torch

    sides = grown[:, 2:] - grown[:, :2]
    wrong = ~torch.isfinite(grown).all(dim=1)
    wrong |= (sides[:, 0] * sides[:, 1]).abs() > _MAX_BOX_PX
    wrong |= grown.abs().amax(dim=1) > _MAX_BOX_PX
    if wrong.any():
        n = int(wrong.nonzero()[0])
        raise RunError(
            f"box {boxes[n].tolist()} cannot be pasted", todo="clip boxes to the image first"
        )


def _trace(
    padded: Floats, layout: _Layout, image_height: int, threshold: float
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
    layout: _Layout,
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


def _bitmap_spans(layout: _Layout, n: int, image_height: int, threshold: float) -> _Spans:
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
