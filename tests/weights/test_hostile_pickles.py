"""Pickles that would run code, change functions, or take more memory than they have bytes."""

from __future__ import annotations

import collections
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from raymrcnn.cli.main import app
from raymrcnn.errors import WeightError
from raymrcnn.weights import load_source
from raymrcnn.weights.pickles import read_pickle

CANARY = "canary-of-a-hostile-file"


def called(module: str, name: str, argument: str = "x") -> bytes:
    """A protocol-2 pickle that calls module.name(argument)."""
    text = argument.encode()
    return (
        b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n"
        + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."
    )  # fmt: skip


def named_by_stack(module: str, name: str) -> bytes:
    """The same in protocol 4, whose names are strings like any other."""
    words = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name))
    return b"\x80\x04" + words + b"\x93\x8c\x01x\x85R."


TOUCH = f"touch {CANARY}"
GADGETS = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "open"),
    ("builtins", "__import__"), ("__builtin__", "eval"), ("__builtin__", "file"),
    ("subprocess", "Popen"), ("subprocess", "check_output"), ("commands", "getoutput"),
    ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("shelve", "open"),
    ("numpy", "load"), ("numpy", "fromfile"), ("numpy.testing", "runstring"),
    ("numpy.core.multiarray", "fromfile"), ("numpy.f2py.diagnose", "run_command"),
    ("torch", "load"), ("torch.hub", "load"), ("torch._utils", "_rebuild_tensor_v2"),
    ("functools", "partial"), ("operator", "attrgetter"), ("operator", "methodcaller"),
    ("importlib", "import_module"), ("runpy", "run_path"), ("ctypes", "CDLL"),
    ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"), ("codecs", "decode"),
    ("types", "CodeType"), ("timeit", "timeit"), ("webbrowser", "open"), ("socket", "socket"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), GADGETS, ids=[".".join(g) for g in GADGETS])
