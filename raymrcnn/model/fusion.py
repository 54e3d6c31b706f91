"""Make a network cheaper to run once its weights are final; in place, for inference alone.

`precompute_norms` keeps every bit of the results; `fold_norms` changes them by float rounding and
saves the norms' passes over memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from raymrcnn.model.backbone import FrozenNorm, scale_and_shift


class Affine(nn.Module):
    """x * scale + shift per channel, written over x [batch, channels, height, width].

    Only for values that nothing else reads, such as what a convolution has just made.
    """

    scale: Tensor  # [1, channels, 1, 1]
    shift: Tensor  # [1, channels, 1, 1]

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.reshape(1, -1, 1, 1))
        self.register_buffer("shift", shift.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift; the result is x itself where the dtypes agree."""
        if x.dtype is self.scale.dtype:
            return x.mul_(self.scale).add_(self.shift)
        return (x * self.scale + self.shift).to(x.dtype)


def precompute_norms(model: nn.Module) -> None:
    """Replace frozen batch norms by an `Affine` with the same bits, computed once."""
    for parent, _, norm_name, norm in _norms_after_convs(model, FrozenNorm):
        setattr(parent, norm_name, Affine(*scale_and_shift(norm)))


def fold_norms(model: nn.Module) -> None:
    """Replace each batch norm, frozen or not, and the convolution before it by one convolution."""
    for parent, conv, norm_name, norm in _norms_after_convs(model, (FrozenNorm, nn.BatchNorm2d)):
        assert conv.bias is None, "torchvision's convolutions before a norm have no bias"
        scale, shift = scale_and_shift(norm.double())
        weight = conv.weight.double() * scale[:, None, None, None]
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        setattr(parent, norm_name, nn.Identity())


def _norms_after_convs(
    model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]
) -> Iterator[tuple[nn.Module, nn.Conv2d, str, nn.Module]]:
    """Each norm of these kinds: its parent, the convolution that feeds it, its name, itself."""
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        names = list(children)
        for name, child in children.items():
            if not isinstance(child, kinds):
                continue
            # bn2 follows conv2; in a downsample Sequential, 1 follows 0.
            conv = children[
                name.replace("bn", "conv")
                if name.startswith("bn")
                else names[names.index(name) - 1]
            ]
            assert isinstance(conv, nn.Conv2d), f"no convolution before {name}"
            yield parent, conv, name, child


def lower_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of convolutions and linear layers in `dtype`, for use under autocast.

    Autocast would otherwise convert them for every batch. Norms stay in float32.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(dtype)
