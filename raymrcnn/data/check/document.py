"""An annotation file as its entries, each as text until it is mended: everything else is kept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from raymrcnn.data.check.findings import DOUBT, Finding
from raymrcnn.data.check.mending import LEFT, Entry, Frames, Hopeless, mended_annotation
from raymrcnn.data.malformed import SINGULAR

# Of images: who knows which of two to keep?
_LEFT_IMAGES = frozenset(
    {"image-turned", "image-copy", "image-in-other-split", "image-near-duplicate"}
)
_GONE = frozenset({"image-missing", "image-outside-root", "image-undecodable"})
SizeOf = Callable[[str], "tuple[int, int] | None"]  # file name to height and width
Kinds = dict[tuple[str, int], set[str]]  # of findings, by section and position


@dataclass(frozen=True, kw_only=True)
class Change:
    """What was done about an entry."""

    section: str
    id: int  # as it was; -1: it had none
    action: str  # "mended", "dropped" or "left"
    kinds: tuple[str, ...]  # of the findings
    what: str


class _Keys(msgspec.Struct):
    """What is read of an entry that is not mended; of any type where it is malformed."""

    id: Any = -1
    image_id: Any = -1
    category_id: Any = -1
    file_name: Any = ""
    coco_url: Any = ""


@dataclass
class Document:
    """The sections of a file; entries are JSON texts."""

    others: dict[str, msgspec.Raw]
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    changes: list[Change] = field(default_factory=list)
    last_id: int = 0

    @staticmethod
    def read(path: Path) -> Document:
        """The document of a file that verification could read."""
        content = path.read_bytes()
        try:
            raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            images, annotations, categories = (
                msgspec.json.decode(raw.pop(name), type=list[msgspec.Raw]) for name in SINGULAR
            )
        except msgspec.DecodeError:  # numbers that are no JSON: null, as verification has it
            loose = json.loads(content)
            images, annotations, categories = (
                [msgspec.Raw(msgspec.json.encode(entry)) for entry in loose.pop(name)]
                for name in SINGULAR
            )
            raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in loose.items()}
        return Document(others=raw, images=images, annotations=annotations, categories=categories)

    def write(self, path: Path) -> None:
        """Write the file, entry after entry."""
        with path.open("wb") as stream:
            stream.write(b"{")
            for key, value in self.others.items():
                stream.write(msgspec.json.encode(key) + b": " + bytes(value) + b",\n")
            for number, name in enumerate(SINGULAR):
                stream.write((b",\n" if number else b"") + f'"{name}": [\n'.encode())
                for k, entry in enumerate(getattr(self, name)):
                    stream.write((b",\n" if k else b"") + bytes(entry))
                stream.write(b"\n]")
            stream.write(b"}\n")

    def file_names(self) -> Iterator[str]:
        """The file of each image."""
        for raw in self.images:
            yield _file_name(_keys(raw))

    def mend(self, findings: Sequence[Finding], size_of: SizeOf) -> None:
        """Mend or drop each entry that something was found about; renumber what must be."""
        kinds: Kinds = defaultdict(set)
        for finding in findings:
            if finding.position >= 0:
                kinds[finding.section, finding.position].add(finding.kind)
        self.last_id = max((_keys(raw).id for raw in self.annotations), default=0)
        category_ids = self._mend_categories(kinds)
        image_of, frame_of = self._mend_images(kinds, size_of)
        frames = Frames(
            image_of=image_of, size_of=frame_of, category_ids=category_ids, new_id=self._new_id
        )
        self._mend_annotations(kinds, frames)

    def leave(self, first: Sequence[Finding], last: Sequence[Finding]) -> None:
        """List the doubts that are left.

        Args:
            first: findings of the split as it was, pictures included.
            last: of the split as it is, without pictures.
        """
        images = {_keys(raw).id for raw in self.images}
        pictures = [f for f in first if f.kind in _LEFT_IMAGES and f.id in images]
        for finding in [*pictures, *last]:
            if finding.level == DOUBT:
                self._note(finding.section, finding.id, "left", {finding.kind}, finding.message)

    def _mend_categories(self, kinds: Kinds) -> set[int]:
        kept, ids = [], set()
        for position, raw in enumerate(self.categories):
            found = kinds["categories", position]
            entry = _entry(raw)
            own_id = entry.get("id")
            if "category-malformed" in found or "number-not-finite" in found:
                if _number(own_id) < 0:
                    self._note("categories", -1, "dropped", found, "it has no id")
                    continue
                entry = {**entry, "name": str(entry.get("name") or f"category {own_id}")}
                raw = msgspec.Raw(msgspec.json.encode(entry))
                self._note("categories", _number(own_id), "mended", found, f"named {entry['name']}")
            known = _number(own_id)
            if known in ids:
                what = "the first category of this id is kept"
                self._note("categories", known, "dropped", found, what)
                continue
            ids.add(known)
            kept.append(raw)
        self.categories = kept
        return ids

    def _mend_images(
        self, kinds: Kinds, size_of: SizeOf
    ) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Ids as they were to ids as they are, and height and width by the latter."""
        annotated = {_keys(raw).image_id for raw in self.annotations}
        names: dict[int, set[str]] = defaultdict(set)  # of the files of an id
        for raw in self.images:
            keys = _keys(raw)
            names[keys.id].add(_file_name(keys))
        kept = _KeptImages(next_id=max(names, default=0) + 1)
        for position, raw in enumerate(self.images):
            found = kinds["images", position] - _LEFT_IMAGES
            keys = _keys(raw)
            is_annotated = keys.id in annotated
            if keys.id >= 0 and len(names[keys.id]) > 1 and is_annotated:
                what = "several files have this id, and its annotations do not say which is meant"
                self._note("images", keys.id, "dropped", found or {"duplicate-image"}, what)
                continue
            entry, what = _mended_image(raw, found, size_of, is_annotated)
            if entry is not None:
                entry, more = kept.placed(entry, found, len(names[keys.id]) == 1)
                what = ", ".join(text for text in (what, more) if text)
            if entry is None:
                self._note("images", keys.id, "dropped", found, what)
                continue
            if what:
                self._note("images", keys.id, "mended", found, what)
                raw = msgspec.Raw(msgspec.json.encode(entry))
            kept.raws.append(raw)
        self.images = kept.raws
        return kept.image_of, kept.sizes

    def _mend_annotations(self, kinds: Kinds, frames: Frames) -> None:
        kept = []
        for position, raw in enumerate(self.annotations):
            found = kinds.get(("annotations", position), set())
            keys = _keys(raw)
            sound = keys.category_id in frames.category_ids
            if not found - LEFT and sound and frames.image_of.get(keys.image_id) == keys.image_id:
                kept.append(raw)
                continue
            try:
                entry, what = mended_annotation(_entry(raw), found, frames)
            except Hopeless as why:
                self._note("annotations", keys.id, "dropped", found, str(why))
                continue
            if what:
                self._note("annotations", keys.id, "mended", found, what)
                raw = msgspec.Raw(msgspec.json.encode(entry))
            kept.append(raw)
        self.annotations = kept

    def _new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def _note(
        self, section: str, own_id: int, action: str, kinds: AbstractSet[str], what: str
    ) -> None:
        self.changes.append(
            Change(section=section, id=own_id, action=action, kinds=tuple(sorted(kinds)), what=what)
        )


