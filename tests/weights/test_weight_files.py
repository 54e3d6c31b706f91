"""Files of every kind, whole and broken, friendly and hostile."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raymrcnn.errors import WeightError
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.weights import load_source
from raymrcnn.weights.files import read_state

State = dict[str, Tensor]

WRITERS: dict[str, Callable[[State, Path], None]] = {
    "plain": lambda s, p: torch.save(s, p),
    "legacy": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "under model": lambda s, p: torch.save({"model": s, "epoch": 3}, p),
    "under state_dict": lambda s, p: torch.save({"state_dict": s}, p),
    "of parallel training": lambda s, p: torch.save({f"module.{k}": v for k, v in s.items()}, p),
    "torchvision's reference training": lambda s, p: torch.save(
        {"model": s, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.02)}, p
    ),
    "safetensors": lambda s, p: save_file(s, p),
}


class Gadget:
    """A pickle that would run a command when opened."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_tensors(kind: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"  # the name tells nothing
    WRITERS[kind](state, path)
    source = load_source(str(path))
    assert source.state.keys() == state.keys()
    assert all(torch.equal(source.state[k], v) for k, v in state.items())
    assert source.info is None
    assert len(source.digest) == 64


def test_digest_follows_the_content(state: State, tmp_path: Path) -> None:
    for name, factor in (("a", 1), ("b", 1), ("c", 2)):
        save_file({k: v * factor for k, v in state.items()}, tmp_path / name)
    a, b, c = (load_source(str(tmp_path / name)).digest for name in "abc")
    assert a == b != c


def write_truncated(state: State, path: Path, writer: str, share: float) -> None:
    WRITERS[writer](state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("writer", ["plain", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_a_file_cut_short_is_one_line(
    writer: str, share: float, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "cut.pth"
    write_truncated(state, path, writer, share)
    with pytest.raises(WeightError) as caught:
        load_source(str(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is no weight file\n" * 9,
        b"PK\x03\x04" + b"\x00" * 500,
        b"\x80\x02" + b"\xff" * 500,
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{" + b"}" * 50,
        b"<html><body>404 Not Found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    ],
)
def test_garbage_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.pth"
    path.write_bytes(content)
    with pytest.raises(WeightError) as caught:
        load_source(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("wrapped", ["bare", "torch zip", "torch legacy"])
def test_a_pickle_with_code_is_refused_and_not_run(
    protocol: int, wrapped: str, tmp_path: Path
) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "it-ran"
    gadget = Gadget(os.system, f"touch {proof}")
    if wrapped == "bare":
        path.write_bytes(pickle.dumps({"model": gadget}, protocol=protocol))
    else:
        zipped = wrapped == "torch zip"
        torch.save(
            {"model": gadget},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
    with pytest.raises(WeightError) as caught:
        load_source(str(path))
    assert not proof.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, os.popen, print])
def test_what_a_pickle_asks_for_is_named(function: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": Gadget(function, "1")}, path)
    with pytest.raises(WeightError, match=rf"asks for \S*{function.__name__}, which is code"):
        load_source(str(path))


def test_a_whole_pickled_network_is_refused(model: MaskRCNN, tmp_path: Path) -> None:
    path = tmp_path / "network.pth"
    torch.save(model, path)
    with pytest.raises(WeightError, match="asks for raymrcnn.model.maskrcnn.MaskRCNN"):
        load_source(str(path))


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({"model": {}}, "holds no tensor"),
        ({"a": torch.zeros(1), "epoch": 3}, "'epoch' is a int"),
        ({1: torch.zeros(1)}, "1 is a Tensor"),
        (torch.zeros(3), "holds a Tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(document: object, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(document, path)
    with pytest.raises(WeightError, match=complaint):
        read_state(path)


def test_a_path_to_nothing_says_what_to_give() -> None:
    with pytest.raises(WeightError, match="no such file or folder; give a file, a run folder"):
        load_source("/nowhere/model.pth")
