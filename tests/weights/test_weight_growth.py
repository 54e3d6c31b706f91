"""Small files that would be large in memory: one array by many names, few bytes repeated."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from raymrcnn.errors import WeightError
from raymrcnn.weights import load_source
from raymrcnn.weights.files import read_state
from raymrcnn.weights.pickles import read_pickle


def test_one_array_by_two_names_is_read_and_by_many_refused(tmp_path: Path) -> None:
    array = np.ones(1 << 20, np.float32)
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": array, "b": array}, 4))
    found = read_state(path)
    assert found["a"].data_ptr() == found["b"].data_ptr()
    path.write_bytes(pickle.dumps({str(i): array for i in range(5000)}, 4))
    with pytest.raises(WeightError, match="far more than itself"):
        load_source(str(path))


def test_a_tensor_that_repeats_one_value_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "w.pth")
    with pytest.raises(WeightError, match="far more than itself"):
        load_source(str(tmp_path / "w.pth"))


def test_a_text_that_is_encoded_again_and_again_is_one_object() -> None:
    text = b"X\x03\0\0\0abc"
    call = b"c_codecs\nencode\n"
    once = call + text + b"\x85R"
    first, second = read_pickle(b"\x80\x02" + once + once + b"\x86.", "w")
    assert first == b"abc"
    assert first is second


def test_a_dictionary_that_is_made_again_and_again_is_refused() -> None:
    pairs = pickle.dumps([(i, i) for i in range(1000)], 2)[:-1]  # puts its list at 0
    again = b"ccollections\nOrderedDict\nh\0\x85R"
    with pytest.raises(WeightError, match="again and again"):
        read_pickle(pairs + again * 500 + b".", "w")
