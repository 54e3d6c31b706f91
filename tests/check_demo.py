"""What the demo promises, checked on a folder that it wrote: python tests/check_demo.py demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

LEAST_MASK_AP = 0.30


def main(home: Path) -> None:
    """Exit with a message where a promise is broken."""
    scores = json.loads((home / "predictions" / "scores.json").read_text())
    parts = sorted((home / "predictions").glob("part-*.parquet"))
    ids = [i for part in parts for i in pq.read_table(part).column("image_id").to_pylist()]
    truth = json.loads((home / "data/annotations/instances_val2017.json").read_text())
    page = (home / "run" / "report.html").read_text(encoding="utf-8")
    mask_ap = scores["segm"]["AP"]
    assert mask_ap >= LEAST_MASK_AP, f"mask AP is {mask_ap:.3f}, below {LEAST_MASK_AP}"
    assert sorted(ids) == sorted(image["id"] for image in truth["images"]), "not each image once"
    assert page.rstrip().endswith("</html>"), "the report is cut"
    print(f"demo holds: mask AP {mask_ap:.3f} on {len(ids)} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
