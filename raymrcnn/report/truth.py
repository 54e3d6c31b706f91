"""Where the ground truth of predictions lies: as the caller says, or as the folders noted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raymrcnn import storage
from raymrcnn.data.coco import CocoIndex, splits
from raymrcnn.data.store import FolderImages, ImageStore, open_dataset
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.report.collect import Predictions, Run
from raymrcnn.report.overview import data_of


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images and annotations lie."""

    root: Path | str | None  # a path, or a URI of a sharded data set
    split: str
    given: bool  # by the caller, rather than noted in a folder
    why: str = ""  # there are no annotations
    shards: ImageStore | None = None  # where the images are no files of their own


def ground_truth(
    run: Run | None, predictions: Predictions | None, data_root: Path | None, split: str | None
) -> tuple[CocoIndex | None, Source]:
    """The annotations, and where the data lies or why there are none."""
    said = data_of(run, predictions)
    root: Path | str | None = data_root
    if root is None and said.get("root"):
        noted = str(said["root"])
        root = noted if storage.is_uri(noted) else Path(noted)
    name = split or str(said.get("split") or "")
    if data_root is not None and not name:
        name = _only_split(data_root)
    source = Source(root=root, split=name, given=data_root is not None)
    if predictions is None:
        return None, source
    if root is None or not name:
        return None, replace(source, why="the predictions name no data set with annotations")
    try:
        index, store = open_dataset(root, name)
        folder = isinstance(store, FolderImages)
        return index, source if folder else replace(source, shards=store)
    except (DataError, ConfigError) as error:
        if data_root is not None:
            raise
        return None, replace(source, why=f"the annotations cannot be read ({error})")


def _only_split(root: Path) -> str:
    names = sorted(splits(root))
    if len(names) != 1:
        raise ConfigError(
            f"{root} has {len(names)} splits, and the predictions do not say which is meant",
            where="--split",
            todo=f"choose one of {', '.join(names)}" if names else "give the root of a data set",
        )
    return names[0]


def objects_of(index: CocoIndex | None) -> dict[int, int]:
    """Annotated objects by category id; nothing without annotations."""
    if index is None:
        return {}
    ids, counts = np.unique(index.columns.category_ids, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
