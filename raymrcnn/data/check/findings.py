"""The kinds of finding, what mends each, and the report that holds them.

An error stops a run, a doubt costs accuracy or may be meant, a note is worth knowing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

ERROR, DOUBT, NOTE = "error", "doubt", "note"

# Level, and how it is mended by hand. What `--fix` does is in `repair`.
KINDS: dict[str, tuple[str, str]] = {
    "category-malformed": (ERROR, "give it an integer id and a name"),
    "duplicate-category": (ERROR, "give each category an id of its own"),
    "category-name-twice": (DOUBT, "merge the categories, or name them apart"),
    "category-unused": (NOTE, "none is needed; remove it if it is not meant to be learned"),
    "category-gap": (NOTE, "none is needed; programs that take ids for labels need 1, 2, 3, ..."),
    "image-malformed": (ERROR, "give it id, file_name, width and height"),
    "duplicate-image": (ERROR, "give each image an id of its own, and its annotations that id"),
    "image-file-shared": (DOUBT, "list the file once, and give all annotations that image's id"),
    "image-missing": (ERROR, "put the file there, or remove the image from the annotations"),
    "image-outside-root": (ERROR, "make the name relative to the folder of the split"),
    "image-undecodable": (ERROR, "copy or export the file again"),
    "image-size": (ERROR, "annotate again, or state the size that the annotations were drawn in"),
    "image-turned": (DOUBT, "write the pixels upright and drop the EXIF orientation"),
    "image-copy": (DOUBT, "keep one of the two"),
    "image-in-other-split": (DOUBT, "keep it in one split; scores on seen images are too good"),
    "image-near-duplicate": (DOUBT, "keep both in one split; scores on seen images are too good"),
    "annotation-malformed": (ERROR, "correct or remove the annotation"),
    "number-not-finite": (ERROR, "correct or remove the number; NaN and Infinity are no JSON"),
    "duplicate-annotation": (ERROR, "give each annotation an id of its own"),
    "annotation-id-0": (DOUBT, "count ids from 1"),
    "unknown-image": (ERROR, "correct the image_id, or remove the annotation"),
    "unknown-category": (ERROR, "correct the category_id, or list the category"),
    "crowd-flag": (DOUBT, "write 0 or 1"),
    "crowd-polygons": (DOUBT, "set iscrowd to 0, or draw the crowd as run lengths"),
    "crowd-unset": (DOUBT, "set iscrowd to 1 if it is a crowd"),
    "mask-missing": (ERROR, "draw a mask, or remove the annotation"),
    "mask-malformed": (ERROR, "draw the mask again, or remove the annotation"),
    "mask-blank": (DOUBT, "draw the mask again, or remove the annotation"),
    "polygon-empty": (ERROR, "remove the empty polygon"),
    "polygon-short": (ERROR, "remove the polygon, or give it 3 points or more"),
    "polygon-odd": (ERROR, "draw the polygon again: an x or a y is missing"),
    "polygon-crossing": (DOUBT, "draw the polygon again, or write the mask as run lengths"),
    "polygon-flat": (DOUBT, "remove the polygon"),
    "polygon-outside": (DOUBT, "cut the polygon at the border of the image"),
    "rle-malformed": (ERROR, "encode the mask again"),
    "rle-size": (ERROR, "encode the mask at the size of its image"),
    "box-degenerate": (DOUBT, "take the box of the mask"),
    "box-outside": (DOUBT, "take the box of the mask, or clip it to the image"),
    "box-mismatch": (DOUBT, "take the box of the mask"),
    "area-zero": (DOUBT, "take the pixels of the mask"),
    "area-missing": (DOUBT, "take the pixels of the mask"),
    "area-mismatch": (DOUBT, "take the pixels of the mask"),
    "duplicate-object": (DOUBT, "remove the repeat"),
}
# Kinds that training, inference or scoring stops at.
ERRORS = frozenset(kind for kind, (level, _) in KINDS.items() if level == ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong, doubtful or worth knowing."""

    kind: str
    id: int  # of the image, annotation or category that the message names; -1: it has none
    message: str
    file: str = ""  # of the image, or the annotation file
    section: str = ""  # "images", "annotations" or "categories"
    position: int = -1  # in that list of the annotation file, from 0

    @property
    def level(self) -> str:
        """Error, doubt or note."""
        return KINDS[self.kind][0]

    @property
    def fix(self) -> str:
        """How it is mended."""
        return KINDS[self.kind][1]

    @property
    def is_error(self) -> bool:
        """Whether a run stops at it."""
        return self.kind in ERRORS

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return {**asdict(self), "level": self.level, "error": self.is_error, "fix": self.fix}


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a split holds, and what is wrong with it."""

    annotation_file: str
    num_images: int
    num_annotations: int
    num_crowds: int
    num_categories: int
    num_unannotated_images: int  # without any annotation
    num_trainable_images: int  # with at least one object that can be trained on
    decoded: bool  # whether the images were decoded or only looked for
    compared_with: tuple[str, ...] = ()  # splits whose images were compared with these
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that a run stops at."""
        return not any(finding.is_error for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each kind."""
        return dict(sorted(Counter(finding.kind for finding in self.findings).items()))

    @property
    def levels(self) -> dict[str, int]:
        """Findings of each level."""
        found = Counter(finding.level for finding in self.findings)
        return {level: found[level] for level in (ERROR, DOUBT, NOTE)}

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dictionaries."""
        names = [name for name in vars(self) if name != "findings"]
        return {
            **{name: getattr(self, name) for name in names},
            "ok": self.ok,
            "levels": self.levels,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
        }
