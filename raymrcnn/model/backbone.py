"""A ResNet with a feature pyramid, from torchvision's parts and under its names.

No weights are read here: a new backbone is initialised at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

NUM_GROUPS = 32  # Wu and He 2018 (Group Normalization), section 3
STRIDES = (4, 8, 16, 32)  # of the levels that boxes are pooled from, P2 to P5
TOP_STRIDE = 64  # of P6, from which only proposals come
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")  # from the image upwards

NormLayer = Callable[[int], nn.Module]


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """torchvision's frozen batch norm, written over its input: the same bits, fewer passes.

    Only behind a convolution, whose backward pass does not need its output. Under autocast the
    result has the input's low precision instead of float32, as a live batch norm's has.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width], changed in place where it is float32."""
        scale, shift = scale_and_shift(self)
        scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
        if x.dtype is scale.dtype:
            return x.mul_(scale).add_(shift)
        return (x * scale + shift).to(x.dtype)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm of fixed statistics multiplies by, and adds then; [channels] each."""
    # In the order of FrozenBatchNorm2d.forward, for the same rounding.
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


class PyramidBackbone(nn.Module):
    """Images in, levels P2 to P6 out.

    Args:
        body: [batch, 3, h, w] -> {"0": stride 4, ..., "3": stride 32}; stages of blocks.
        fpn: the same levels and "pool" (stride 64), all with `out_channels`.
        out_channels: channels of every level.
    """

    def __init__(self, body: IntermediateLayerGetter, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels
        self._returned: dict[str, str] = dict(body.return_layers)
        self.checkpoint_activations = False  # compute them again in the backward pass

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[batch, 3, h, w] -> level name -> [batch, out_channels, h / stride, w / stride]."""
        again = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        body = self._levels_checkpointed(images) if again else self.body(images)
        levels: dict[str, Tensor] = self.fpn(body)
        return levels

    def _levels_checkpointed(self, x: Tensor) -> dict[str, Tensor]:
        """What the body gives, keeping only what lies between its blocks."""
        levels = {}
        for name, stage in self.body.items():
            for block in stage if isinstance(stage, nn.Sequential) else [stage]:
                x = (
                    checkpoint(block, x, use_reentrant=False)
                    if name in self._returned
                    else block(x)
                )
            if name in self._returned:
                levels[self._returned[name]] = x
        return levels


class TopDownPyramid(FeaturePyramidNetwork):  # type: ignore[misc]  # torchvision has no types
    """torchvision's feature pyramid that can also enlarge a level bilinearly.

    Args:
        top_down: "nearest" as in the paper, or "bilinear".
        others: as FeaturePyramidNetwork takes them.
    """

    def __init__(self, *others: Any, top_down: Literal["nearest", "bilinear"], **more: Any) -> None:
        super().__init__(*others, **more)
        self.top_down = top_down

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """The body's levels, finest first -> pyramid levels by the same names, and "pool"."""
        names, levels = list(x), list(x.values())
        above = self.inner_blocks[-1](levels[-1])
        results = [self.layer_blocks[-1](above)]
        for i in range(len(levels) - 2, -1, -1):
            inner = self.inner_blocks[i](levels[i])
            align = None if self.top_down == "nearest" else False
            above = inner + interpolate(
                above, size=inner.shape[-2:], mode=self.top_down, align_corners=align
            )
            results.insert(0, self.layer_blocks[i](above))
        results, names = self.extra_blocks(results, levels, names)
        return dict(zip(names, results, strict=True))


def group_norm(num_channels: int) -> nn.Module:
    """Group norm with 32 groups, or the most that divide the channels."""
    groups = next(g for g in range(min(NUM_GROUPS, num_channels), 0, -1) if num_channels % g == 0)
    return nn.GroupNorm(groups, num_channels)


# Norms that are trained, which then stand in the pyramid and in the heads too.
LIVE_NORMS: dict[str, NormLayer] = {"group": group_norm, "batch": nn.BatchNorm2d}


def build_backbone(
    name: Literal["resnet18", "resnet50", "resnet101", "resnext101_32x8d"],
    *,
    norm: Literal["frozen", "group", "batch"],
    frozen_norm_eps: float,
    stride_in_1x1: bool,
    top_down: Literal["nearest", "bilinear"],
    trainable_stages: int,
    fpn_channels: int,
) -> PyramidBackbone:
    """A backbone with random weights.

    Args:
        name: the ResNet.
        norm: frozen batch norm in the body alone; or group or batch norm in body and pyramid.
        frozen_norm_eps: added to the variance of a frozen batch norm.
        stride_in_1x1: the first block of a stage halves in its first convolution, and not in its
            3x3; a ResNeXt's and a ResNet-18's always do so in their 3x3.
        top_down: how the pyramid enlarges a level.
        trainable_stages: 0 to 5; stages counted from the top, stem last. Others take no gradient.
        fpn_channels: channels of every level.
    """
    live_norm = LIVE_NORMS.get(norm)
    norm_layer = live_norm or partial(FrozenNorm, eps=frozen_norm_eps)
    net = getattr(resnet, name)(weights=None, norm_layer=norm_layer)
    if stride_in_1x1 and not is_resnext(name):
        _move_strides(net)
    trainable = set(STAGES[len(STAGES) - trainable_stages :])
    if "conv1" in trainable:
        trainable.add("bn1")
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(parameter_name.partition(".")[0] in trainable)
    # The last stage has 512 channels times the block's expansion; each one below, half.
    channels = [net.inplanes // 8 * 2**i for i in range(4)]
    return PyramidBackbone(
        IntermediateLayerGetter(net, {f"layer{i + 1}": str(i) for i in range(4)}),
        TopDownPyramid(
            channels,
            fpn_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=live_norm,
            top_down=top_down,
        ),
        fpn_channels,
    )


def is_resnext(name: str) -> bool:
    """Whether a backbone of this name has grouped convolutions."""
    return name.startswith("resnext")


def _move_strides(net: nn.Module) -> None:
    """From the 3x3 convolutions to the 1x1 before them, as in the ResNets of He et al. 2015."""
    for block in net.modules():
        if isinstance(block, resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
