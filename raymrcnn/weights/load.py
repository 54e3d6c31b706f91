"""A state dict into a network: every tensor accounted for, or an error that says what is not.

Nothing is skipped in silence: only heads of another number of classes may stay fresh, where the
caller allows it, and the report names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from raymrcnn.config import ModelConfig
from raymrcnn.errors import ConfigError, WeightError
from raymrcnn.weights.architecture import infer_architecture
from raymrcnn.weights.names import (
    BODY,
    CLASS_DEPENDENT,
    canonical_state,
    classifier_to_body,
    is_classifier,
)
from raymrcnn.weights.source import load_source

_SHOWN = 3

# By the conventions that they were trained with.
IMAGENET = {
    ("torchvision", "resnet18"): "ResNet18_Weights.IMAGENET1K_V1",
    ("torchvision", "resnet50"): "ResNet50_Weights.IMAGENET1K_V1",
    ("torchvision", "resnet101"): "ResNet101_Weights.IMAGENET1K_V1",
    ("torchvision", "resnext101_32x8d"): "ResNeXt101_32X8D_Weights.IMAGENET1K_V1",
}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a load did."""

    num_loaded: int  # tensors
    new: tuple[str, ...]  # tensors of the model that kept their fresh values
    left: tuple[str, ...] = ()  # tensors of the file that were not used

    def summary(self) -> str:
        """One line for people."""
        if self.left:
            rest = replace(self, left=()).summary()
            return f"{rest}; left in the file: {len(self.left)} ({_first(self.left)})"
        if not self.new:
            return f"all {self.num_loaded} tensors loaded"
        layers = dict.fromkeys(name.rpartition(".")[0] for name in self.new)
        if len(layers) > _SHOWN:
            layers = dict.fromkeys(name.partition(".")[0] for name in self.new)
        return f"{self.num_loaded} tensors loaded; new, to be trained: {', '.join(layers)}"


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    allow_new_heads: bool,
    allow_left: bool = False,
    allow_new: bool = False,
    norm_eps: float | None = None,
) -> LoadReport:
    """Copy a state dict into a network that has fresh weights.

    Args:
        model: with torchvision's names; on any device.
        state: a detector's tensors, or an ImageNet ResNet's, which fill the backbone's body.
        allow_new_heads: whether tensors whose shape depends on the number of classes may keep their
            fresh values where the file has another number, and everything above the body where the
            file is a ResNet.
        allow_left: whether tensors that the model has no place for may stay in the file.
        allow_new: whether any tensor of the model may keep its fresh values. With both, tensors of
            another shape stay in the file.
        norm_eps: eps that the frozen batch norms of `state` were made with, if the model's is
            another: the loaded weights are scaled so that they compute the same.

    Raises:
        WeightError: tensors are missing, unknown or of another shape. The model is as it was.
    """
    state = canonical_state(state)
    own = model.state_dict()
    replaceable = {name for name in CLASS_DEPENDENT if allow_new_heads}
    # Batch norms count their batches; nothing here reads the count, and files may lack it.
    replaceable |= {name for name in own if name.endswith(".num_batches_tracked")}
    if is_classifier(state):
        state = classifier_to_body(state)
        if allow_new_heads:
            replaceable = {name for name in own if not name.startswith(BODY)}
    if allow_new:
        replaceable = set(own)
    fitting = {n: t for n, t in state.items() if n in own and t.shape == own[n].shape}
    new = [n for n in own if n not in fitting and n in replaceable]
    missing = [n for n in own if n not in state and n not in replaceable]
    unknown = [n for n in state if n not in own]
    misshaped = [n for n in state if n in own and n not in fitting and n not in replaceable]
    left = [n for n in state if n not in fitting and (allow_left or n in own)]
    if allow_left:
        unknown = []
    if allow_left and allow_new and not fitting:
        missing, unknown = list(own), list(state)
    if missing or unknown or misshaped:
        raise _misfit(missing, unknown, misshaped, state, own)
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    if norm_eps is not None:
        _adapt_norms(model, norm_eps)
    return LoadReport(num_loaded=len(fitting), new=tuple(new), left=tuple(left))


def backbone_init(model: nn.Module, config: ModelConfig) -> LoadReport:
    """Fill the backbone's body with torchvision's ImageNet weights.

    Raises:
        ConfigError: there are none for this norm, backbone and conventions.
        WeightError: they are not in torch hub's cache and cannot be fetched.
    """
    if config.norm != "frozen":
        raise ConfigError(
            "ImageNet weights need model.norm=frozen",
            where="model.init",
            todo="--set model.norm=frozen, or --set model.init=scratch",
        )
    name = IMAGENET.get((config.conventions, config.backbone))
    if name is None:
        raise ConfigError(
            f"no ImageNet weights are known for {config.backbone} with the conventions "
            f"of {config.conventions}",
            where="model.init",
            todo="give --weights FILE (R-50.pkl, R-101.pkl), or --set model.init=scratch",
        )
    try:
        source = load_source(name)
    except WeightError as error:
        raise WeightError(
            error.what, where=error.where, todo="give --weights FILE, or --set model.init=scratch"
        ) from None
    return load_into(model, source.state, allow_new_heads=True)


@torch.no_grad()
def _adapt_norms(model: nn.Module, made_with: float) -> None:
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d) and module.eps != made_with:
            variance = module.running_var.double()
            factor = ((variance + module.eps) / (variance + made_with)).sqrt()
            module.weight.mul_(factor.to(module.weight.dtype))


def _misfit(
    missing: Sequence[str],
    unknown: Sequence[str],
    misshaped: Sequence[str],
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> WeightError:
    parts = []
    if misshaped:
        shapes = [
            f"{n} is {list(state[n].shape)} instead of {list(own[n].shape)}" for n in misshaped
        ]
        parts.append(f"{len(misshaped)} of another shape ({_first(shapes)})")
    if missing:
        parts.append(f"{len(missing)} missing ({_first(missing)})")
    if unknown:
        parts.append(f"{len(unknown)} unknown ({_first(unknown)})")
    return WeightError(f"tensors do not fit the model: {', '.join(parts)}", todo=_advice(state))


def _advice(state: Mapping[str, Tensor]) -> str:
    try:
        config, num_classes = infer_architecture(state)
    except WeightError:
        return "give weights of this architecture"
    return f"the weights are a {config.backbone} with {num_classes} classes"


def _first(items: Sequence[str]) -> str:
    more = ", ..." if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
