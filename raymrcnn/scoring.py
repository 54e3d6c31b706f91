"""Predictions of any origin against ground truth: one run scored, or two compared.

Predictions are a folder that `raymrcnn infer` wrote, matched in Ray tasks, or a COCO results file,
matched in this process. This module refuses to read the manifest of a folder: its caller did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raymrcnn import storage
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.store import open_annotation_file, open_annotations
from raymrcnn.device.accelerator import CPU
from raymrcnn.errors import ConfigError, DataError
from raymrcnn.score.coco import IOU_TYPES, Scores, merge, records_of, types_of
from raymrcnn.score.compare import compare
from raymrcnn.score.files import (
    Asked,
    Place,
    State,
    match_coco_json,
    part_files,
    write_scores,
)

Ints = npt.NDArray[np.int64]
TODO_SAME = "compare runs on the same images, and score them with the same annotations"


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Predictions: a folder or a COCO results file."""

    path: Place
    is_folder: bool  # or a file
    # Ids of the images that count where those are not all of the ground truth: a job with a limit
    # was never asked for the others.
    only: Ints | None = None


def ground_truth(
    source: Place,
    about: Mapping[str, Any],
    annotations: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | None,
    split: str | None,
) -> CocoIndex:
    """The annotations that were given, or those that the manifest `about` names.

    Raises:
        ConfigError: there are none.
        DataError: they cannot be read.
    """
    if annotations is not None:
        return open_annotation_file(storage.place(annotations))
    made_from = about.get("data") or {}
    root = data or made_from.get("root")
    if root is None:
        raise ConfigError(
            "there is nothing to score against",
            where=str(source),
            todo="give --annotations FILE, or --data DIR --split NAME",
        )
    return open_annotations(storage.place(root), split or made_from.get("split", "val2017"))


def score_predicted(
    predicted: Predicted,
    truth: CocoIndex,
    *,
    detail: bool = False,
    skip_bad: bool = False,
    workers: int = 0,
    cluster: str | None = None,
) -> Scores:
    """The scores, also written to the `scores.json` of a folder.

    Raises:
        RaymrcnnError: something is malformed or does not fit together.
    """
    asked = Asked(detail=detail, skip_bad=skip_bad)
    (states, _), = _matched([predicted], truth, asked, workers, cluster)  # fmt: skip
    scores = merge(states)
    if predicted.is_folder:
        write_scores(predicted.path, scores)
    return scores


def compare_predicted(
    a: Predicted,
    b: Predicted,
    truth: CocoIndex,
    *,
    resamples: int = 1000,
    seed: int = 0,
    skip_bad: bool = False,
    workers: int = 0,
    cluster: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """How much better b is than a, for boxes and masks, as far as both have them.

    Returns:
        "a", "b" (paths), "num_images", "resamples", "seed", "confidence", and for each type what
        `raymrcnn.score.compare.compare` returns.

    Raises:
        RaymrcnnError: as `score_predicted`, or the two are not about the same images.
    """
    asked = Asked(detail=True, skip_bad=skip_bad)
    (of_a, ids), (of_b, other) = _matched([a, b], truth, asked, workers, cluster)
    images = np.unique(ids)
    if not np.array_equal(images, np.unique(other)):
        raise DataError(
            f"{len(images)} images count in the one, {len(np.unique(other))} in the other",
            where=f"{a.path}, {b.path}",
            todo=TODO_SAME,
        )
    kinds = [kind for kind in IOU_TYPES if kind in types_of(of_a[0]) & types_of(of_b[0])]
    if not kinds:
        raise DataError("one has boxes alone, the other masks", where=f"{a.path}, {b.path}")

    def shown(step: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, of: progress(step * of + done, len(kinds) * of)

    document: dict[str, Any] = {
        "a": str(a.path),
        "b": str(b.path),
        "num_images": len(images),
        "resamples": resamples,
        "seed": seed,
        "confidence": 0.95,
    }
    for step, kind in enumerate(kinds):
        document[kind] = compare(
            records_of(of_a, kind),
            records_of(of_b, kind),
            images,
            truth.categories,
            resamples=resamples,
            seed=seed,
            progress=shown(step),
        )
    return document


def _matched(
    every: list[Predicted],
    truth: CocoIndex,
    asked: Asked,
    workers: int,
    cluster: str | None,
) -> list[tuple[list[State], Ints]]:
    """The states and image ids of each; Ray is started only where there is a folder."""
    for predicted in every:
        if predicted.is_folder:
            part_files(predicted.path)  # better now than after Ray has started
    if not any(predicted.is_folder for predicted in every):
        return [_of_json(predicted, truth, asked) for predicted in every]

    from raymrcnn.device.on_ray import ray_session
    from raymrcnn.score.on_ray import match_predictions

    found = []
    with ray_session(cluster, CPU, 1):
        for predicted in every:
            if not predicted.is_folder:
                found.append(_of_json(predicted, truth, asked))
                continue
            images: Literal["all"] | Ints = "all" if predicted.only is None else predicted.only
            found.append(
                match_predictions(
                    predicted.path, truth, images=images, asked=asked, max_tasks=workers or None
                )
            )
    return found


def _of_json(predicted: Predicted, truth: CocoIndex, asked: Asked) -> tuple[list[State], Ints]:
    state, ids = match_coco_json(
        truth, predicted.path, detail=asked.detail, skip_bad=asked.skip_bad
    )
    return [state], ids
