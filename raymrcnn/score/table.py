"""Scores as text for people: rows for a table, and the lines that COCO's own tool prints.

Plain data; colours and borders are the command line's. This module refuses to compute anything.
"""

from __future__ import annotations

from typing import Any

from raymrcnn.score.coco import Scores

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
    # LVIS's
    "APr": ("Average Precision", "(AP)", "0.50:0.95", "rare", 300),
    "APc": ("Average Precision", "(AP)", "0.50:0.95", "common", 300),
    "APf": ("Average Precision", "(AP)", "0.50:0.95", "freq", 300),
    "AR300": ("Average Recall", "(AR)", "0.50:0.95", "all", 300),
}
_FREQUENCIES = {"rare": "rare", "common": "common", "freq": "frequent"}
_ERRORS = {
    "Cls": "right place, wrong category",
    "Loc": "right category, IoU 0.1 to 0.5",
    "Both": "wrong category and place",
    "Dupe": "found a second time",
    "Bkg": "on no object",
    "Miss": "object not found",
    "FP": "all false detections",
    "FN": "all objects not found",
}
_MOST_CONFUSED = 12
_FEW_IMAGES = 10


def summary_lines(scores: Scores) -> list[str]:
    """The lines of COCO's tool (or LVIS's) for each kind, under a line that names the kind."""
    lines = []
    for kind, found in scores.metrics.items():
        lines.append(f"IoU of {'masks (segm)' if kind == 'segm' else 'boxes (bbox)'}:")
        for name in found:
            title, short, iou, area, most = _what(name, found)
            lines.append(
                f" {title:<18} {short} @[ IoU={iou:<9} | area={area:>6s} | maxDets={most:>3d} ]"
                f" = {found[name]:0.3f}"
            )
    return lines


def format_table(scores: Scores) -> list[list[str]]:
    """The header and a row for each number: name, what it says, each kind."""
    kinds = list(scores.metrics)
    rows = [["", "", *(TITLES[k] for k in kinds)]]
    for name in scores.metrics[kinds[0]]:
        _, _, iou, area, most = _what(name, scores.metrics[kinds[0]])
        group = _FREQUENCIES.get(area)
        which = f"{group} categories" if group else f"{area} areas"
        said = f"IoU {iou}, {which}, {most} detections an image"
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


def error_table(scores: Scores) -> list[list[str]]:
    """The header and a row for each kind of error: what AP50 would gain without it, how many."""
    kinds = list(scores.detail)
    head = ["error", ""]
    for k in kinds:
        head += [f"{TITLES[k]} AP50", f"{TITLES[k]} count"]
    rows = [head]
    for name, said in _ERRORS.items():
        row = [name, said]
        for k in kinds:
            found = scores.detail[k]["errors"][name]
            row += [f"{found['delta']:+.3f}", str(found.get("count", "-"))]
        rows.append(row)
    return rows


def calibration_table(scores: Scores) -> list[list[str]]:
    """The header and a row for each bin of scores: mean score, share that is right, how many."""
    kinds = list(scores.detail)
    head = ["score"]
    for k in kinds:
        head += [f"{TITLES[k]} mean", f"{TITLES[k]} right", f"{TITLES[k]} count"]
    rows = [head]
    for of_kinds in zip(*(scores.detail[k]["calibration"]["bins"] for k in kinds), strict=True):
        row = [f"{of_kinds[0]['low']:.1f} to {of_kinds[0]['high']:.1f}"]
        for found in of_kinds:
            there = found["count"] > 0
            row += [f"{found[name]:.3f}" if there else "-" for name in ("score", "right")]
            row.append(str(found["count"]))
        rows.append(row)
    return rows


def confusion_table(scores: Scores, kind: str) -> list[list[str]]:
    """The header and the most frequent pairs of two categories of which one is taken for another.

    What was not found and what was found where there is nothing stands in the table of errors.
    """
    names = {row["category_id"]: row["name"] for row in scores.per_category[kind]}
    rows = [["object", "taken for", "times"]]
    for pair in scores.detail[kind]["confusion"]["pairs"]:
        truth, predicted = pair["truth"], pair["predicted"]
        if truth is not None and predicted is not None and truth != predicted:
            rows.append([names[truth], names[predicted], str(pair["count"])])
    return rows[: 1 + _MOST_CONFUSED]


def comparison_tables(document: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Titles and tables of two runs: the scores of each kind, and the categories that differ."""
    tables = []
    head = ["", "A", "B", "B - A", f"{document['confidence']:.0%} interval", ""]
    for kind, title in TITLES.items():
        if kind not in document:
            continue
        found = document[kind]
        rows = [head, *([name, *_compared(entry)] for name, entry in found["metrics"].items())]
        tables.append((f"{title.capitalize()} scores", rows))
        of_categories = [[row["name"], *_compared(row)] for row in found["per_category"]]
        if len(of_categories) > 1:
            shown = of_categories[:_MOST_CONFUSED]
            cut = len(shown) < len(of_categories)
            which = f", the {len(shown)} that differ most" if cut else ""
            tables.append((f"{title.capitalize()} AP by category{which}", [head, *shown]))
    return tables


def _compared(entry: dict[str, Any]) -> list[str]:
    """Texts: both scores, the difference, its interval, and whether that leaves out zero."""
    a, b, difference = entry["a"], entry["b"], entry["difference"]
    if difference is None:
        return ["-", "-", "-", "-", ""]
    texts = [f"{a:.3f}", f"{b:.3f}", f"{difference:+.3f}"]
    low, high = entry.get("low"), entry.get("high")
    if low is None or high is None:
        return [*texts, "-", ""]
    sure = "B is better" if low > 0 else "A is better" if high < 0 else "may be chance"
    if entry.get("num_images", _FEW_IMAGES) < _FEW_IMAGES:
        sure = "few images"  # of one image, resampling says nothing
    return [*texts, f"{low:+.3f} to {high:+.3f}", sure if difference else ""]


def _what(name: str, found: dict[str, float]) -> tuple[str, str, str, str, int]:
    """What a number is about; with LVIS's all are of 300 detections."""
    title, short, iou, area, most = _WHAT[name]
    return title, short, iou, area, 300 if "AR300" in found else most


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
