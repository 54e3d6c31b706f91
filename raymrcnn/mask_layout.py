"""How a predicted mask lies over its box: which pixels it may cover, and where each samples it.

Two layouts are known, each with its program's own bits:
- "stretched": the box, grown by a cell of padding, is cut to whole pixels, and the mask is
  interpolated to so many; a pixel belongs to it above the threshold. torchvision (models/detection/
  roi_heads.py, paste_mask_in_image) and maskrcnn-benchmark (roi_heads/mask_head/inference.py,
  Masker).
- "sampled": the mask is sampled where the middle of each pixel falls in the box, up to a pixel
  around it; a pixel belongs to it at or above the threshold. detectron2 (layers/mask_ops.py,
  _do_paste_mask, on a CPU).
Source for the positions: ATen/native/UpSample.h, area_pixel_compute_source_index;
ATen/native/GridSampler.h, grid_sampler_unnormalize.

This module refuses boxes that are not numbers, and those beyond any image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import RunError

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MAX_BOX_PX = 2**28  # area that a box may have; torchvision would need 1 GiB for it


@dataclass(frozen=True)
class Frames:
    """The pixels of the image that each box's mask may cover: [num_boxes] int64 each."""

    first_x: Ints
    first_y: Ints
    end_x: Ints
    end_y: Ints

    @classmethod
    def of(cls, first: Ints, end: Ints, image_height: int, image_width: int) -> Frames:
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


class Layout(Protocol):
    """How masks lie over their boxes; axis 0 is x, 1 is y."""

    frames: Frames

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        """Where pixels of the image fall among the corners, of which the first is number 0.

        In float32 steps as torch takes them: with each step rounded, and with the last
        multiplication and addition fused.
        """

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        """The inverse, roughly."""

    def bitmap(self, n: int, threshold: float) -> Flags:
        """Box `n` through torch's own interpolation: its frame as [columns, rows]."""


class Stretched:
    """Masks interpolated to a whole number of pixels."""

    def __init__(
        self, boxes: torch.Tensor, probs: torch.Tensor, image_height: int, image_width: int
    ) -> None:
        import torch

        self._padded = torch.nn.functional.pad(probs, (1, 1, 1, 1))
        corners = _expanded(boxes, probs.shape[-1])
        self._side = self._padded.shape[-1]
        # By axis, then by box.
        self._origin = np.ascontiguousarray(corners[:, :2].T)
        self._length = np.maximum(corners[:, 2:].T - self._origin + 1, 1)
        self._scale = np.float32(self._side) / self._length.astype(np.float32)
        self.frames = Frames.of(corners[:, :2], corners[:, 2:] + 1, image_height, image_width)

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        """See `Layout`."""
        scale = self._scale[axis][box]
        centre = (pixel - self._origin[axis][box]).astype(np.float32) + np.float32(0.5)
        steps = scale * centre - np.float32(0.5)
        return steps.astype(np.float64), _fused(scale, centre)

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        """See `Layout`."""
        pixel: Doubles = (position + 0.5) * self._length[axis][box] / self._side - 0.5
        pixel += self._origin[axis][box]
        return pixel

    def bitmap(self, n: int, threshold: float) -> Flags:
        """See `Layout`."""
        import torch

        width, height = self._length[:, n].tolist()
        whole = torch.nn.functional.interpolate(
            self._padded[n][None, None], size=(height, width), mode="bilinear", align_corners=False
        )[0, 0]
        x, y = self._origin[:, n].tolist()
        of = self.frames
        rows = slice(int(of.first_y[n]) - y, int(of.end_y[n]) - y)
        columns = slice(int(of.first_x[n]) - x, int(of.end_x[n]) - x)
        inside: Flags = (whole[rows, columns] > threshold).numpy().T
        return inside


class Sampled:
    """Masks sampled at the middles of pixels."""

    def __init__(
        self, boxes: torch.Tensor, probs: torch.Tensor, image_height: int, image_width: int
    ) -> None:
        _check(boxes, boxes)
        self._probs = probs
        self._boxes = boxes
        self._begin = np.ascontiguousarray(boxes[:, :2].numpy().T)  # by axis, then by box
        # Of a box without extent nothing can be sampled, and torch samples 0 at what is no number.
        self._length = np.ascontiguousarray((boxes[:, 2:] - boxes[:, :2]).numpy().T)
        self._side = probs.shape[-1]
        first = boxes[:, :2].floor().sub(1).long().numpy()
        end = boxes[:, 2:].ceil().add(1).long().numpy()
        self.frames = Frames.of(first, end, image_height, image_width)

    def position(self, pixel: Ints, box: Ints, axis: int) -> tuple[Doubles, Doubles]:
        """See `Layout`."""
        middle = pixel.astype(np.float32) + np.float32(0.5)
        with np.errstate(all="ignore"):
            ratio = (middle - self._begin[axis][box]) / self._length[axis][box]
            unit = (ratio * np.float32(2) - np.float32(1)) + np.float32(1)
            half = np.float32(self._side / 2)
            steps = (unit * half - np.float32(0.5)).astype(np.float64)
            # Corner 0 is the padding before the mask's first cell.
            return _number(steps + 1), _number(_fused(half, unit) + 1)

    def pixel(self, position: Doubles, box: Ints, axis: int) -> Doubles:
        """See `Layout`."""
        pixel: Doubles = (position - 0.5) / self._side * self._length[axis][box] - 0.5
        pixel += self._begin[axis][box]
        return pixel

    def bitmap(self, n: int, threshold: float) -> Flags:
        """See `Layout`."""
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


LAYOUTS: dict[str, type[Stretched] | type[Sampled]] = {
    "stretched": Stretched,
    "sampled": Sampled,
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
