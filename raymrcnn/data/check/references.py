"""Findings about ids, names and what refers to what; and entries that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from raymrcnn.data.check.findings import Finding
from raymrcnn.data.check.objects import Entries
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.malformed import SINGULAR, Malformed

Ints = npt.NDArray[np.int64]


def positions_of(section: str, num_read: int, malformed: Sequence[Malformed]) -> Ints:
    """Where each entry that was read stands in the list of the file."""
    lacking = [m.position for m in malformed if m.section == section and m.left_out]
    return np.delete(np.arange(num_read + len(lacking)), lacking)


def malformed_findings(path: str, malformed: Sequence[Malformed]) -> Iterator[Finding]:
    """One for each malformed entry."""
    for item in malformed:
        name = SINGULAR[item.section]
        name += f" {item.id}" if item.id >= 0 else ""
        yield Finding(
            kind=item.kind,
            id=item.id,
            message=f"{name} ({item.section}[{item.position}]): {item.what}",
            file=path,
            section=item.section,
            position=item.position,
        )


def category_findings(index: CocoIndex, positions: Ints) -> Iterator[Finding]:
    """Categories that come twice, are not used, or leave gaps."""
    table = index.columns.category_table
    used = frozenset(np.unique(index.columns.category_ids).tolist())
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}

    def finding(kind: str, k: int, what: str) -> Finding:
        return Finding(
            kind=kind,
            id=table[k][0],
            message=f"category {table[k][0]} ({table[k][1]}): {what}",
            file=index.path,
            section="categories",
            position=int(positions[k]),
        )

    for k, (category_id, name) in enumerate(table):
        if category_id in by_id:
            what = f"its id is given twice, before to {by_id[category_id]!r}"
            yield finding("duplicate-category", k, what)
            continue
        by_id[category_id] = name
        first = by_name.setdefault(name, category_id)
        if first != category_id:
            yield finding("category-name-twice", k, f"category {first} has this name too")
        if category_id not in used:
            yield finding("category-unused", k, "no annotation is of it")
    ids = sorted(by_id)
    if ids != list(range(1, len(ids) + 1)):
        last = max(range(len(table)), key=lambda k: table[k][0])
        what = f"the {len(ids)} ids run from {ids[0]} to {ids[-1]}, with gaps or not from 1"
        yield finding("category-gap", last, what)


def image_entry_findings(index: CocoIndex, positions: Ints) -> Iterator[Finding]:
    """Image ids and files that come twice."""
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for i, image_id in enumerate(index.image_ids.tolist()):
        name = index.file_name(i)
        kind, what = "", ""
        if image_id in by_id:
            kind, what = "duplicate-image", f"its id is given twice, before to {by_id[image_id]}"
        elif by_name.setdefault(name, image_id) != image_id:
            kind, what = "image-file-shared", f"image {by_name[name]} has the same file"
        by_id.setdefault(image_id, name)
        if kind:
            yield Finding(
                kind=kind,
                id=image_id,
                message=f"image {image_id} ({name}): {what}",
                file=name,
                section="images",
                position=int(positions[i]),
            )


def reference_findings(entries: Entries) -> Iterator[Finding]:
    """Annotation ids that come twice, and annotations of no image or category."""
    index = entries.index
    columns = index.columns
    ids = columns.ids[np.argsort(index.file_rows)]
    repeated = np.ones(len(ids), np.bool_)
    repeated[np.unique(ids, return_index=True)[1]] = False
    yield from entries.findings(
        "duplicate-annotation", repeated[index.file_rows], lambda j: "its id is given twice"
    )
    yield from entries.findings(
        "unknown-image",
        index.annotation_images < 0,
        lambda j: f"it names image {columns.image_id_of[j]}, which the file does not list",
    )
    known = [category_id for category_id, _ in columns.category_table]
    yield from entries.findings(
        "unknown-category",
        ~np.isin(columns.category_ids, known),
        lambda j: f"it names category {columns.category_ids[j]}, which the file does not list",
    )
