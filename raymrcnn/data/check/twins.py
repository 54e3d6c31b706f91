"""Images that come twice: files of the same bytes, and pictures that look the same.

Two pictures look the same if at most `MAX_BITS` of their 64 dHash bits differ (each bit: is this
place darker than the one to its right) and their thumbnails correlate by `MIN_CORRELATION` or more.
The first test finds candidates quickly, the second one tells them from pictures that are merely
smooth alike. Source of dHash: N. Krawetz, "Kind of Like That", 2013.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from raymrcnn.data.check.findings import Finding
from raymrcnn.data.check.pictures import ListedImage, Look

MAX_BITS = 6
MIN_CORRELATION = 0.97
_MIN_CONTRAST = 4.0  # gray levels: what is flatter looks like all that is flat
_ROWS_AT_ONCE = 256


def copies(listed: Sequence[ListedImage], looks: Sequence[Look]) -> Iterator[Finding]:
    """Files of a split that have the same bytes as one before; those of one name are no copies."""
    first: dict[bytes, ListedImage] = {}
    for item, look in zip(listed, looks, strict=True):
        if look.digest:
            before = first.setdefault(look.digest, item)
            if before.name != item.name:
                what = f"the same bytes as image {before.id} ({before.name})"
                yield _finding("image-copy", item, what)


def shared_with(
    split: str,
    listed: Sequence[ListedImage],
    looks: Sequence[Look],
    other: Sequence[ListedImage],
    other_looks: Sequence[Look],
) -> Iterator[Finding]:
    """Images that another split has too, or has one of that looks the same.

    Args:
        split: name of the other split.
        listed: the images of this split.
        looks: what they were found to be.
        other: the images of the other split.
        other_looks: likewise.
    """
    known = {look.digest: item for item, look in zip(other, other_looks, strict=True)}
    known.pop(b"", None)
    nearest = _nearest(looks, other_looks)
    for i, (item, look) in enumerate(zip(listed, looks, strict=True)):
        same = known.get(look.digest)
        if same is not None:
            what = f"image {same.id} ({same.name}) of {split} has the same bytes"
            yield _finding("image-in-other-split", item, what)
        elif i in nearest:
            k, bits, correlation = nearest[i]
            what = (
                f"looks like image {other[k].id} ({other[k].name}) of {split}: {bits} of 64 bits "
                f"differ, correlation {correlation:.3f}"
            )
            yield _finding("image-near-duplicate", item, what)


def _nearest(looks: Sequence[Look], others: Sequence[Look]) -> dict[int, tuple[int, int, float]]:
    """The most alike of the others, bits that differ, and correlation; by the place of a look."""
    mine = np.array([i for i, look in enumerate(looks) if look.thumbnail], np.int64)
    theirs = np.array([k for k, look in enumerate(others) if look.thumbnail], np.int64)
    if not len(mine) or not len(theirs):
        return {}
    hashes = np.array([looks[i].dhash for i in mine], np.uint64)
    other_hashes = np.array([others[k].dhash for k in theirs], np.uint64)
    found: dict[int, tuple[int, int, float]] = {}
    for start in range(0, len(mine), _ROWS_AT_ONCE):
        rows = hashes[start : start + _ROWS_AT_ONCE]
        bits = _differing_bits(rows[:, None] ^ other_hashes)
        for row, column in np.argwhere(bits <= MAX_BITS).tolist():
            i, k = int(mine[start + row]), int(theirs[column])
            correlation = _correlation(looks[i].thumbnail, others[k].thumbnail)
            if correlation >= max(MIN_CORRELATION, found.get(i, (0, 0, 0.0))[2]):
                found[i] = (k, int(bits[row, column]), correlation)
    return found


def _differing_bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(values), np.uint8)
    table = _BITS_OF_16[values.view(np.uint16).reshape(*values.shape, 4)]
    return np.asarray(table.sum(axis=-1), np.uint8)


_BITS_OF_16 = np.array([k.bit_count() for k in range(1 << 16)], np.uint8)


def _correlation(a: bytes, b: bytes) -> float:
    """Pearson's, of two thumbnails; 0 where one is flat."""
    x, y = (np.frombuffer(t, np.uint8).astype(np.float64) for t in (a, b))
    x, y = x - x.mean(), y - y.mean()
    if min(x.std(), y.std()) < _MIN_CONTRAST:
        return 0.0
    return float((x * y).mean() / (x.std() * y.std()))


def _finding(kind: str, item: ListedImage, what: str) -> Finding:
    return Finding(
        kind=kind,
        id=item.id,
        message=f"image {item.id} ({item.name}): {what}",
        file=item.name,
        section="images",
        position=item.position,
    )
