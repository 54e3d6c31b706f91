"""Errors are one line of what, where and what to do, on this machine and from another."""

from __future__ import annotations

import inspect
import pickle

import pytest

from raymrcnn import errors
from raymrcnn.data.images import ImageSizeError
from raymrcnn.errors import DataError, FetchError, RaymrcnnError, RunError
from raymrcnn.train.loop import NonFiniteLossError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, RaymrcnnError)
] + [ImageSizeError, NonFiniteLossError]


@pytest.mark.parametrize(
    ("where", "todo", "line"),
    [
        ("", "", "it is broken"),
        ("a.json", "", "a.json: it is broken"),
        ("", "mend it", "it is broken; mend it"),
        ("a.json", "mend it", "a.json: it is broken; mend it"),
    ],
)
def test_the_line_says_where_what_and_what_next(where: str, todo: str, line: str) -> None:
    assert str(RaymrcnnError("it is broken", where=where, todo=todo)) == line


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_travels_between_processes(kind: type[RaymrcnnError]) -> None:
    error = kind("it is broken", where="a.json", todo="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.where, again.todo) == ("it is broken", "a.json", "mend it")
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code


def test_what_the_user_can_mend_ends_with_2_and_a_failed_run_with_1() -> None:
    codes = {kind: kind.exit_code for kind in KINDS}
    failed = {kind for kind, code in codes.items() if code == 1}
    assert failed == {FetchError, RunError, NonFiniteLossError}
    assert set(codes.values()) == {1, 2}
    assert DataError.exit_code == 2
