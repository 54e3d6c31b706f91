"""COCO's run-length strings, read and written with numpy: many strings at once, nothing trusted.

A mask is read column by column, top to bottom; its runs alternate 0, 1, 0, ... beginning with 0
(perhaps of length 0). The string holds each run as 6-bit characters (5 bits of value, lowest
first, and one that says that more follow), and from the fourth run on only the difference to the
run two before it. Source: cocodataset/cocoapi, common/maskApi.c, rleToString and rleFrString.

A string is checked completely before anything is allocated by what it says. This module refuses
sizes of 2**31 pixels or more, and to know polygons or bitmaps: those are in `masks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import DataError

Ints = npt.NDArray[np.int64]

MAX_PIXELS = 2**31 - 1
_MAX_CHARS = 7  # characters a run: 35 bits hold any difference between two runs


def check_size(height: int, width: int, where: str = "") -> None:
    """Refuse a size that no mask can have.

    Raises:
        DataError: height or width is below 1, or they make more than `MAX_PIXELS`.
    """
    if height < 1 or width < 1:
        raise DataError(f"height {height} and width {width} are no size of an image", where=where)
    if height * width > MAX_PIXELS:
        raise DataError(
            f"height {height} times width {width} is more than {MAX_PIXELS} pixels",
            where=where,
            todo="cut the image into tiles",
        )


def encode_runs(runs: Ints, num_runs: Ints) -> list[str]:
    """The strings of several masks.

    Args:
        runs: [total] int64, the runs of all masks, one mask after the other.
        num_runs: [num_masks] int64, how many of them each mask has.
    """
    if len(runs) == 0:
        return [""] * len(num_runs)
    starts = np.cumsum(num_runs) - num_runs
    nth = np.arange(len(runs)) - np.repeat(starts, num_runs)  # place of a run in its mask
    values = runs.astype(np.int64)
    late = np.flatnonzero(nth > 2)
    values[late] -= runs[late - 2]

    # A value of k characters lies in [-2**(5k-1), 2**(5k-1)).
    magnitude = np.where(values < 0, ~values, values)
    num_chars = np.ones(len(values), np.int64)
    for k in range(1, _MAX_CHARS):
        longer = magnitude >= 1 << (5 * k - 1)
        if not longer.any():
            break
        num_chars += longer
    ends = np.cumsum(num_chars)
    chars = np.empty(int(ends[-1]), np.uint8)
    first = ends - num_chars
    left = np.arange(len(values))
    for k in range(_MAX_CHARS):
        left = left[num_chars[left] > k]
        if len(left) == 0:
            break
        more = num_chars[left] > k + 1
        chars[first[left] + k] = ((values[left] >> (5 * k)) & 31) + 32 * more + 48
    text = chars.tobytes().decode("ascii")
    bounds = np.concatenate(([0], ends))[np.concatenate((starts, [len(runs)]))].tolist()
    return [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def decode_runs(
    strings: Sequence[str | bytes], heights: npt.ArrayLike, widths: npt.ArrayLike, where: str = ""
) -> tuple[Ints, Ints]:
    """The runs of several masks, and how many each mask has: the inverse of `encode_runs`.

    Args:
        strings: the compressed counts.
        heights: pixels, one for all or one for each string.
        widths: the same.
        where: what an error names as its place.

    Raises:
        DataError: a string has a character that is none of COCO's, ends too early, has a negative
            run, or its runs do not add up to height * width.
    """
    raw = [_ascii(s, i, where) for i, s in enumerate(strings)]
    num_pixels = np.broadcast_to(np.asarray(heights, np.int64) * np.asarray(widths), len(raw))
    lengths = np.array([len(s) for s in raw], np.int64)
    if len(raw) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    _refuse(lengths == 0, "is empty", where)
    _refuse(lengths > _MAX_CHARS * (num_pixels + 1), "has more runs than pixels", where)
    chars = np.frombuffer(b"".join(raw), np.uint8) - 48  # wraps below "0", so > 63 is foreign
    string_of_char = np.repeat(np.arange(len(raw)), lengths)
    _refuse_at(string_of_char, chars > 63, "has a character that no RLE has", where)
    string_ends = np.cumsum(lengths) - 1
    is_last = (chars & 32) == 0
    _refuse(~is_last[string_ends], "is cut short", where)

    last = np.flatnonzero(is_last)
    first = np.concatenate(([0], last[:-1] + 1))
    num_chars = last - first + 1
    string_of_run = string_of_char[first]
    _refuse_at(string_of_run, num_chars > _MAX_CHARS, "has a run that is too long", where)
    shift = 5 * (np.arange(len(chars)) - np.repeat(first, num_chars))
    values = np.add.reduceat((chars & 31).astype(np.int64) << shift, first)
    values -= np.where(chars[last] & 16, np.int64(1) << (5 * num_chars), 0)

    num_runs = np.bincount(string_of_run, minlength=len(raw))
    starts = np.cumsum(num_runs) - num_runs
    nth = np.arange(len(values)) - np.repeat(starts, num_runs)
    runs = _undo_differences(values, nth, np.repeat(starts, num_runs))
    _refuse_at(string_of_run, runs < 0, "has a negative run", where)
    sums = np.add.reduceat(runs, starts)
    wrong = np.flatnonzero(sums != num_pixels)
    if len(wrong):
        i = int(wrong[0])
        _refuse(sums != num_pixels, f"has {sums[i]} pixels where {num_pixels[i]} should be", where)
    return runs, num_runs


def _undo_differences(values: Ints, nth: Ints, starts: Ints) -> Ints:
    """Runs from what strings hold: sums along a mask's odd runs, and its even from the third on."""
    runs: Ints = values.copy()
    for parity in (1, 0):
        mine = (nth % 2 == parity) & (nth > 0)
        sums = np.concatenate(([0], np.cumsum(np.where(mine, values, 0))))
        runs[mine] = (sums[1:] - sums[starts])[mine]
    return runs


def _ascii(string: str | bytes, index: int, where: str) -> bytes:
    if isinstance(string, bytes):
        return string
    try:
        return string.encode("ascii")
    except (UnicodeEncodeError, AttributeError):
        raise DataError(f"RLE {index} is no text of COCO's characters", where=where) from None


def _refuse(wrong: npt.NDArray[np.bool_], what: str, where: str) -> None:
    bad = np.flatnonzero(wrong)
    if len(bad):
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(f"RLE {bad[0]}{more} {what}", where=where)


def _refuse_at(string_of: Ints, wrong: npt.NDArray[np.bool_], what: str, where: str) -> None:
    if wrong.any():
        bad = np.zeros(int(string_of[-1]) + 1, np.bool_)
        bad[string_of[wrong]] = True
        _refuse(bad, what, where)
