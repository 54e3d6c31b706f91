"""How this process gets memory from its operating system. Speed only; results do not change."""

from __future__ import annotations

import ctypes
import sys

# glibc, malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1


def reuse_freed_memory() -> bool:
    """Let the C allocator keep freed memory for the next request, in this whole process.

    By default glibc returns every large block to the system, so that each activation of a network
    on a CPU is made of fresh pages that the kernel must clear: a fifth of the time of a forward
    pass. The price is that the process stays at its highest memory use. For processes that do
    nothing else than run a network; to be called before the first batch. Threads that asked for
    memory before have heaps of their own, which glibc gives back all the same: run the network in
    the main thread, or in one that is started after this call.

    Returns:
        Whether the allocator took the settings; False where it is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _INT_MAX), (_M_ARENA_MAX, 1))
    taken = [mallopt(option, value) == 1 for option, value in settings]
    return all(taken)
