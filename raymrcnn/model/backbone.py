"""A ResNet with a feature pyramid, from torchvision's parts and under its names.

No weights are read here: a new backbone is initialised at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

NUM_GROUPS = 32  # Wu and He 2018 (Group Normalization), section 3
STRIDES = (4, 8, 16, 32)  # of the levels that boxes are pooled from, P2 to P5
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")  # from the image upwards

NormLayer = Callable[[int], nn.Module]


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """torchvision's frozen batch norm, written over its input: the same bits, fewer passes.

    Only behind a convolution, whose backward pass does not need its output. Under autocast the
    result has the input's low precision instead of float32, as a live batch norm's has.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width], changed in place where it is float32."""
        scale, shift = self.scale_and_shift()
        scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
        if x.dtype is scale.dtype:
            return x.mul_(scale).add_(shift)
        return (x * scale + shift).to(x.dtype)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What x is multiplied by, and what is added then; [channels] each."""
        # In the order of FrozenBatchNorm2d.forward, for the same rounding.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class PyramidBackbone(nn.Module):
    """Images in, levels P2 to P6 out.

    Args:
        body: [batch, 3, h, w] -> {"0": stride 4, ..., "3": stride 32}.
        fpn: the same levels and "pool" (stride 64), all with `out_channels`.
        out_channels: channels of every level.
    """

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[batch, 3, h, w] -> level name -> [batch, out_channels, h / stride, w / stride]."""
        levels: dict[str, Tensor] = self.fpn(self.body(images))
        return levels


def group_norm(num_channels: int) -> nn.Module:
    """Group norm with 32 groups, or the most that divide the channels."""
    groups = next(g for g in range(min(NUM_GROUPS, num_channels), 0, -1) if num_channels % g == 0)
    return nn.GroupNorm(groups, num_channels)


def build_backbone(
    name: Literal["resnet18", "resnet50", "resnet101"],
    *,
    norm: Literal["frozen", "group"],
    frozen_norm_eps: float,
    trainable_stages: int,
    fpn_channels: int,
) -> PyramidBackbone:
    """A backbone with random weights.

    Args:
        name: the ResNet.
        norm: frozen batch norm in the body alone; or group norm in body and pyramid.
        frozen_norm_eps: added to the variance of a frozen batch norm.
        trainable_stages: 0 to 5; stages counted from the top, stem last. Others take no gradient.
        fpn_channels: channels of every level.
    """
    norm_layer: NormLayer = (
        partial(FrozenNorm, eps=frozen_norm_eps) if norm == "frozen" else group_norm
    )
    net = getattr(resnet, name)(weights=None, norm_layer=norm_layer)
    trainable = set(STAGES[len(STAGES) - trainable_stages :])
    if "conv1" in trainable:
        trainable.add("bn1")
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(parameter_name.partition(".")[0] in trainable)
    # The last stage has 512 channels times the block's expansion; each one below, half.
    channels = [net.inplanes // 8 * 2**i for i in range(4)]
    return PyramidBackbone(
        IntermediateLayerGetter(net, {f"layer{i + 1}": str(i) for i in range(4)}),
        FeaturePyramidNetwork(
            channels,
            fpn_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=group_norm if norm == "group" else None,
        ),
        fpn_channels,
    )
