"""Predictions of any origin against ground truth: one run scored, or two compared.

Predictions are a folder that `raymrcnn infer` wrote, matched in Ray tasks, or a COCO results file,
matched in this process. This module refuses to read the manifest of a folder: its caller did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raymrcnn import storage
from raymrcnn.data.coco import CocoIndex
from raymrcnn.data.store import open_annotation_file, open_annotations
from raymrcnn.device.accelerator import CPU
from raymrcnn.errors import ConfigError, DataError, OutputError
from raymrcnn.rundir import SCORES
from raymrcnn.score.coco import IOU_TYPES, Scores, merge, records_of, skipped_of, types_of
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
Progress = Callable[[int, int], None]  # how much is done, and of how much
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
        ConfigError: there are none, or two that contradict each other.
        DataError: they cannot be read.
    """
    options = {"--annotations": annotations, "--data": data, "--split": split}
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if not os.fspath(value):
            raise ConfigError("is empty", where=name, todo="give a name, or drop it")
    if annotations is not None:
        other = next((name for name in given if name != "--annotations"), None)
        if other is not None:
            raise ConfigError(
                "says nothing beside --annotations, which is a whole file",
                where=other,
                todo="give one of the two",
            )
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
    on_matched: Progress | None = None,
) -> Scores:
    """The scores, also written to the `scores.json` of a folder, where that can be written.

    Raises:
        RaymrcnnError: something is malformed or does not fit together.
    """
    asked, notes = Asked(detail=detail, skip_bad=skip_bad), list[str]()
    [(states, _)] = _matched([predicted], truth, asked, workers, cluster, on_matched, notes)
    scores = replace(merge(states), annotations=truth.fingerprint)
    if predicted.is_folder:
        try:
            write_scores(predicted.path, scores)
        except OutputError as error:  # what took its time to find is given all the same
            notes.append(f"{SCORES} is as it was before: {error.where}: {error.what}")
    return replace(scores, notes=notes)


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
    progress: Progress | None = None,
    on_matched: Progress | None = None,
) -> dict[str, Any]:
    """How much better b is than a, for boxes and masks, as far as both have them.

    Returns:
        "a", "b" (paths), "num_images", "resamples", "seed", "confidence", for each type what
        `raymrcnn.score.compare.compare` returns, and, where there are some, "skipped_annotations"
        (ids) and "notes".

    Raises:
        RaymrcnnError: as `score_predicted`, or the two are not about the same images.
    """
    asked, notes = Asked(detail=True, skip_bad=skip_bad), list[str]()
    matched = _matched([a, b], truth, asked, workers, cluster, on_matched, notes)
    (of_a, ids), (of_b, other) = matched
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
            progress=_part_of(progress, step * resamples, len(kinds) * resamples),
        )
    skipped = skipped_of([*of_a, *of_b])
    return {
        **document,
        **({"skipped_annotations": skipped} if skipped else {}),
        **({"notes": notes} if notes else {}),
    }


def _part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    """What tells of one piece of work of several, as part of all of them."""
    if progress is None:
        return None
    return lambda done, of: progress(before + done, total)


def _matched(
    every: list[Predicted],
    truth: CocoIndex,
    asked: Asked,
    workers: int,
    cluster: str | None,
    on_matched: Progress | None,
    notes: list[str],
) -> list[tuple[list[State], Ints]]:
    """The states and image ids of each; Ray is started only where there is a folder."""
    # Better now than after Ray has started.
    files = [len(part_files(one.path)) if one.is_folder else 0 for one in every]
    if not any(files):
        if workers or cluster:
            raise ConfigError(
                "a results file is matched in this process, without Ray",
                where="--workers" if workers else "--cluster",
                todo="drop it",
            )
        return [_of_json(predicted, truth, asked, notes) for predicted in every]

    from raymrcnn.device.on_ray import ray_session
    from raymrcnn.score.on_ray import match_predictions

    found = []
    with ray_session(cluster, CPU, 1):
        for k, predicted in enumerate(every):
            if not predicted.is_folder:
                found.append(_of_json(predicted, truth, asked, notes))
                continue
            images: Literal["all"] | Ints = "all" if predicted.only is None else predicted.only
            found.append(
                match_predictions(
                    predicted.path,
                    truth,
                    images=images,
                    asked=asked,
                    max_tasks=workers or None,
                    progress=_part_of(on_matched, sum(files[:k]), sum(files)),
                )
            )
    return found


def _of_json(
    predicted: Predicted, truth: CocoIndex, asked: Asked, notes: list[str]
) -> tuple[list[State], Ints]:
    own: list[str] = []
    state, ids = match_coco_json(
        truth, predicted.path, detail=asked.detail, skip_bad=asked.skip_bad, notes=own
    )
    notes += [f"{predicted.path}: {note}" for note in own]
    return [state], ids
