"""What this host is made of and what runs on it, for the records of a run. Touches no card."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from raymrcnn.device import mlu

_PACKAGES = ("raymrcnn", "torchvision", "ray", "numpy")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, with the build of torch."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{p: _version(p) for p in _PACKAGES},
    }


def hardware(accelerator: str, root: Path = mlu.ROOT) -> dict[str, Any]:
    """System, processor, memory and cards of this host, without its name.

    Args:
        accelerator: cpu, cuda or mlu.
        root: of the file system with /proc.
    """
    memory = _first(root / "proc/meminfo", r"^MemTotal:\s*(\d+) kB")
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _first(root / "proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
        "cpus": os.cpu_count(),
    }
    if memory:
        found["memory_gib"] = round(int(memory) / 2**20, 1)
    cards = list(_cards(accelerator, root))
    return {**found, "cards": cards} if cards else found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, OSError):  # not to be read by this user
        return "unknown"


def _cards(accelerator: str, root: Path) -> Iterator[str]:
    """The models of the cards, as their drivers' files name them."""
    if accelerator == "mlu":
        yield from (card.model for card in mlu.host_cards(root, cnmon=None) if card.model)
    elif accelerator == "cuda":
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
            yield _first(path, r"^Model:\s*(.+)$") or "unknown"


def _first(path: Path, pattern: str) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(pattern, text, re.M)
    return found[1].strip() if found else None
