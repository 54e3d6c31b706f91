"""The one door to torch_mlu."""

from __future__ import annotations

import importlib.util


def is_installed() -> bool:
    """Whether torch_mlu can be imported, without importing it."""
    return importlib.util.find_spec("torch_mlu") is not None


def device_count() -> int:
    """MLU devices visible to this process; 0 without torch_mlu."""
    if not is_installed():
        return 0
    import torch
    import torch_mlu  # noqa: F401  (registers torch.mlu)

    return int(torch.mlu.device_count())  # type: ignore[attr-defined]


def why_unavailable() -> str:
    """One clause that says why `device_count` is 0."""
    if not is_installed():
        return "torch_mlu is not installed"
    return "torch_mlu sees no card"
