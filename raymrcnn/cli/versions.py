"""`raymrcnn --version`: what runs here, for bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from raymrcnn import __version__

PACKAGES = {"torch": "torch", "torchvision": "torchvision", "Ray": "ray"}
VENDORS = {"torch_mlu": "torch_mlu"}  # told only where they are installed


def stack() -> list[str]:
    """A line each: raymrcnn, Python, the packages that decide numbers, and the accelerator."""
    lines = [f"raymrcnn {__version__}", f"Python {platform.python_version()}"]
    lines += [f"{name} {_installed(package) or 'is missing'}" for name, package in PACKAGES.items()]
    lines += [
        f"{name} {found}" for name, package in VENDORS.items() if (found := _installed(package))
    ]
    return [*lines, f"accelerator: {_accelerator()}"]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerator() -> str:
    try:
        from raymrcnn.device.accelerator import CPU, num_cards, pick

        found = pick("auto")
        return "none, CPU" if found is CPU else f"{found.name}, {num_cards(found)} visible"
    except Exception as error:  # a broken driver or torch must not hide the versions
        return f"unknown ({' '.join(str(error).split())[:200]})"
