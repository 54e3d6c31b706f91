"""A stand-in for torch_mlu: `import torch_mlu` gives torch a device type "mlu" in host memory.

It answers by the real names and refuses what the real one refuses; README.md lists both. It
measures nothing: a time taken on it says nothing about a card.
"""

from __future__ import annotations

import sys
import types

import torch
import torchvision  # noqa: F401  (declares the operators that get kernels here)
from torch_mlu import mlu
from torch_mlu.build import library_path  # noqa: F401

__version__ = "1.24.1-torch2.5.0"


def register() -> None:
    """Renames PrivateUse1 and hangs the modules where torch users look for them."""
    torch.utils.rename_privateuse1_backend("mlu")
    torch._register_device_module("mlu", mlu)
    sys.modules["torch.mlu"] = mlu
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    matmul = types.SimpleNamespace(allow_tf32=False)
    torch.backends.mlu = types.SimpleNamespace(
        matmul=matmul, custom=types.SimpleNamespace(allow_tf32=False)
    )
    torch.backends.cnnl = types.SimpleNamespace(allow_tf32=True)


register()

from torch_mlu import amp, cncl  # noqa: E402  (they need the backend's name)

mlu.amp = amp
mlu.cncl = cncl
