"""Scores as text for people: rows for a table, and the lines that COCO's own tool prints.

Plain data; colours and borders are the command line's. This module refuses to compute anything.
"""

from __future__ import annotations

from raymrcnn.score.coco import METRICS, Scores

TITLES = {"bbox": "box", "segm": "mask"}

_WHAT = {
    "AP": ("Average Precision", "(AP)", "0.50:0.95", "all", 100),
    "AP50": ("Average Precision", "(AP)", "0.50", "all", 100),
    "AP75": ("Average Precision", "(AP)", "0.75", "all", 100),
    "APs": ("Average Precision", "(AP)", "0.50:0.95", "small", 100),
    "APm": ("Average Precision", "(AP)", "0.50:0.95", "medium", 100),
    "APl": ("Average Precision", "(AP)", "0.50:0.95", "large", 100),
    "AR1": ("Average Recall", "(AR)", "0.50:0.95", "all", 1),
    "AR10": ("Average Recall", "(AR)", "0.50:0.95", "all", 10),
    "AR100": ("Average Recall", "(AR)", "0.50:0.95", "all", 100),
    "ARs": ("Average Recall", "(AR)", "0.50:0.95", "small", 100),
    "ARm": ("Average Recall", "(AR)", "0.50:0.95", "medium", 100),
    "ARl": ("Average Recall", "(AR)", "0.50:0.95", "large", 100),
}


def summary_lines(scores: Scores) -> list[str]:
    """The twelve lines of COCO's tool for each kind, under a line that names the kind."""
    lines = []
    for kind, found in scores.metrics.items():
        lines.append(f"IoU of {'masks (segm)' if kind == 'segm' else 'boxes (bbox)'}:")
        for name in METRICS:
            title, short, iou, area, most = _WHAT[name]
            lines.append(
                f" {title:<18} {short} @[ IoU={iou:<9} | area={area:>6s} | maxDets={most:>3d} ]"
                f" = {found[name]:0.3f}"
            )
    return lines


def format_table(scores: Scores) -> list[list[str]]:
    """The header and a row for each of the twelve numbers: name, what it says, each kind."""
    kinds = list(scores.metrics)
    rows = [["", "", *(TITLES[k] for k in kinds)]]
    for name in METRICS:
        _, _, iou, area, most = _WHAT[name]
        said = f"IoU {iou}, {area} areas, {most} detections an image"
        rows.append([name, said, *(_number(scores.metrics[k][name]) for k in kinds)])
    return rows


def category_table(scores: Scores) -> list[list[str]]:
    """The header and a row for each category that has objects: name, objects, AP of each kind."""
    kinds = list(scores.metrics)
    rows = [["category", "objects", *(f"{TITLES[k]} AP" for k in kinds)]]
    for of_kinds in zip(*(scores.per_category[k] for k in kinds), strict=True):
        first = of_kinds[0]
        if first["num_objects"]:
            numbers = [_number(row["AP"]) for row in of_kinds]
            rows.append([first["name"], str(first["num_objects"]), *numbers])
    return rows


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
