"""COCO's run-length strings against pycocotools, and what is no such string."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from raymrcnn.errors import DataError
from raymrcnn.rle import MAX_PIXELS, check_size, decode_runs, encode_runs


def _strings(bitmaps: list[np.ndarray]) -> list[str]:
    return [
        coco_mask.encode(np.asfortranarray(b.astype(np.uint8)))["counts"].decode() for b in bitmaps
    ]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    num_masks=st.integers(1, 6),
)
def test_strings_of_many_masks_equal_pycocotools(
    seed: int, height: int, width: int, num_masks: int
) -> None:
    draw = np.random.default_rng(seed)
    bitmaps = [draw.random((height, width)) < draw.random() for _ in range(num_masks)]
    strings = _strings(bitmaps)
    runs, num_runs = decode_runs(strings, height, width)
    assert encode_runs(runs, num_runs) == strings
    ends = np.cumsum(num_runs)
    for bitmap, end, count in zip(bitmaps, ends, num_runs, strict=True):
        mine = runs[end - count : end]
        flat = np.repeat(np.arange(count) % 2 == 1, mine)
        assert (flat == bitmap.T.reshape(-1)).all()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 511, 512, 16383, 16384, 2**29, 2**30])
def test_long_runs_are_written_as_pycocotools_writes_them(length: int) -> None:
    runs = np.array([length, 1, 3, length // 2 + 1, 7, 2, length // 3])
    total = int(runs.sum())
    peer = coco_mask.frPyObjects([{"size": [total, 1], "counts": runs.tolist()}], total, 1)[0]
    (ours,) = encode_runs(runs, np.array([len(runs)]))
    assert ours == peer["counts"].decode()
    assert decode_runs([ours], total, 1)[0].tolist() == runs.tolist()


def test_each_string_may_have_its_own_size() -> None:
    strings = _strings([np.ones((3, 5)), np.zeros((7, 2)), np.eye(4)])
    runs, num_runs = decode_runs(strings, [3, 7, 4], [5, 2, 4])
    assert num_runs.tolist() == [2, 1, 8]
    assert runs[:3].tolist() == [0, 15, 14]
    with pytest.raises(DataError, match="RLE 1 has 14 pixels where 15 should be"):
        decode_runs(strings, [3, 5, 4], [5, 3, 4])


@pytest.mark.parametrize(
    ("string", "says"),
    [
        ("", "is empty"),
        ("zz", "has a character that no RLE has"),
        ("\0\0\0", "has a character that no RLE has"),
        ("é", "is no text of COCO's characters"),
        ("o", "is cut short"),
        ("o" * 8 + "0", "has a run that is too long"),
        ("oooooooooooo", "is cut short"),
        ("M0", "has a negative run"),
        ("T3T3", "has 200 pixels where 100 should be"),
        ("0" * 708, "has more runs than pixels"),
        (b"\xff\xff", "has a character that no RLE has"),
    ],
)
def test_a_string_that_is_no_mask_is_refused_in_words(string: str, says: str) -> None:
    with pytest.raises(DataError) as refused:
        decode_runs(["T3", string], 10, 10, where="results.json")
    assert str(refused.value).startswith("results.json: RLE 1")
    assert says in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=12), st.binary(max_size=12)))
def test_any_text_gives_valid_runs_or_an_error(string: str | bytes) -> None:
    try:
        runs, num_runs = decode_runs([string], 6, 5)
    except DataError:
        return
    assert runs.min() >= 0
    assert runs.sum() == 30
    assert len(runs) == num_runs[0]


def test_no_strings_are_no_runs() -> None:
    runs, num_runs = decode_runs([], 10, 10)
    assert len(runs) == 0
    assert len(num_runs) == 0
    assert encode_runs(runs, num_runs) == []


def test_a_size_that_no_mask_has_is_refused() -> None:
    check_size(1, MAX_PIXELS)
    for height, width in ((0, 5), (5, -1), (2**16, 2**15)):
        with pytest.raises(DataError):
            check_size(height, width, "image 3")
