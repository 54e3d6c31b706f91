"""Autocast, gradient scaling, optimizers, seeds, memory: the same calls for every device."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.amp.grad_scaler import GradScaler

from raymrcnn.device import mlu
from raymrcnn.device.accelerator import MLU, row_of


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision in `dtype` on `device`; with float32 plain float32 arithmetic."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, *, enabled: bool) -> GradScaler:
    """What keeps small gradients of float16 from vanishing; not enabled, it changes nothing."""
    return GradScaler(device.type, enabled=enabled)


def found_inf(scaler: GradScaler, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Whether unscaling found a gradient that is not finite: above 0 if so; on the device."""
    # torch offers no public way that does not wait for the device.
    return torch.stack(list(scaler._found_inf_per_device(optimizer).values())).sum()


def has_foreach(device: torch.device) -> bool:
    """Whether the device updates many tensors in one call."""
    return row_of(device).foreach


def sgd(
    device: torch.device, groups: list[dict[str, Any]], *, lr: float, momentum: float
) -> torch.optim.Optimizer:
    """SGD in the fastest form that the device has and that gives the same update."""
    if row_of(device) is MLU:
        fused = mlu.fused_sgd()
        if fused is not None and same_as_sgd(fused, device):
            return fused(groups, lr=lr, momentum=momentum)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, **_form(device))


def adamw(
    device: torch.device, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW in the fastest form that the device has."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, **_form(device))


def same_as_sgd(fused: Callable[..., torch.optim.Optimizer], device: torch.device) -> bool:
    """Whether another SGD gives torch's updates, with momentum, decay and two groups of rates."""

    def trained(build: Callable[..., torch.optim.Optimizer], **form: bool) -> torch.Tensor:
        weights = [torch.linspace(-1, 1, 8, device=device, requires_grad=True) for _ in range(2)]
        groups = [
            {"params": [weight], "weight_decay": decay}
            for weight, decay in zip(weights, (0.01, 0.0), strict=True)
        ]
        optimizer = build(groups, lr=0.1, momentum=0.9, **form)
        for step in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            for weight in weights:
                weight.grad = weight.detach() * (1 + step)
            optimizer.step()
        return torch.stack(weights).detach().cpu()

    try:
        found = trained(fused)
    except Exception:  # of another version's arguments, or a kernel that is missing
        return False
    return torch.allclose(found, trained(torch.optim.SGD, foreach=False), rtol=1e-5, atol=1e-6)


def _form(device: torch.device) -> dict[str, bool]:
    row = row_of(device)
    if row.fused:
        return {"fused": True}
    return {} if row.foreach else {"foreach": False}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices) from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on the device, and for the CPU altogether."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(torch.get_device_module(device).max_memory_allocated(device))
