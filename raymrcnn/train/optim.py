"""The optimizer of a recipe and its learning-rate schedule, a pure function of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import torch
from torch import nn

from raymrcnn.config import OptimConfig
from raymrcnn.device.numerics import adamw, sgd


def build_optimizer(
    model: nn.Module, config: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters, biases in a group of their own.

    Each group holds `lr_factor`, its learning rate relative to the schedule's. Source of the bias
    rule: maskrcnn_benchmark/solver/build.py (twice the rate, no weight decay).
    """
    weights, biases = _weights_and_biases(model.named_parameters())
    groups = [
        {"params": weights, "weight_decay": config.weight_decay, "lr_factor": 1.0},
        {
            "params": biases,
            "weight_decay": config.bias_weight_decay,
            "lr_factor": config.bias_lr_factor,
        },
    ]
    if config.name == "adamw":
        return adamw(device, groups, lr=config.scaled_lr, betas=(config.momentum, 0.999))
    return sgd(device, groups, lr=config.scaled_lr, momentum=config.momentum)


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of step `step`, counted from 0, of the weights' group.

    Linear warm-up, then the scaled base rate times `gamma` for each of `steps` passed. Source:
    maskrcnn_benchmark/solver/lr_scheduler.py, WarmupMultiStepLR.
    """
    factor = 1.0
    if step < config.warmup_iters:
        progress = step / config.warmup_iters
        factor = config.warmup_factor * (1.0 - progress) + progress
    return config.scaled_lr * factor * config.gamma ** bisect_right(config.steps, step)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def _weights_and_biases(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            (biases if name.endswith("bias") else weights).append(parameter)
    return weights, biases
