"""Pickles of numpy arrays, as Detectron and detectron2 write them, read without running anything.

Nothing of numpy is called with what a file says: arrays arrive as plain records, are checked, and
are made from their bytes. Every opcode is looked at first. What is neither number, string, bytes,
container nor array is refused, and so is what would take more memory than the file has bytes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import WeightError

# Opcodes that admit no array, and take what they make from outside or from classes.
_FORBIDDEN = frozenset(
    {
        "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4",
        "NEXT_BUFFER", "READONLY_BUFFER",
    }
)  # fmt: skip
_KINDS = frozenset("fiub")  # of numpy dtypes: float, integer, unsigned, boolean
_MAX_MEMO = 10_000_000
_MAX_NUMBER_BYTES = 64
_Admitted = Mapping[tuple[str, str], Callable[..., Any]]
_DEPTH = 3  # of dictionaries that hold arrays
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file in torch's older format


class _Refused(Exception):
    """What the pickle asks for is no weight."""


class _Bounds:
    """What one file may make out of what it names again and again."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes  # entries of dictionaries that are made by a call
        self._bytes: dict[str, bytes] = {}

    def latin1(self, text: str) -> bytes:
        """The bytes of a text; one that comes again is the same object."""
        if text not in self._bytes:
            self._bytes[text] = text.encode("latin1")
        return self._bytes[text]

    def ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        """A dictionary of pairs; all of a file together have no more entries than it has bytes."""
        self._left -= len(items)
        if self._left < 0:
            raise ValueError("the same dictionary, again and again")
        return OrderedDict(items)

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """What Python 3 writes of bytes in protocol 2."""
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise _Refused("an encoding other than Latin-1")
        return self.latin1(text)

    def array(self, *_: Any) -> _Array:
        """An array of which nothing is known yet."""
        return _Array(self)

    def scalar(self, dtype: Any, data: Any = b"") -> npt.NDArray[Any]:
        """One number of numpy."""
        return self.made((), dtype, data, False)

    def made(
        self, shape: tuple[int, ...], dtype: Any, data: Any, is_fortran: bool
    ) -> npt.NDArray[Any]:
        """An array over the bytes of the file."""
        if not isinstance(dtype, _Dtype):
            raise _Refused("an array of no known type")
        if isinstance(data, str):
            data = self.latin1(data)
        if not isinstance(data, bytes):
            raise _Refused("an array of objects")
        wanted = dtype.value.itemsize
        for n in shape:
            wanted *= n
        if len(data) != wanted:
            raise ValueError(f"an array of {wanted} bytes holds {len(data)}")
        flat = np.frombuffer(data, dtype.value)
        return flat.reshape(shape, order="F" if is_fortran else "C")

    def admitted(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """All that a file may call."""
        return {
            ("numpy.core.multiarray", "_reconstruct"): _Function(self.array),
            ("numpy.core.multiarray", "scalar"): _Function(self.scalar),
            ("numpy", "ndarray"): _Function(_ndarray),
            ("numpy", "dtype"): _Function(_Dtype),
            ("_codecs", "encode"): _Function(self.encode),
            ("collections", "OrderedDict"): _Function(self.ordered),
        }


class _Array:
    """What is said of one array."""

    __slots__ = ("_bounds", "value")

    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds
        self.value: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = self._bounds.made(_numbers(shape), dtype, data, bool(is_fortran))


class _Dtype:
    """What is said of one dtype."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_: Any) -> None:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) <= 4 else None
        if dtype is None or dtype.kind not in _KINDS:
            raise _Refused(f"an array of {str(name)[:40]!r}")
        self.value = dtype

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "=") or any(item is not None for item in state[2:5]):
            raise _Refused("an array of records")
        self.value = self.value.newbyteorder(order)


class _Function:
    """What a pickle may call; BUILD, which sets attributes, gets nowhere with it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")


def read_pickle(data: bytes, where: str) -> Any:
    """The document in a pickle: dictionaries, lists, strings, numbers and numpy arrays.

    Args:
        data: the whole file. Byte strings of Python 2 are read as Latin-1.
        where: for errors.

    Raises:
        WeightError: it asks for code, is malformed, or is cut short. Nothing was run.
    """
    try:
        admitted = _Bounds(len(data)).admitted()
        _look_at_opcodes(data, admitted)
        document = _Unpickler(io.BytesIO(data), admitted).load()
        return _plain(document, 0, {})
    except _Refused as error:
        raise WeightError(
            f"asks for {error}, which is code and not weights; nothing was run",
            where=where,
            todo="load it where you trust it and save its arrays alone",
        ) from None
    except Exception as error:  # a malformed pickle can raise anything; none of it is our bug
        text = " ".join(str(error).split())[:100] or type(error).__name__
        raise WeightError(
            f"damaged or cut short: {text}", where=where, todo="fetch or copy the file again"
        ) from None


def is_torch_file(data: bytes) -> bool:
    """Whether a pickle is the beginning of a file in torch's older format."""
    try:
        return any(
            code.name.startswith("LONG") and value == _TORCH_MAGIC
            for code, value, _ in _first_opcodes(data[:64], 3)
        )
    except ValueError:
        return False


def _first_opcodes(data: bytes, number: int) -> list[Any]:
    found = []
    for item in pickletools.genops(data):
        found.append(item)
        if len(found) == number:
            break
    return found


def _look_at_opcodes(data: bytes, admitted: _Admitted) -> None:
    """Refuse before anything is built; also finds counts that lead beyond the end."""
    for code, value, _ in pickletools.genops(data):
        name = code.name
        if name in _FORBIDDEN:
            raise _Refused(f"the opcode {name}")
        if name == "GLOBAL":
            module, _, attribute = str(value).partition(" ")
            _function(admitted, module, attribute)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT") and int(value or 0) > _MAX_MEMO:
            raise ValueError(f"a memo of {value} entries")
        elif isinstance(value, int) and value.bit_length() > 8 * _MAX_NUMBER_BYTES:
            raise ValueError("a number of many digits")


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, admitted: _Admitted) -> None:
        super().__init__(stream, encoding="latin1")
        self._admitted = admitted

    def find_class(self, module: str, name: str) -> Any:
        return _function(self._admitted, module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object from outside the file")


def _function(admitted: _Admitted, module: str, name: str) -> Callable[..., Any]:
    found = admitted.get((module.replace("numpy._core", "numpy.core"), name))
    if found is None:
        raise _Refused(f"{module}.{name}"[:80])
    return found


def _ndarray(*_: Any) -> Any:
    raise _Refused("numpy.ndarray as a function")


def _numbers(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 8:
        raise ValueError("an array without a shape")
    if not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape


def _plain(document: Any, depth: int, seen: dict[int, Any]) -> Any:
    """The document with arrays in the place of their records; containers a few levels deep.

    What the file holds once and names often is made once.
    """
    if isinstance(document, _Array):
        if document.value is None:
            raise ValueError("an array without content")
        return document.value
    if depth < _DEPTH and isinstance(document, Mapping):
        if id(document) not in seen:
            seen[id(document)] = {}
            found = {key: _plain(value, depth + 1, seen) for key, value in document.items()}
            seen[id(document)].update(found)
        return seen[id(document)]
    return document
