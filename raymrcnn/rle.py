"""COCO's run-length strings, read and written with numpy: many strings at once, nothing trusted.

A mask is read column by column, top to bottom; its runs alternate 0, 1, 0, ... beginning with 0
(perhaps of length 0). The string holds each run as 6-bit characters (5 bits of value, lowest
first, and one that says that more follow), and from the fourth run on only the difference to the
run two before it. Source: cocodataset/cocoapi, common/maskApi.c, rleToString and rleFrString.

A string is checked completely before anything is allocated by what it says. This module refuses
sizes of 2**31 pixels or more, and to know polygons or bitmaps: those are in `masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from raymrcnn.errors import DataError

Ints = npt.NDArray[np.int64]

MAX_PIXELS = 2**31 - 1
_CHARS_AT_ONCE = 1 << 16
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
    strings: Sequence[str | bytes],
    heights: npt.ArrayLike,
    widths: npt.ArrayLike,
    where: str = "",
    name: Callable[[int], str] = "RLE {}".format,
) -> tuple[Ints, Ints]:
    """The runs of several masks, and how many each mask has: the inverse of `encode_runs`.

    Args:
        strings: the compressed counts.
        heights: pixels, one for all or one for each string.
        widths: the same.
        where: what an error names as its place.
        name: what an error calls the string of an index.

    Raises:
        DataError: a string has a character that is none of COCO's, ends too early, has a negative
            run, or its runs do not add up to height * width.
    """
    chunks = list(_decode_chunks(strings, heights, widths, where, name))
    if not chunks:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    runs, num_runs = zip(*chunks, strict=True)
    return np.concatenate(runs), np.concatenate(num_runs)


def check_strings(
    strings: Sequence[str | bytes],
    heights: npt.ArrayLike,
    widths: npt.ArrayLike,
    where: str = "",
    name: Callable[[int], str] = "RLE {}".format,
) -> None:
    """Refuse what `decode_runs` refuses, in memory that does not grow with the strings."""
    for _ in _decode_chunks(strings, heights, widths, where, name):
        pass


class _Refused(Exception):
    """The first string of a chunk that is malformed."""

    def __init__(self, wrong: Ints, what: str) -> None:
        self.index, self.what = int(wrong[0]), what


def _decode_chunks(
    strings: Sequence[str | bytes],
    heights: npt.ArrayLike,
    widths: npt.ArrayLike,
    where: str,
    name: Callable[[int], str],
) -> Iterator[tuple[Ints, Ints]]:
    """Runs and numbers of runs, as many strings at a time as a core's cache holds."""
    num_pixels = np.broadcast_to(
        np.asarray(heights, np.int64) * np.asarray(widths, np.int64), len(strings)
    )
    raw, begin, num_chars = [], 0, 0
    for i, string in enumerate(strings):
        try:
            raw.append(string if isinstance(string, bytes) else string.encode("ascii"))
        except (UnicodeEncodeError, AttributeError):
            raise DataError(f"{name(i)} is no text of COCO's characters", where=where) from None
        num_chars += len(raw[-1])
        if num_chars >= _CHARS_AT_ONCE or i == len(strings) - 1:
            try:
                yield _decode(raw, num_pixels[begin : i + 1])
            except _Refused as refused:
                raise DataError(
                    f"{name(begin + refused.index)} {refused.what}", where=where
                ) from None
            raw, begin, num_chars = [], i + 1, 0


def _decode(raw: list[bytes], num_pixels: Ints) -> tuple[Ints, Ints]:
    lengths = np.array([len(s) for s in raw], np.int64)
    _refuse(lengths == 0, "is empty")
    _refuse(lengths > _MAX_CHARS * (num_pixels + 1), "has more runs than pixels")
    chars = np.frombuffer(b"".join(raw), np.uint8) - np.uint8(48)  # below "0" wraps to over 63
    string_ends = np.cumsum(lengths) - 1
    _refuse_chars(chars > 63, string_ends, "has a character that no RLE has")
    _refuse(chars[string_ends] >= 32, "is cut short")
    last = np.flatnonzero(chars < 32)  # the last character of each run
    num_chars = np.diff(last, prepend=-1)
    run_ends = np.searchsorted(last, string_ends)  # the last run of each string
    _refuse_chars(num_chars > _MAX_CHARS, run_ends, "has a run that is too long")

    values = (chars[last].astype(np.int64) ^ 16) - 16  # 5 bits, the highest being the sign
    left, at = np.flatnonzero(num_chars > 1), last
    for k in range(1, _MAX_CHARS):
        left = left[num_chars[left] > k]
        if len(left) == 0:
            break
        values[left] = values[left] * 32 + (chars[at[left] - k] & 31)

    num_runs = np.diff(run_ends, prepend=-1)
    runs = _undo_differences(values, num_runs)
    _refuse_chars(runs < 0, run_ends, "has a negative run")
    sums = np.add.reduceat(runs, run_ends - num_runs + 1)
    wrong = np.flatnonzero(sums != num_pixels)
    if len(wrong):
        raise _Refused(wrong, f"has {sums[wrong[0]]} pixels where {num_pixels[wrong[0]]} should be")
    return runs, num_runs


def _undo_differences(values: Ints, num_runs: Ints) -> Ints:
    """Runs from what strings hold: all but a mask's first three are added to the one two before.

    Without its first run, a mask is a table of two columns, to be summed downwards.
    """
    first = np.cumsum(num_runs) - num_runs
    in_table = np.ones(len(values), np.bool_)
    in_table[first] = False
    cells = num_runs // 2 * 2
    cell_of_first = np.cumsum(cells) - cells
    cell = (np.arange(len(values)) + np.repeat(cell_of_first - first - 1, num_runs))[in_table]
    flat = np.zeros(int(cells.sum()), np.int64)
    flat[cell] = values[in_table]
    table = flat.reshape(-1, 2)
    sums = np.cumsum(table, axis=0)
    masks = np.flatnonzero(cells)
    top = cell_of_first[masks] // 2
    sums -= np.repeat(sums[top] - table[top], cells[masks] // 2, axis=0)
    runs = values  # the first runs stand as they are
    runs[in_table] = sums.reshape(-1)[cell]
    return runs


def _refuse(wrong: npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise _Refused(np.flatnonzero(wrong), what)


def _refuse_chars(wrong: npt.NDArray[np.bool_], ends: Ints, what: str) -> None:
    """Refuse the string in which the first wrong character or run lies."""
    if wrong.any():
        raise _Refused(np.searchsorted(ends, np.flatnonzero(wrong)), what)
