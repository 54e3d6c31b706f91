"""Writes a cleaned copy of a split: what verification found is mended, dropped or left, and listed.

The originals stay as they are. Entries without a finding are copied letter for letter; images are
linked to, or copied. This module goes round until verification finds no error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymrcnn import rundir
from raymrcnn.data.check.document import Change, Document
from raymrcnn.data.check.findings import VerifyReport
from raymrcnn.data.coco import WHOLE, annotation_file
from raymrcnn.data.images import resolve_image
from raymrcnn.data.verify import verify
from raymrcnn.errors import DataError, OutputError

_ROUNDS = 5  # mending one entry may show another's fault; each round drops or mends some
_MARKER = ".raymrcnn-fix"  # in the folder of images, until the list is there


@dataclass(frozen=True, kw_only=True)
class CleanCopy:
    """A cleaned copy and what was done."""

    root: str
    annotation_file: str
    list_file: str
    num_images: int
    num_annotations: int
    changes: tuple[Change, ...]
    reused: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Entries that were mended, dropped, left."""
        found = Counter(change.action for change in self.changes)
        return {action: found[action] for action in ("mended", "dropped", "left")}

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready dictionaries."""
        return {**asdict(self), "counts": self.counts}


def list_name(split: str) -> str:
    """The file in the copy that lists what was done."""
    return f"fixed-{split}.json"


def write_clean_copy(
    root: Path, split: str, report: VerifyReport, out: Path, *, copy_images: bool = False
) -> CleanCopy:
    """Write `out` as a data set with this split, in which verification finds no error.

    Args:
        root: of the data set, single image files.
        split: name of the split.
        report: of the split, its images decoded.
        out: root of the copy; other splits may be there, of other copies.
        copy_images: copy image files; without, links lead to the originals.

    Raises:
        DataError: nothing is left of the split, or it cannot be mended.
        OutputError: something else is there already, or the disk refuses.
    """
    source = annotation_file(root, split)
    digest = _digest(source)
    there = _already(out, split, digest, copy_images)
    if there is not None:
        return there
    rundir.prepare_output(out)
    with rundir.disk_errors(out):
        tmp = Path(tempfile.mkdtemp(prefix=rundir.TMP_PREFIX, dir=out))
    try:
        with rundir.disk_errors(out):
            document = _mended(root, split, report, tmp)
            if copy_images:
                _place_images(root, split, document, _image_folder(tmp, split), copy_images=True)
            (_image_folder(tmp, split) / _MARKER).write_text(digest)
            result = _commit(tmp, out, split, document)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    about = {"source": str(source), "source_sha256": digest, "images_copied": copy_images}
    rundir.write_json(out / list_name(split), {**about, **result.to_json()})
    return result


def _mended(root: Path, split: str, report: VerifyReport, tmp: Path) -> Document:
    """The document, mended until nothing that stops a run is found in it.

    For that the annotations are written to `tmp`, with links to the images beside them.
    """
    document = Document.read(annotation_file(root, split))
    sizes = _Sizes(root, split)
    found = report
    for _ in range(_ROUNDS):
        document.mend(found.findings, sizes.of)
        if not document.images or not document.categories:
            raise DataError(
                "nothing is left of the split: every image or category is faulty",
                where=report.annotation_file,
            )
        target, folder = _annotation_path(tmp, split), _image_folder(tmp, split)
        target.parent.mkdir(exist_ok=True)
        document.write(target)
        shutil.rmtree(folder, ignore_errors=True)
        _place_images(root, split, document, folder, copy_images=False)
        found = verify(tmp, split, decode=False)
        # Objects of two entries of one file may be the same, which shows once they are together.
        if found.ok and "duplicate-object" not in found.counts:
            break
    if not found.ok:
        raise DataError(
            f"it cannot be mended: {next(f.message for f in found.findings if f.is_error)}",
            where=str(root),
        )
    document.leave(report.findings, found.findings)
    return document


@dataclass(frozen=True)
class _Sizes:
    """The real size of an image, for those whose entry does not tell it."""

    root: Path
    split: str

    def of(self, file_name: str) -> tuple[int, int] | None:
        """Height and width of the upright image; None if it cannot be read."""
        from raymrcnn.data.images import decode_image

        try:
            _, height, width = decode_image(resolve_image(self.root, self.split, file_name)).shape
        except DataError:
            return None
        return height, width


def _place_images(
    root: Path, split: str, document: Document, folder: Path, *, copy_images: bool
) -> None:
    """Link or copy the images into a folder, under their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in document.file_names():
        target = folder / name
        source = os.path.realpath(resolve_image(root, split, name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            target.unlink()
        if copy_images:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source)


def _commit(tmp: Path, out: Path, split: str, document: Document) -> CleanCopy:
    """Rename images and annotations to where they belong."""
    images, annotations = _image_folder(out, split), _annotation_path(out, split)
    for path in (images, annotations):
        path.parent.mkdir(parents=True, exist_ok=True)
    if images.exists():  # of a run that was killed: `_already` has looked
        shutil.rmtree(images)
    _image_folder(tmp, split).rename(images)
    _annotation_path(tmp, split).replace(annotations)
    (images / _MARKER).unlink()
    return CleanCopy(
        root=str(out),
        annotation_file=str(annotations),
        list_file=str(out / list_name(split)),
        num_images=len(document.images),
        num_annotations=len(document.annotations),
        changes=tuple(document.changes),
    )


def _already(out: Path, split: str, digest: str, copy_images: bool) -> CleanCopy | None:
    """The copy that is there already, made from the same annotations in the same way.

    Raises:
        OutputError: something else is there.
    """
    images, annotations = _image_folder(out, split), _annotation_path(out, split)
    listed = out / list_name(split)
    if listed.is_file():
        known = rundir.read_json(listed)
        if known["source_sha256"] == digest and known["images_copied"] == copy_images:
            names = {field.name for field in dataclasses.fields(CleanCopy)} - {"changes", "reused"}
            changes = tuple(Change(**change) for change in known["changes"])
            values = {name: known[name] for name in names}
            return CleanCopy(**values, changes=changes, reused=True)
        raise OutputError(
            "a copy of other annotations or in another way is there already",
            where=str(out),
            todo="choose another --fix folder",
        )
    marker = images / _MARKER
    killed = marker.is_file() and marker.read_text() == digest
    if not killed and (images.exists() or annotations.exists()):
        raise OutputError(
            f"the split {split} is there already, and it is no copy of --fix",
            where=str(out),
            todo="choose another --fix folder",
        )
    return None


def _annotation_path(root: Path, split: str) -> Path:
    return (
        root / "instances.json"
        if split == WHOLE
        else (root / "annotations" / f"instances_{split}.json")
    )


def _image_folder(root: Path, split: str) -> Path:
    return root / ("images" if split == WHOLE else split)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
