"""What a step changes, and a checkpoint therefore holds: weights, optimizer, loss scale, average.

Where a running average of the weights is kept, it is the weights to use: a checkpoint's model file
holds it, so validation and inference need not know; the trained weights lie beside the optimizer's
state, and training goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raymrcnn.config import OptimConfig
from raymrcnn.device.numerics import grad_scaler, has_foreach
from raymrcnn.train.optim import build_optimizer

_AVERAGE_WARMUP = 10.0  # as in TensorFlow's ExponentialMovingAverage with num_updates


class TrainState:
    """One worker's own; equal on all of them after each step.

    Args:
        model: in training mode, on its device.
        config: of the optimizer, the precision and the average.
        device: of the model.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, device: torch.device) -> None:
        self.model = model
        self.config = config
        self.optimizer = build_optimizer(model, config, device)
        self.scaler = grad_scaler(device, enabled=config.precision == "float16")
        # Steps that float16 left out so far, on the device: to look would be to wait for it.
        self.num_scaler_skips = torch.zeros((), device=device)
        self.num_bad_steps = 0
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._average: dict[str, Tensor] | None = None
        if config.ema_decay:
            self._average = {n: p.detach().clone() for n, p in self._trained.items()}
        self.updates_together = has_foreach(device)

    def average(self, step: int) -> None:
        """Move the average towards the weights after the update of `step`, counted from 0.

        The first steps weigh more, or the average would hold the initial weights for long.
        """
        if self._average is None:
            return
        kept = min(self.config.ema_decay, (1 + step) / (_AVERAGE_WARMUP + step))
        averages = list(self._average.values())
        weights: list[Tensor] = list(self._trained.values())
        with torch.no_grad():
            if self.updates_together:
                torch._foreach_lerp_(averages, weights, 1.0 - kept)
            else:
                for average, weight in zip(averages, weights, strict=True):
                    average.lerp_(weight, 1.0 - kept)

    def usable_weights(self) -> dict[str, Tensor]:
        """The model's state to predict with: averaged where an average is kept."""
        return {**self.model.state_dict(), **(self._average or {})}

    def counts(self) -> dict[str, int]:
        """For a metrics record: steps left out so far, by kind, where there may be any."""
        found = {}
        if self.scaler.is_enabled():
            found["scaler_skips"] = int(self.num_scaler_skips)
        if self.config.on_bad_loss == "skip":
            found["bad_steps"] = self.num_bad_steps
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides `usable_weights`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "num_scaler_skips": float(self.num_scaler_skips),
            "num_bad_steps": self.num_bad_steps,
            "trained": {} if self._average is None else self._trained_values(),
        }

    def load_state_dict(self, weights: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Go on from what `usable_weights` and `state_dict` gave."""
        self.model.load_state_dict({**weights, **rest["trained"]})
        if self._average is not None:
            for name, average in self._average.items():
                average.copy_(weights[name])
        self.optimizer.load_state_dict(rest["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(rest["scaler"])
        self.num_scaler_skips.fill_(rest["num_scaler_skips"])
        self.num_bad_steps = rest["num_bad_steps"]

    def _trained_values(self) -> dict[str, Tensor]:
        return {name: weight.detach().cpu() for name, weight in self._trained.items()}
