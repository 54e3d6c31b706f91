"""Tensors out of one file, without running anything that is in it.

The format is told from the first bytes, not from the name. A `.pth` is opened with torch's
weights-only unpickler, which admits tensors and containers; what asks for more is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raymrcnn.errors import WeightError

_ZIP = b"PK\x03\x04"
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Keys under which training programs keep the network beside their optimizer.
_WRAPPERS = ("model", "state_dict")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes.

    Raises:
        WeightError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise WeightError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.pth`, `.pt` or `.safetensors` file, on the CPU, under its own names.

    Raises:
        WeightError: missing, malformed, cut short, hostile, or without a state dict.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise WeightError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if head.startswith(_ZIP) or head.startswith(_PICKLE):
        return _state_dict(_load_pickle(path), path)
    if head[8:] == b"{":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _malformed(path, f"damaged safetensors: {_first_line(error)}") from None
    raise _malformed(path, "neither a torch file nor safetensors" if head else "empty")


def _load_pickle(path: Path) -> Any:
    # torchvision's reference training keeps its command line, a plain record, in its checkpoints.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        with warnings.catch_warnings():  # of pickle protocols that torch does not write itself
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malformed pickle can raise anything; none of it is our bug
        asked = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class) ([\w.]+)", str(error))
        if asked:
            raise WeightError(
                f"asks for {asked[1] or asked[2]}, which is code and not weights; nothing was run",
                where=str(path),
                todo="load it where you trust it and save its state dict alone",
            ) from None
        raise _malformed(path, f"damaged or cut short: {_first_line(error)}") from None


def _state_dict(document: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
            break
    if not isinstance(document, Mapping):
        raise _malformed(path, f"holds a {type(document).__name__}, not a state dict")
    for name, value in document.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _malformed(path, f"{name!r} is a {type(value).__name__}, not a tensor")
    if not document:
        raise _malformed(path, "holds no tensor")
    return dict(document)


def _malformed(path: Path, what: str) -> WeightError:
    return WeightError(
        what, where=str(path), todo="give a state dict (.pth, .safetensors) or a run folder"
    )


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
