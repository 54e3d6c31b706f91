"""Puts the figures of `benchmarks/results/` into the table of the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def result(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def rows() -> list[tuple[str, str, str, str]]:
    """What was measured, the peer's figure, ours, and how many times better."""
    infer, train, score = result("infer"), result("train"), result("score")["threads"]["1"]
    masks, index = result("masks"), result("coco_index")
    image_s, times = infer["seconds_per_image"], infer["times_torchvision"]
    check = result("data_check")
    step_s = train["seconds_per_step"]
    theirs, ours = index["pycocotools"], index["raymrcnn"]
    return [
        (
            "inference, R-50-FPN 800/1333, file to RLE, identical masks",
            f"torchvision {image_s['torchvision']:.2f} s an image",
            f"{image_s['raymrcnn']:.2f} s",
            f"{times['raymrcnn']:.2f}",
        ),
        (
            "the same in bfloat16",
            f"torchvision, float32 {image_s['torchvision']:.2f} s an image",
            f"{image_s['raymrcnn_bfloat16']:.2f} s",
            f"{times['raymrcnn_bfloat16']:.2f}",
        ),
        (
            "one training step, R-50-FPN, 2 images at 800 px, equal losses",
            f"torchvision {step_s['torchvision']:.1f} s",
            f"{step_s['raymrcnn']:.1f} s",
            f"{train['times_torchvision']['raymrcnn']:.2f}",
        ),
        (
            "the same in bfloat16",
            f"torchvision, float32 {step_s['torchvision']:.1f} s",
            f"{step_s['raymrcnn_low']:.1f} s",
            f"{train['times_torchvision']['raymrcnn_low']:.2f}",
        ),
        (
            "scoring boxes and masks, 5000 images, 36 000 objects, identical numbers",
            f"pycocotools {score['pycocotools_s']:.1f} s",
            f"{score['raymrcnn_s']:.1f} s",
            f"{score['ratio']:.0f}",
        ),
        (
            "paste and RLE, 100 detections on 640x480, identical strings",
            f"torchvision and pycocotools {masks['torchvision_pycocotools_ms']:.0f} ms",
            f"{masks['raymrcnn_ms']:.1f} ms",
            f"{masks['ratio']:.0f}",
        ),
        (
            "opening 860 000 annotations",
            f"pycocotools {theirs['seconds']:.1f} s, {theirs['peak_mb']:.0f} MB",
            f"{ours['seconds']:.1f} s, {ours['peak_mb']:.0f} MB",
            f"{index['times_faster']:.1f}; {index['times_smaller']:.1f} less memory",
        ),
        *(
            (
                what,
                f"pycocotools{doing} {check[name]['pycocotools']['seconds']:.1f} s, "
                f"{check[name]['pycocotools']['peak_mb']:.0f} MB",
                f"{check[name]['raymrcnn']['seconds']:.1f} s, "
                f"{check[name]['raymrcnn']['peak_mb']:.0f} MB",
                f"{ratio(check[name], 'seconds'):.1f}; "
                f"{ratio(check[name], 'peak_mb'):.1f} less memory",
            )
            for what, name, doing in (
                ("`data verify --no-decode` of them", "verify", ", RLE, area and box of each:"),
                ("`data stats` of them", "stats", " and loops"),
            )
        ),
    ]


def ratio(sides: Any, what: str) -> float:
    return float(sides["pycocotools"][what] / sides["raymrcnn"][what])


def table() -> str:
    lines = ["| what | the peer | raymrcnn | times |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows())])


def with_table(text: str) -> str:
    """The README with its table renewed."""
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table()}\n{END}", text, flags=re.S)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
