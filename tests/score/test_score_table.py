"""Scores as text, in the layout that everyone knows."""

from __future__ import annotations

import contextlib
import io

from made_up_scores import make, pycocotools_eval

from raymrcnn.score.coco import METRICS, match_shard, merge
from raymrcnn.score.table import category_table, format_table, summary_lines


def test_the_lines_are_those_that_pycocotools_prints() -> None:
    truth, detections = make(30, 9)
    state = match_shard(truth.images, truth.annotations, detections, truth.categories)
    lines = summary_lines(merge([state]))
    for kind, name, ours in (
        ("bbox", "boxes (bbox)", lines[:13]),
        ("segm", "masks (segm)", lines[13:]),
    ):
        printed = io.StringIO()
        evaluation = pycocotools_eval(truth, detections, kind)
        with contextlib.redirect_stdout(printed):
            evaluation.summarize()
        assert ours == [f"IoU of {name}:", *printed.getvalue().splitlines()]


def test_tables_have_a_row_for_each_number_and_category() -> None:
    truth, detections = make(31, 9)
    state = match_shard(truth.images, truth.annotations, detections, truth.categories)
    scores = merge([state])
    rows = format_table(scores)
    assert rows[0][2:] == ["box", "mask"]
    assert [row[0] for row in rows[1:]] == list(METRICS)
    assert rows[1][3] == f"{scores.metrics['segm']['AP']:.3f}"
    categories = category_table(scores)
    objects = {
        n: sum(not a["iscrowd"] and a["category_id"] == k for a in truth.annotations)
        for k, n in truth.names
    }
    assert [(r[0], int(r[1])) for r in categories[1:]] == [(n, o) for n, o in objects.items() if o]
    assert len({len(row) for row in categories}) == 1