@dataclass
class _KeptImages:
    """The images that stay, while they are gone through."""

    next_id: int
    raws: list[msgspec.Raw] = field(default_factory=list)
    image_of: dict[int, int] = field(default_factory=dict)  # ids as they were, as they are
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)

    def placed(
        self, entry: Entry, found: AbstractSet[str], same_file: bool
    ) -> tuple[Entry | None, str]:
        """The entry with an id of its own, None if it goes; and what was done or why.

        Args:
            entry: of a sound image.
            found: kinds of what was found about it.
            same_file: whether all entries of its id have one file.
        """
        own_id, name = entry["id"], _file_name(msgspec.convert(entry, _Keys))
        what = ""
        if own_id in self.sizes and same_file:
            return None, "it is there already"
        if name in self.by_name and "image-file-shared" in found:
            self.image_of[own_id] = self.by_name[name]
            return None, f"its annotations put to image {self.by_name[name]}, which has its file"
        if own_id in self.sizes:  # another file; no annotation has this id
            own_id, self.next_id = self.next_id, self.next_id + 1
            what = f"given the id {own_id}"
        self.image_of.setdefault(own_id, own_id)
        self.sizes[own_id] = (entry["height"], entry["width"])
        self.by_name.setdefault(name, own_id)
        return {**entry, "id": own_id}, what


def _mended_image(
    raw: msgspec.Raw, found: AbstractSet[str], size_of: SizeOf, annotated: bool
) -> tuple[Entry | None, str]:
    """The entry, None where it is dropped; and what was done or why.

    Args:
        raw: the entry.
        found: kinds of what was found about it.
        size_of: the real size of a file.
        annotated: whether an annotation is of it.
    """
    entry = _entry(raw)
    if found & _GONE:
        return None, "its file cannot be used"
    if not found & {"image-size", "image-malformed", "number-not-finite"}:
        return entry, ""
    if _number(entry.get("id")) < 0:
        return None, "it has no id"
    name = _file_name(_keys(raw))
    real = size_of(name) if name else None
    if real is None:
        return None, "its file cannot be used"
    height, width = real
    if "image-size" in found and annotated:
        return None, f"it has {width}x{height} pixels, and was annotated at another size"
    return {**entry, "width": width, "height": height}, f"its size stated as {width}x{height}"


def _keys(raw: msgspec.Raw) -> _Keys:
    """Ids of an entry, -1 where they are none, and its file."""
    try:
        found = msgspec.json.decode(raw, type=_Keys)
    except msgspec.DecodeError:
        return _Keys()
    for name in ("id", "image_id", "category_id"):
        setattr(found, name, _number(getattr(found, name)))
    return found


def _number(value: Any) -> int:
    """An id, or -1."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else -1


def _file_name(keys: _Keys) -> str:
    return str(keys.file_name or "/".join(str(keys.coco_url).split("/")[-2:]))


def _entry(raw: msgspec.Raw) -> Entry:
    found: Any = msgspec.json.decode(raw)
    return found if isinstance(found, dict) else {}