@pytest.mark.parametrize("write", [called, named_by_stack], ids=["protocol 2", "protocol 4"])
def test_a_gadget_is_named_and_not_run(
    module: str, name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pkl"
    path.write_bytes(write(module, name, TOUCH) if write is called else write(module, name))
    with pytest.raises(WeightError) as caught:
        load_source(str(path))
    line = str(caught.value)
    assert line.startswith(f"{path}: asks for {module}.{name}, which is code and not weights")
    assert "\n" not in line
    assert not (tmp_path / CANARY).exists()


def array(**change: Any) -> bytes:
    """What numpy writes of an array, with parts of its state replaced."""
    state: dict[str, Any] = {"shape": (2, 2), "dtype": "f4", "data": b"\0" * 16, **change}

    class Record:
        def __reduce__(self) -> Any:
            return (
                np.core.multiarray._reconstruct if hasattr(np, "core") else None,
                (np.ndarray, (0,), b"b"),
                (1, state["shape"], np.dtype(state["dtype"]), False, state["data"]),
            )

    return pickle.dumps({"model": {"w": Record()}}, 2)


def deep(levels: int) -> bytes:
    return b"\x80\x02" + b"(l" * 0 + b"]" * levels + b"a" * (levels - 1) + b"."


_GLOBAL = b"ccollections\nOrderedDict\n"
OPCODES: dict[str, bytes] = {
    "a persistent id": b"\x80\x02Pabc\n.",
    "a persistent object": b"\x80\x02X\x01\0\0\0aQ.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a wide extension code": b"\x80\x02\x84\x01\0\0\0.",
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(" + _GLOBAL + b"o.",
    "NEWOBJ": b"\x80\x02" + _GLOBAL + b")\x81.",
    "NEWOBJ_EX": b"\x80\x04" + _GLOBAL + b")}\x92.",
    "BUILD of a function": b"\x80\x02" + _GLOBAL + b"N}X\x01\0\0\0aK\x01s\x86b.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R.",
    "a memo of 2^31 entries": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "text of 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "a number of 2^30 bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"x.",
    "a number of many bytes": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
    "a number of many digits": b"\x80\x02L" + b"9" * 10**5 + b"L\n.",
    "negative counts": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "an unknown opcode": b"\x80\x02\xfe.",
    "an empty stack": b"\x80\x02R.",
    "no end": b"\x80\x02N",
    "nothing but a list": b"\x80\x02].",
    "lists in lists": deep(100_000),
    "a dictionary in itself": b"\x80\x02}q\0X\x01\0\0\0ah\0s.",
    "an array of objects": array(dtype="O", data=[1, 2, 3, 4]),
    "an array of records": array(dtype=[("a", "f4")], shape=(4,)),
    "an array of strings": array(dtype="S4", shape=(4,)),
    "an array of dates": array(dtype="M8[s]", shape=(2,)),
    "an array with too few bytes": array(data=b"\0" * 15),
    "an array with too many bytes": array(data=b"\0" * 17),
    "an array of negative shape": array(shape=(-2, -2)),
    "an array of huge shape": array(shape=(2**39, 2**39)),
    "an array of no shape": array(shape="ab"),
    "an HTML page": b"<!DOCTYPE html><html>404</html>",
    "a tape archive": b"x" * 257 + b"ustar\x0000" + b"\0" * 300,
}


@pytest.mark.parametrize("content", OPCODES.values(), ids=OPCODES.keys())
def test_a_malformed_or_hostile_pickle_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightError) as caught:
        load_source(str(path))
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < 500


COMMANDS = {
    "infer": ["infer", "--mode", "predict", "--device", "cpu", "--weights"],
    "train": ["train", "--recipe", "r50_fpn_1x", "--device", "cpu", "--weights"],
    "inspect": ["weights", "inspect"],
    "convert": ["weights", "convert", "--to", "safetensors", "--out", "new.safetensors"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "content",
    [called("os", "system", TOUCH), array(shape=(2**39, 2**39)), b"\x80\x02N", b"",
     b"PK\x03\x04 cut"],
    ids=["a gadget", "a huge shape", "no end", "empty", "a cut archive"],
)  # fmt: skip
def test_a_command_ends_with_one_line_and_nothing_runs_or_is_written(
    command: str, content: bytes, made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pkl").write_bytes(content)
    words = [*COMMANDS[command], "w.pkl"]
    if command in ("infer", "train"):
        words += ["--data", str(made_up), "--out", "out"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert done.stderr.startswith("error: ")
    assert "w.pkl" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["w.pkl"]


def test_functions_of_the_reader_are_not_changed_by_a_refused_file() -> None:
    state = b"N}X\x0c\0\0\0__defaults__X\x01\0\0\0ys\x86b"
    with pytest.raises(WeightError):
        read_pickle(b"\x80\x02" + _GLOBAL + state + b".", "w")
    plain = pickle.dumps({"a": collections.OrderedDict()}, 2)
    assert read_pickle(plain, "w") == {"a": {}}


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    """In a process that may have 1 GiB beyond what it has: shared dictionaries do not multiply."""
    inner: Any = {str(k): 0 for k in range(500)}
    for _ in range(3):
        inner = dict.fromkeys(map(str, range(500)), inner)
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": inner}, 2))
    code = f"""
import resource
from raymrcnn.errors import WeightError
from raymrcnn.weights import load_source
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    load_source({str(path)!r})
except WeightError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("refused:"), done.stderr
    assert resource  # used in the other process


@pytest.mark.parametrize("kind", ["compressed", "lying"])
def test_an_archive_that_grows_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * 10**6)
    if kind == "lying":
        content = bytearray(path.read_bytes())
        at = content.rfind(b"PK\x01\x02")
        content[at + 24 : at + 28] = struct.pack("<I", 2**31)  # its size unpacked
        path.write_bytes(content)
    with pytest.raises(WeightError, match=r"compressed members|claims more bytes") as caught:
        load_source(str(path))
    assert "\n" not in str(caught.value)
