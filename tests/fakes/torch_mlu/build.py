"""Builds the simulator's library once, outside the repository, and loads it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ["-std=c++17", "-O1", "-g0", "-w", "-fPIC", "-shared"]


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def library_path() -> Path:
    """Where the library of these sources and this torch lies, built or not."""
    text = hashlib.sha256(" ".join(FLAGS).encode())
    for source in sorted(SOURCES.iterdir()):
        text.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / f"raymrcnn-mlu-sim-{torch.__version__}-{text.hexdigest()[:16]}" / "libmlu_sim.so"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds a lock that processes on this machine share; freed when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build() -> Path:
    """The library, built if it is not there yet.

    Raises:
        ImportError: there is no compiler, or it failed.
    """
    path = library_path()
    if path.exists():
        return path
    found = compiler()
    if found is None:
        raise ImportError("the MLU simulator needs a C++ compiler (g++, or the one in CXX)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent / "lock"):
        if not path.exists():
            compile_to(path, found)
    return path


def compile_to(path: Path, compiler: str) -> None:
    """Writes the library under a name of this process, then renames it."""
    root = Path(torch.__file__).parent
    partial = path.with_suffix(f".{os.getpid()}")
    command = [
        compiler,
        *FLAGS,
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        f"-I{root / 'include'}",
        f"-I{root / 'include/torch/csrc/api/include'}",
        str(SOURCES / "backend.cpp"),
        f"-L{root / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
        "-o",
        str(partial),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImportError(f"the MLU simulator does not compile:\n{done.stderr[-4000:]}")
    partial.replace(path)


def load() -> ctypes.CDLL:
    """Loads the library into this process, which registers the backend with torch."""
    library = ctypes.CDLL(str(build()))
    library.sim_capacity.restype = ctypes.c_size_t
    library.sim_initialize.restype = ctypes.c_char_p
    return library
