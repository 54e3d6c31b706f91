"""`torch.mlu.amp`: autocast and GradScaler for device type "mlu"."""

from __future__ import annotations

from typing import Any

import torch


class autocast(torch.amp.autocast):  # noqa: N801  (torch's own spelling)
    """`torch.autocast("mlu")`, float16 unless another type is given."""

    def __init__(
        self,
        enabled: bool = True,
        dtype: torch.dtype = torch.float16,
        cache_enabled: bool | None = None,
    ) -> None:
        super().__init__("mlu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler("mlu")`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("mlu", **options)
