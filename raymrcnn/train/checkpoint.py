"""Checkpoints: folders that appear whole, are verified when read, and are pruned in order.

A checkpoint holds the model as safetensors and the optimizer's state, with the size and SHA-256
of both in `checkpoint.json`. `last` names the newest. What Ray keeps of a run is never read. Behind
a URI, `remote` does what a rename does on a disk.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raymrcnn import rundir, storage
from raymrcnn.errors import RaymrcnnError, WeightError
from raymrcnn.storage import Place
from raymrcnn.structures import ModelInfo
from raymrcnn.train import remote
from raymrcnn.weights import copies
from raymrcnn.weights.records import info_to_json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One committed checkpoint, read and verified, on the CPU."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]


def save_checkpoint(
    run: Place,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    info: ModelInfo,
    keep: int,
    also: Collection[int] = (),
    before: Callable[[], None] = lambda: None,
) -> None:
    """Commit a checkpoint, point `last` at it, and delete all but the newest `keep` and `also`.

    `before` is called before it counts: with what else must be there then.

    Raises:
        OutputError: the disk or the storage refuses; the checkpoints before are as they were.
    """
    path = _write_folder(copies.home_of(run), step, model, optimizer, info)
    before()
    if isinstance(run, str):
        remote.publish(run, path)
        copies.forget(run)
    storage.write_text(storage.below(run, rundir.LAST), f"{rundir.CHECKPOINTS}/{path.name}\n")
    prune(run, keep, also)


def _write_folder(
    home: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    info: ModelInfo,
) -> Path:
    folder = home / rundir.CHECKPOINTS
    with rundir.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for orphan in folder.glob(f"{rundir.TMP_PREFIX}*"):  # of a process that was killed
            shutil.rmtree(orphan, ignore_errors=True)
    path = folder / rundir.step_name(step)

    def write(tmp: Path) -> None:
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.items()}
        _write_tensors(tmp / rundir.MODEL_FILE, tensors)
        torch.save({"step": step, "optimizer": dict(optimizer)}, tmp / rundir.STATE_FILE)
        files = {name: _seal(tmp / name) for name in (rundir.MODEL_FILE, rundir.STATE_FILE)}
        rundir.write_json(tmp / rundir.CHECKPOINT_JSON, _manifest(step, info, files))

    rundir.write_folder_atomic(path, write)
    return path


def prune(run: Place, keep: int, also: Collection[int] = ()) -> None:
    """Delete all checkpoints but the newest `keep` and those of the steps `also`."""
    for old in sorted(set(committed_steps(run)[:-keep]).difference(also)):
        if isinstance(run, str):
            remote.remove(run, old)
        else:
            shutil.rmtree(run / rundir.CHECKPOINTS / rundir.step_name(old), ignore_errors=True)


def committed_steps(run: Place) -> list[int]:
    """Steps of the committed checkpoints, oldest first."""
    if isinstance(run, str):
        return remote.committed_steps(run)
    found = (run / rundir.CHECKPOINTS).glob(f"step-*/{rundir.CHECKPOINT_JSON}")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def load_newest(run: Place, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is skipped with a warning.

    Raises:
        WeightError: there are checkpoints, and every one is damaged.
        DataError: a storage does not answer.
    """
    steps = committed_steps(run)
    for step in reversed(steps):
        try:
            if isinstance(run, str):
                return _read(remote.brought(run, step))
            return load_checkpoint(run / rundir.CHECKPOINTS / rundir.step_name(step))
        except RaymrcnnError as error:
            if isinstance(run, str) and not isinstance(error, WeightError):
                raise  # it may be whole: the storage did not answer, or the disk here is full
            warn(f"{error}; going back to the checkpoint before")
    if steps:
        raise WeightError(
            f"all {len(steps)} checkpoints are damaged",
            where=str(storage.below(run, rundir.CHECKPOINTS)),
            todo="restore one from a backup, or train into another --out",
        )
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        WeightError: a file is missing, cut short or altered.
    """
    manifest = rundir.read_json(path / rundir.CHECKPOINT_JSON)
    for name, sealed in manifest["files"].items():
        if not (path / name).is_file() or _seal(path / name) != sealed:
            raise WeightError(f"{name} is damaged", where=str(path))
    return _read(path)


def _read(path: Path) -> Checkpoint:
    state = torch.load(path / rundir.STATE_FILE, map_location="cpu", weights_only=True)
    return Checkpoint(
        step=state["step"],
        model=load_file(path / rundir.MODEL_FILE),
        optimizer=state["optimizer"],
    )


def _manifest(step: int, info: ModelInfo, files: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": step,
        "model_info": info_to_json(info),
        "files": files,
    }


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except OSError:
        raise
    except Exception as error:  # safetensors wraps the disk's refusal in an error of its own
        raise OSError(str(error)) from error


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
