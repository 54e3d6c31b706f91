"""What a card is: one row a kind of accelerator, and the choice among what is present.

Nothing here initialises a device: the driver process asks only whether cards exist, so that
workers can be forked and each can take its own card.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch

from raymrcnn.device import mlu
from raymrcnn.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of card and the names that torch, Ray and its driver know it by."""

    name: str
    torch_type: str  # `torch.device(type)`
    ray_resource: str  # unit resource a worker takes one of
    visible_devices_env: str  # "" where there is none
    process_group_backend: str
    autocast_dtypes: tuple[torch.dtype, ...]  # besides float32, which every device can
    foreach: bool  # updates many tensors in one call
    fused: bool  # torch's optimizers have a fused form here


CPU = Accelerator(
    name="cpu",
    torch_type="cpu",
    ray_resource="CPU",
    visible_devices_env="",
    process_group_backend="gloo",
    autocast_dtypes=(torch.bfloat16,),
    foreach=True,
    fused=False,
)
CUDA = Accelerator(
    name="cuda",
    torch_type="cuda",
    ray_resource="GPU",
    visible_devices_env="CUDA_VISIBLE_DEVICES",
    process_group_backend="nccl",
    autocast_dtypes=(torch.float16, torch.bfloat16),
    foreach=True,
    fused=True,
)
# bf16 needs a card of generation 5 or later (torch_mlu, mlu/__init__.py: major >= 5); the MLU370,
# generation 3, has none. torch_mlu 1.22 has no foreach kernels, which stock torch would choose.
MLU = Accelerator(
    name="mlu",
    torch_type="mlu",
    ray_resource="MLU",
    visible_devices_env="MLU_VISIBLE_DEVICES",
    process_group_backend="cncl",
    autocast_dtypes=(torch.float16,),
    foreach=False,
    fused=False,
)

ROWS = {row.name: row for row in (MLU, CUDA, CPU)}  # in the order that "auto" prefers


def row_of(device: torch.device) -> Accelerator:
    """The row of a torch device."""
    return next(row for row in ROWS.values() if row.torch_type == device.type)


def num_cards(accelerator: Accelerator) -> int:
    """Cards of that kind visible to this process; for the CPU 1, the machine itself."""
    if accelerator is CPU:
        return 1
    if accelerator is CUDA:
        return torch.cuda.device_count()
    return mlu.device_count()


def first_device(accelerator: Accelerator) -> torch.device:
    """The first device of that kind that this process sees, known to torch from here on.

    Raises:
        DeviceError: torch_mlu cannot be used.
    """
    if accelerator is CPU:
        return torch.device("cpu")
    if accelerator is MLU:
        mlu.load()
    return torch.device(accelerator.torch_type, 0)


def pick(name: str = "auto") -> Accelerator:
    """The accelerator of that name, or with "auto" the best that is present.

    Raises:
        DeviceError: an unknown name, or a kind of which no card is present.
    """
    if name == "auto":
        return next(row for row in ROWS.values() if num_cards(row) > 0)
    if name not in ROWS:
        near = difflib.get_close_matches(name, [*ROWS, "auto"], n=1)
        raise DeviceError(
            f"no device {name!r}",
            where="--device",
            todo=f"did you mean {near[0]}?" if near else f"choose auto, {', '.join(sorted(ROWS))}",
        )
    row = ROWS[name]
    there = num_cards(row) > 0
    if row is MLU:
        reason = mlu.obstacle() or (None if there else mlu.why_unavailable())
    else:
        reason = None if there else "torch sees no CUDA device here"
    if reason is None:
        return row
    raise DeviceError(
        f"no {name} device: {reason}",
        where="--device",
        todo="use --device auto or cpu, or install the driver",
    )


def parse_dtype(name: str, accelerator: Accelerator, where: str = "--dtype") -> torch.dtype:
    """The torch dtype of that name, if the accelerator can run it; `where` it was asked for.

    Raises:
        ConfigError: an unknown name.
        DeviceError: a dtype that the accelerator lacks, with those that it has.
    """
    from raymrcnn.errors import ConfigError

    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        near = difflib.get_close_matches(name, dtypes, n=1)
        raise ConfigError(
            f"no dtype {name!r}",
            where=where,
            todo=f"did you mean {near[0]}?" if near else f"choose one of {', '.join(dtypes)}",
        )
    dtype = dtypes[name]
    if dtype is torch.float32 or dtype in accelerator.autocast_dtypes:
        return dtype
    able = ["float32", *(str(d).removeprefix("torch.") for d in accelerator.autocast_dtypes)]
    raise DeviceError(
        f"{accelerator.name} cannot run {name}", where=where, todo=f"choose {' or '.join(able)}"
    )
