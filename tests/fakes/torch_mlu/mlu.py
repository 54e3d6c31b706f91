"""`torch.mlu`: devices, memory, seeds and streams of the simulated cards.

Nothing here starts a device unless the real one would: reading `is_available` touches the
driver, which poisons a later fork, except under PYTORCH_CNDEV_BASED_MLU_CHECK=1.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch_mlu import build

_library = build.load()

OutOfMemoryError = torch.OutOfMemoryError
MEET_LIMIT_S = 60.0


class _Properties(NamedTuple):
    name: str
    major: int
    minor: int
    multi_processor_count: int
    cluster_count: int
    core_num_per_cluster: int
    total_memory: int
    frequency: int
    dram_bandwidth: int
    supports_linear_memory: bool


# ---- devices


def _index_of(device: Any = None) -> int:
    """The index that `device` names; the current one for None and for "mlu"."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        return device if device >= 0 else current_device()
    device = torch.device(device)
    if device.type != "mlu":
        raise ValueError(f"Expected a mlu device, but got: {device}")
    return current_device() if device.index is None else device.index


def _checked(device: Any = None) -> int:
    _lazy_init()
    index = _index_of(device)
    if not 0 <= index < _library.sim_count():
        raise RuntimeError(
            f"invalid device ordinal: mlu:{index} of {_library.sim_count()} visible MLU device(s)"
        )
    return index


def _is_in_bad_fork() -> bool:
    return bool(_library.sim_forked())


def is_initialized() -> bool:
    """Whether this process holds a context on a device."""
    return bool(_library.sim_initialized())


def _lazy_init() -> None:
    reason = _library.sim_initialize().decode()
    if reason:
        raise RuntimeError(reason)


init = _lazy_init


def device_count() -> int:
    """Devices that this process may use; the driver reads the environment once."""
    if os.environ.get("PYTORCH_CNDEV_BASED_MLU_CHECK") != "1":
        _library.sim_touch()
    return int(_library.sim_count())


def is_available() -> bool:
    """Whether there is a device that this process may use."""
    return device_count() > 0


def current_device() -> int:
    """Index of the calling thread's device."""
    _lazy_init()
    return int(_library.sim_current())


def set_device(device: Any) -> None:
    """Makes `device` the calling thread's own."""
    _library.sim_set_current(_checked(device))
    log = os.environ.get("TORCH_MLU_SIM_LOG")
    if log:
        with open(log, "a") as stream:
            stream.write(f"{os.getpid()} {host_card(current_device())}\n")
        _meet(log, int(os.environ.get("TORCH_MLU_SIM_MEET", "0")))


def _meet(log: str, number: int) -> None:
    """Wait until so many processes stand in the log, as cards that take long to start would."""
    end = time.monotonic() + MEET_LIMIT_S
    while True:
        with open(log) as stream:
            there = {line.split()[0] for line in stream if line.endswith("\n")}
        if len(there) >= number:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{len(there)} processes took a card, not {number}")
        time.sleep(0.05)


@contextlib.contextmanager
def device(device: Any) -> Iterator[None]:  # noqa: A001
    """The device inside a with statement; None and negative numbers change nothing."""
    before = current_device()
    if device is not None and device != -1:
        set_device(device)
    try:
        yield
    finally:
        _library.sim_set_current(before)


def _exchange_device(index: int) -> int:
    before = int(_library.sim_current())
    if index >= 0:
        set_device(index)
    return before


_maybe_exchange_device = _exchange_device


def get_device_properties(device: Any) -> _Properties:
    """What the runtime tells of a card: an MLU370's numbers, with the simulator's memory."""
    _checked(device)
    memory = int(_library.sim_capacity())
    return _Properties("MLU370", 3, 0, 32, 8, 4, memory, 1300, 307200, False)


def get_device_name(device: Any = None) -> str:
    """The name without the board's suffix, as the runtime gives it."""
    return get_device_properties(_index_of(device)).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """(major, minor); 3 is the MLU370."""
    properties = get_device_properties(_index_of(device))
    return properties.major, properties.minor


def is_bf16_supported() -> bool:
    """Only from major version 5 on."""
    return get_device_capability()[0] >= 5


def synchronize(device: Any = None) -> None:
    """Nothing is ever pending; the device is checked."""
    _checked(device)


def ipc_collect() -> None:
    """Memory is never shared between processes."""


def host_card(device: Any) -> int:
    """The number on the host of a visible device. The simulator's own: not in torch_mlu."""
    return int(_library.sim_card(_index_of(device)))


# ---- memory


def _memory(device: Any) -> tuple[int, ...]:
    counted = (ctypes.c_size_t * 5)()
    _library.sim_memory(_checked(device), counted)
    return tuple(counted)


def memory_allocated(device: Any = None) -> int:
    """Bytes held by tensors, in grains of 512."""
    return _memory(device)[0]


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes held since the last reset."""
    return _memory(device)[1]


def memory_reserved(device: Any = None) -> int:
    """Bytes held by the allocator; `empty_cache` brings them down to what tensors hold."""
    return _memory(device)[2]


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes; other processes' memory is not seen."""
    total = int(_library.sim_capacity())
    return total - _memory(device)[2], total


def reset_peak_memory_stats(device: Any = None) -> None:
    """Starts `max_memory_allocated` from what is held now."""
    _library.sim_reset_peak(_checked(device))


def empty_cache() -> None:
    """Gives reserved memory back."""
    _library.sim_empty_cache()


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """The counters as lines of text."""
    names = ("allocated", "peak", "reserved", "blocks", "allocations")
    counted = zip(names, _memory(device), strict=True)
    head = f"MLU memory of device {_checked(device)}"
    return "\n".join([head, *(f"{name:>12} {value}" for name, value in counted)])


# ---- seeds: the cards draw from the CPU's default generator


def manual_seed(seed: int) -> None:
    """Seeds what the devices draw from."""
    torch.default_generator.manual_seed(seed)


manual_seed_all = manual_seed


def get_rng_state(device: Any = "mlu") -> torch.Tensor:
    """The state of what the devices draw from."""
    return torch.default_generator.get_state()


def set_rng_state(state: torch.Tensor, device: Any = "mlu") -> None:
    """Puts a state of `get_rng_state` back."""
    torch.default_generator.set_state(state)


# ---- streams


class Stream(torch.Stream):
    """A queue of work, always empty."""

    def __new__(cls, device: Any = None, priority: int = 0, **parts: Any) -> Stream:
        if parts:
            return super().__new__(cls, **parts)
        where = torch.device("mlu", _checked(device))
        return super().__new__(cls, device=where, priority=priority)


def Event(enable_timing: bool = False, **options: Any) -> torch.Event:  # noqa: N802
    """A moment on a stream. A function, as torch.Event measures to its own class only."""
    return torch.Event(device=torch.device("mlu"), enable_timing=enable_timing)


def current_stream(device: Any = None) -> torch.Stream:
    """The stream that work on a device goes to."""
    return torch.accelerator.current_stream(torch.device("mlu", _checked(device)))


def set_stream(stream: torch.Stream) -> None:
    """Sends the work of this thread to a stream."""
    torch.accelerator.set_stream(stream)


@contextlib.contextmanager
def stream(stream: torch.Stream | None) -> Iterator[None]:
    """The stream inside a with statement; None changes nothing."""
    if stream is None:
        yield
        return
    before = current_stream(stream.device)
    set_stream(stream)
    try:
        yield
    finally:
        set_stream(before)


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What autocast may use: no bfloat16 before major version 5."""
    return [torch.float16]
