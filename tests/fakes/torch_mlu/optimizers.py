"""`torch_mlu.optimizers`: the fused SGD, one pass over all weights, the update of torch's SGD."""

from __future__ import annotations

from typing import Any

import torch


class FusedSGD(torch.optim.Optimizer):
    """SGD with momentum, weight decay and Nesterov's look-ahead."""

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    if weight.device.type != "mlu":
                        raise RuntimeError("FusedSGD only supports MLU tensors")
                    self._update(weight, group)
        return loss

    def _update(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        change = weight.grad.add(weight, alpha=group["weight_decay"])
        if group["momentum"]:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = change.clone()
            else:
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(change, alpha=1 - group["dampening"])
            buffer = state["momentum_buffer"]
            change = change.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
        weight.add_(change, alpha=-group["lr"])
