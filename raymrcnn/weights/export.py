"""Tensors into a file of another program, under its names, from which ours come back bit for bit.

One function a program. Beside the tensors lies a record of network, classes and conventions where
the other program does not see it: in the metadata of safetensors, in the metadata of a state dict
of torch, and under a key of its own in detectron2's dictionary. The file is read back before it is
the file that was asked for.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from raymrcnn import rundir
from raymrcnn.errors import ConfigError, OutputError, WeightError
from raymrcnn.structures import ModelInfo
from raymrcnn.weights.detectron2 import to_detectron2
from raymrcnn.weights.files import RECORD
from raymrcnn.weights.names import COUNTER, canonical_state
from raymrcnn.weights.records import NOTE, BackboneInfo, record_text
from raymrcnn.weights.source import load_source

Info = ModelInfo | BackboneInfo

# Endings of file names that the programs read; detectron2 goes by them.
ENDINGS = {
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pt"),
    "detectron2": (".pth", ".pkl"),
}


def require_target(target: str, path: Path, overwrite: bool) -> None:
    """Refuse before anything is read.

    Raises:
        ConfigError: no such program, or a name that it would not read.
        OutputError: there is a file already, or no such folder.
    """
    if target not in ENDINGS:
        raise ConfigError(
            f"{target!r} is none of {', '.join(ENDINGS)}", where="--to", todo="name one of them"
        )
    if path.suffix not in ENDINGS[target]:
        raise ConfigError(
            f"{path.name} does not end in {' or '.join(ENDINGS[target])}",
            where="--out",
            todo=f"files for {target} do",
        )
    if not path.parent.is_dir():
        raise OutputError("no such folder", where=str(path.parent), todo="make it first")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(
            "is there already", where=str(path), todo="choose another --out, or give --overwrite"
        )


def write_converted(state: Mapping[str, Tensor], info: Info, target: str, path: Path) -> None:
    """Commit a file for a program, after reading it back.

    Args:
        state: under the names used here; for other targets than safetensors, a whole detector.
        info: what the record says.
        target: one of `ENDINGS`.
        path: with one of its endings.

    Raises:
        OutputError: the disk refuses; what is at `path` is as it was.
        WeightError: the tensors have a type that the file cannot hold.
    """
    # Copies: views of larger tensors would take these along.
    own = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def write(tmp: Path) -> None:
        _WRITERS[target, path.suffix](own, record_text(info), tmp)
        _require_same(load_source(str(tmp)).state, own, path)

    rundir.write_atomic(path, write)


def _write_safetensors(state: dict[str, Tensor], record: str, path: Path) -> None:
    try:
        save_file(state, path, metadata={NOTE: record})
    except OSError:
        raise
    except Exception as error:  # safetensors wraps the disk's refusal in an error of its own
        raise OSError(str(error)) from error


def _write_torchvision(state: dict[str, Tensor], record: str, path: Path) -> None:
    """A state dict with every key that torchvision's network has, and no other."""
    whole = OrderedDict(state)
    for name in state:
        norm, _, kind = name.rpartition(".")
        if kind == "running_var" and not _is_frozen(state, norm):
            whole.setdefault(norm + COUNTER, torch.tensor(0))
    # `load_state_dict` looks into this for versions of modules, by their names; none has this one.
    whole._metadata = {NOTE: record}  # type: ignore[attr-defined]
    _save(whole, path)


def _is_frozen(state: Mapping[str, Tensor], norm: str) -> bool:
    # Norms that learn stand in the pyramid as well; frozen ones count no batches.
    return norm.startswith("backbone.body.") and (
        "backbone.fpn.inner_blocks.0.1.running_var" not in state
    )


def _write_detectron2_pth(state: dict[str, Tensor], record: str, path: Path) -> None:
    theirs, background = _for_detectron2(state)
    _save(_document(theirs, background, record), path)


def _write_detectron2_pkl(state: dict[str, Tensor], record: str, path: Path) -> None:
    theirs, background = _for_detectron2(state)
    try:
        arrays, rows = ({n: t.numpy() for n, t in part.items()} for part in (theirs, background))
    except TypeError:
        raise WeightError(
            "holds bfloat16, which a .pkl of arrays cannot", todo="give --out FILE.pth"
        ) from None
    with path.open("wb") as stream:
        pickle.dump(_document(arrays, rows, record), stream, protocol=4)


def _for_detectron2(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    theirs, background = to_detectron2(state)
    return _own(theirs), _own(background)


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


def _document(
    theirs: Mapping[str, Any], background: Mapping[str, Any], record: str
) -> dict[str, Any]:
    return {
        "model": dict(theirs),
        "__author__": "raymrcnn",
        "matching_heuristics": False,
        NOTE: {RECORD: record, **background},
    }


def _save(document: object, path: Path) -> None:
    try:
        with path.open("wb") as stream:  # a path would name the archive after its temporary name
            torch.save(document, stream)
    except RuntimeError as error:  # torch wraps the disk's refusal in an error of its own
        raise OSError(" ".join(str(error).split())[:120]) from error


def _require_same(found: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    expected = canonical_state(state)
    read = canonical_state(found)
    wrong = [
        name
        for name in expected.keys() | read.keys()
        if name not in read
        or name not in expected
        or read[name].dtype != expected[name].dtype
        or not _same_bits(read[name], expected[name])
    ]
    if wrong:
        raise OutputError(
            f"did not come back as it was written ({len(wrong)} tensors, {min(wrong)} first)",
            where=str(path),
            todo="check the disk; nothing was left there",
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    left, right = one.contiguous().flatten(), other.contiguous().flatten()
    return torch.equal(left.view(torch.uint8), right.view(torch.uint8))


_Writer = Callable[[dict[str, Tensor], str, Path], None]
_WRITERS: dict[tuple[str, str], _Writer] = {
    ("safetensors", ".safetensors"): _write_safetensors,
    ("torchvision", ".pth"): _write_torchvision,
    ("torchvision", ".pt"): _write_torchvision,
    ("detectron2", ".pth"): _write_detectron2_pth,
    ("detectron2", ".pkl"): _write_detectron2_pkl,
}
