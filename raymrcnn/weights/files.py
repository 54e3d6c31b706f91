"""Tensors out of one file, without running anything that is in it.

The format is told from the first bytes, not from the name. A `.pth` is opened with torch's
weights-only unpickler, which admits tensors and containers, a `.pkl` with one of ours, which admits
numpy arrays; what asks for more is refused, and so is what would grow when it is opened.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from raymrcnn.errors import WeightError
from raymrcnn.weights.pickles import is_torch_file, read_pickle
from raymrcnn.weights.records import NOTE

_ZIP = b"PK\x03\x04"
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Keys under which training programs keep the network beside their optimizer.
_WRAPPERS = ("model", "state_dict", "blobs")
# What Detectron's solver notes among its blobs.
_NO_TENSORS = ("lr", "weight_order", "model_iter")
RECORD = "record"  # key of the record among what a converted file for detectron2 has beside
# A file may name a tensor twice, as tied weights do. More would grow when it is worked on.
_MAX_GROWTH = 2
_ALLOWANCE_BYTES = 1 << 20


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


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a weight file holds."""

    format: str  # for people
    state: dict[str, Tensor]  # on the CPU, under the file's own names
    record: str | None = None  # what `convert` says of it
    # Rows of the background, which detectron2 has no place for, under the names used here.
    background: dict[str, Tensor] = field(default_factory=dict)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; see `read_content`."""
    return read_content(path).state


def read_content(path: Path) -> Content:
    """The tensors of a `.pth`, `.pt`, `.pkl` or `.safetensors` file.

    Raises:
        WeightError: missing, malformed, cut short, hostile, or without a state dict.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise WeightError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if head.startswith(_ZIP):
        _require_honest_zip(path)
        return _content("torch", _load_pickle(path), path)
    if head.startswith(_PICKLE):
        data = path.read_bytes()
        if is_torch_file(data):
            return _content("torch (before 1.6)", _load_pickle(path), path)
        return _content("pickle of arrays", read_pickle(data, str(path)), path)
    if head[8:] == b"{":
        try:
            with safe_open(path, "pt") as opened:
                record = (opened.metadata() or {}).get(NOTE)
            return Content(format="safetensors", state=load_file(path), record=record)
        except (SafetensorError, OSError) as error:
            raise _malformed(path, f"damaged safetensors: {_first_line(error)}") from None
    raise _malformed(
        path, "neither a torch file, nor a pickle, nor safetensors" if head else "empty"
    )


def _require_honest_zip(path: Path) -> None:
    """Refuse an archive whose members are compressed or lie over each other: torch writes none."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _malformed(path, f"damaged or cut short: {_first_line(error)}") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _malformed(path, "has compressed members, which torch never writes")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise _malformed(path, "claims more bytes than it has")


def _load_pickle(path: Path) -> Any:
    # torchvision's reference training keeps its command line, a plain record, in its checkpoints.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        with warnings.catch_warnings():  # of pickle protocols that torch does not write itself
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malformed pickle can raise anything; none of it is our bug
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class) ([\w.]+)", text)
        if asked:
            raise WeightError(
                f"asks for {asked[1] or asked[2]}, which is code and not weights; nothing was run",
                where=str(path),
                todo="load it where you trust it and save its state dict alone",
            ) from None
        raise _malformed(path, f"damaged or cut short: {_first_line(error)}") from None


def _content(format_name: str, document: Any, path: Path) -> Content:
    beside = document.get(NOTE) if isinstance(document, Mapping) else None
    beside = dict(beside) if isinstance(beside, Mapping) else {}
    record = beside.pop(RECORD, None)
    for key in _WRAPPERS:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
            break
    if not isinstance(document, Mapping):
        raise _malformed(path, f"holds a {type(document).__name__}, not a state dict")
    noted = getattr(document, "_metadata", None)
    if record is None and isinstance(noted, Mapping):
        record = noted.get(NOTE)
    found, background = _tensors(document, path), _tensors(beside, path)
    _require_honest_sizes([*found.values(), *background.values()], path)
    if not found:
        raise _malformed(path, "holds no tensor")
    return Content(
        format=format_name,
        state=found,
        record=record if isinstance(record, str) else None,
        background=background,
    )


def _require_honest_sizes(tensors: Sequence[Tensor], path: Path) -> None:
    """Refuse tensors that repeat a few bytes, and one array under very many names."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if total > _MAX_GROWTH * path.stat().st_size + _ALLOWANCE_BYTES:
        raise _malformed(path, f"has tensors of {total:,} bytes, far more than itself")


def _tensors(document: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}  # of arrays that have several names, one tensor
    for name, value in document.items():
        if isinstance(name, str) and isinstance(value, np.ndarray):
            if id(value) not in made:
                native = value.astype(value.dtype.newbyteorder("="))  # a copy that may be written
                made[id(value)] = torch.from_numpy(np.ascontiguousarray(native))
            found[name] = made[id(value)]
        elif isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value
        elif name in _NO_TENSORS:
            continue
        else:
            raise _malformed(path, f"{name!r:.60} is a {type(value).__name__}, not a tensor")
    return found


def _malformed(path: Path, what: str) -> WeightError:
    return WeightError(
        what,
        where=str(path),
        todo="give a state dict (.pth, .pkl, .safetensors) or a run folder",
    )


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
