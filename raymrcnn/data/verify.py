"""Everything that is wrong with a split, as a list: what stops a run, and what is doubtful.

Training and scoring stop at the first fault they meet; here all are found in one go. This module
repairs nothing, and refuses only what cannot be read as an annotation file at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raymrcnn import storage
from raymrcnn.data.check.findings import ERRORS, Finding, VerifyReport
from raymrcnn.data.check.objects import Entries, annotation_findings
from raymrcnn.data.check.pictures import ListedImage, Look, listed_images, look_at_all
from raymrcnn.data.check.references import (
    category_findings,
    image_entry_findings,
    malformed_findings,
    positions_of,
    reference_findings,
)
from raymrcnn.data.check.twins import copies, shared_with
from raymrcnn.data.coco import CocoIndex, splits
from raymrcnn.data.malformed import Malformed
from raymrcnn.data.store import ImageStore, open_dataset
from raymrcnn.data.trainable import usable_images
from raymrcnn.errors import ConfigError

__all__ = ["ERRORS", "EVERY_OTHER", "Finding", "Lookers", "VerifyReport", "verify"]

EVERY_OTHER = "all"  # for `against`

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Lookers:
    """Who looks at the images: threads of this process, or tasks on Ray."""

    num_threads: int = 0  # 0: one a CPU
    on_ray: bool = False
    cluster: str | None = None  # on Ray: "auto" or HOST:PORT; None: this machine alone
    num_workers: int = 0  # on Ray: tasks at a time; 0: one for each CPU

    def look(
        self,
        images: ImageStore,
        listed: Sequence[ListedImage],
        decode: bool,
        progress: Callable[[int], object],
    ) -> list[Look]:
        """Look at all of them; what is found is the same whoever does."""
        if self.on_ray:
            from raymrcnn.data.check.on_ray import look_at_all_on_ray

            return look_at_all_on_ray(
                images, listed, decode, self.cluster, self.num_workers, progress
            )
        return look_at_all(
            images, listed, decode, self.num_threads or os.cpu_count() or 1, progress
        )


def verify(
    root: Path | str,
    split: str,
    decode: bool = True,
    *,
    against: Sequence[str] = (),
    lookers: Lookers = Lookers(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> VerifyReport:
    """Look at every image and annotation of a split.

    Args:
        root: of the data set.
        split: name of the split.
        decode: decode each image; without, they are only looked for.
        against: other splits of which no image should look like one of these; "all" stands for
            every other split of the root. Their images are decoded too.
        lookers: who looks at the images.
        progress: told the images done and all images, now and then.

    Raises:
        DataError: there is no such split, or its annotation file is not one.
        ConfigError: `against` names this split, or comes with images that are not decoded.
        ClusterError: as `ray_session`, on Ray.
    """
    others = _other_splits(root, split, against, decode)
    malformed: list[Malformed] = []
    index, images = open_dataset(root, split, check=False, malformed=malformed)
    opened = {name: open_dataset(root, name, check=False, malformed=[]) for name in others}
    total = index.num_images + sum(other.num_images for other, _ in opened.values())
    done = 0

    def tell(more: int) -> None:
        if progress:
            progress(done + more, total)

    found = _entry_findings(index, malformed)
    listed = listed_images(index, positions_of("images", index.num_images, malformed))
    looks = lookers.look(images, listed, decode, tell)
    # An image without a name has none to be found by.
    found += [
        finding if finding.file else replace(finding, file=index.path)
        for look in looks
        for finding in look.findings
    ]
    found += copies(listed, looks)
    done = index.num_images
    for name, (other, other_images) in opened.items():
        other_listed = listed_images(other, np.arange(other.num_images))
        other_looks = lookers.look(other_images, other_listed, decode, tell)
        found += shared_with(name, listed, looks, other_listed, other_looks)
        done += other.num_images
    return VerifyReport(
        annotation_file=index.path,
        num_images=index.num_images,
        num_annotations=index.num_annotations,
        num_crowds=int(index.columns.iscrowd.sum()),
        num_categories=len(index.categories),
        num_unannotated_images=int((np.diff(index.first_annotation) == 0).sum()),
        num_trainable_images=len(usable_images(index)),
        decoded=decode,
        compared_with=tuple(others),
        findings=tuple(found),
    )


def _entry_findings(index: CocoIndex, malformed: list[Malformed]) -> list[Finding]:
    """Of the annotation file alone, in the order of its lists."""
    positions = positions_of("annotations", index.num_annotations, malformed)
    entries = Entries(index, positions[index.file_rows])
    about_annotations = [*reference_findings(entries), *annotation_findings(entries)]
    return [
        *malformed_findings(index.path, malformed),
        *category_findings(
            index, positions_of("categories", len(index.columns.category_table), malformed)
        ),
        *image_entry_findings(index, positions_of("images", index.num_images, malformed)),
        *sorted(about_annotations, key=lambda finding: finding.position),
    ]


def _other_splits(
    root: Path | str, split: str, against: Sequence[str], decode: bool
) -> tuple[str, ...]:
    if not against:
        return ()
    if not decode:
        raise ConfigError("images that are not decoded cannot be compared", where="--against")
    if split in against:
        raise ConfigError(f"{split} is the split itself", where="--against")
    if EVERY_OTHER not in against:
        return tuple(dict.fromkeys(against))
    if storage.is_uri(root):
        raise ConfigError(
            "the splits behind a URI are not known", where="--against", todo="name them"
        )
    return tuple(sorted(name for name in splits(Path(root)) if name != split))
