"""From what a user writes behind `--weights` to tensors and what is known of them.

A source is a torchvision weight name, a file, a checkpoint folder or a run folder. Building the
network is another package's work.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from raymrcnn import rundir, storage
from raymrcnn.config import ModelConfig
from raymrcnn.errors import DataError, WeightError
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.weights.architecture import infer_architecture
from raymrcnn.weights.catalogue import place_of, published_named
from raymrcnn.weights.copies import checkpoint_copy
from raymrcnn.weights.files import read_content, read_state, sha256_of
from raymrcnn.weights.programs import Sheet, recognise
from raymrcnn.weights.records import BackboneInfo, config_of, info_from_json, read_record
from raymrcnn.weights.torchvision_names import NORM_EPS, coco_categories, fetch, hash_prefix_of

FORMAT = 1  # of checkpoint.json


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Tensors under torchvision's names, and what came with them."""

    state: dict[str, Tensor]
    info: ModelInfo | None  # None: a bare state dict
    digest: str  # SHA-256 of the file that holds the tensors
    description: str  # for people
    norm_eps: float | None = None  # of its frozen batch norms; None: the conventions' own
    format: str = "safetensors"  # of the file, for people
    program: str = "raymrcnn"  # that made it, for people
    # Sheets of conventions that the weights are at home in, the program's own first.
    conventions: tuple[Sheet, ...] = ("torchvision",)
    dropped: Mapping[str, str] = field(default_factory=dict)  # names without a use here, and why


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """All that is needed to build a detector and name what it finds."""

    state: dict[str, Tensor]
    config: ModelConfig
    categories: tuple[Category | None, ...]  # of label 1, 2, ...
    short_side: int
    long_side: int
    digest: str
    description: str


def load_source(source: str) -> WeightSource:
    """Read weights of raymrcnn, torchvision, maskrcnn-benchmark, Detectron or detectron2.

    Args:
        source: a URI of a weight file, a run, its `last` or `best`, or a checkpoint in it;
            a torchvision weight name (`MaskRCNN_ResNet50_FPN_Weights.COCO_V1`), which is
            fetched where it is not here; the name of another published file that was fetched; a
            `.pth`, `.pt`, `.pkl` or `.safetensors` file, a checkpoint folder, or a run folder (its
            newest checkpoint), or `RUN/best`.

    Raises:
        WeightError: nothing there, or not weights.
    """
    if storage.is_uri(source):
        place = storage.settled(source)
        if isinstance(place, str):
            return _from_uri(place)
        source = str(place)
    path = rundir.home_expanded(source)
    if path.is_dir():
        return _from_folder(path)
    if path.name in (rundir.LAST, rundir.BEST) and (path.parent / rundir.RUN_JSON).is_file():
        return _from_checkpoint(path.parent / path.read_text().strip())
    if path.exists():
        return _from_file(path, str(path))
    if re.fullmatch(r"\w+_Weights\.\w+", source):
        return _from_torchvision(source)
    entry = published_named(source)
    if entry is not None:
        path = place_of(entry)
        if not path.is_file():
            raise WeightError(
                "not fetched yet", where=source, todo=f"`raymrcnn weights fetch {entry.name}`"
            )
        return _from_file(path, str(path))
    raise WeightError(
        "no such file or folder",
        where=source,
        todo="give a file, a run folder, or a name of `raymrcnn weights list`",
    )


def load_model_source(source: str) -> ModelSource:
    """Read the weights of a detector, and tell its architecture and categories.

    Of a bare state dict the architecture is told from the tensors. Labels of 90 classes are COCO's
    ids, as torchvision has it, those of 80 classes COCO's categories in the order of their ids, as
    the other programs have it; otherwise label n is the category "class n" of id n.

    Raises:
        WeightError: nothing there, not weights, or not a Mask R-CNN that can be built here.
    """
    found = load_source(source)
    if found.info is not None:
        config, info = config_of(found.info, found.description), found.info
    else:
        try:
            config, num_classes = infer_architecture(found.state)
        except WeightError as error:
            raise WeightError(error.what, where=found.description, todo=error.todo) from None
        config = replace(config, frozen_norm_eps=found.norm_eps, conventions=found.conventions[0])
        info = ModelInfo(categories=_categories(num_classes))
    return ModelSource(
        state=found.state,
        config=config,
        categories=info.categories,
        short_side=info.short_side,
        long_side=info.long_side,
        digest=found.digest,
        description=found.description,
    )


def _categories(num_classes: int) -> tuple[Category | None, ...]:
    coco = coco_categories()
    if num_classes == len(coco):
        return coco
    used = tuple(category for category in coco if category is not None)
    if num_classes == len(used):
        return used
    return tuple(Category(id=i, name=f"class {i}") for i in range(1, num_classes + 1))


def _from_torchvision(name: str) -> WeightSource:
    path = fetch(name)
    found = _from_file(path, name)
    if not found.digest.startswith(hash_prefix_of(path)):
        raise WeightError(
            f"{path} is damaged: its SHA-256 is {found.digest[:8]}...",
            where=name,
            todo="delete it, so that it is fetched again",
        )
    return found


def _from_file(path: Path, description: str) -> WeightSource:
    digest = sha256_of(path)
    content = read_content(path)
    try:
        named = recognise(content.state, content.background)
    except WeightError as error:
        raise WeightError(error.what, where=description, todo=error.todo) from None
    source = WeightSource(
        state=named.state,
        info=None,
        digest=digest,
        description=description,
        norm_eps=NORM_EPS.get(digest[:8], named.norm_eps),
        format=content.format,
        program=named.program,
        conventions=named.conventions,
        dropped=named.dropped,
    )
    return source if content.record is None else _converted(source, content.record)


def _converted(source: WeightSource, text: str) -> WeightSource:
    """A file with the record that `convert` and nobody else puts into it."""
    record = read_record(text, source.description)
    if isinstance(record, BackboneInfo):
        return replace(
            source,
            program=record.program,
            conventions=record.conventions,
            norm_eps=record.norm_eps,
        )
    config = config_of(record, source.description)
    return replace(
        source,
        info=record,
        program="raymrcnn",
        norm_eps=config.frozen_norm_eps,
        conventions=(config.conventions,),
    )


def _from_folder(folder: Path) -> WeightSource:
    if (folder / rundir.CHECKPOINT_JSON).is_file():
        return _from_checkpoint(folder)
    last = folder / rundir.LAST
    if not last.is_file():
        raise WeightError(
            "holds no checkpoint",
            where=str(folder),
            todo="give the folder that `raymrcnn train` wrote, after its first checkpoint",
        )
    return _from_checkpoint(folder / last.read_text().strip())


def _from_uri(uri: str) -> WeightSource:
    """Of a run behind a URI; its `last` or `best`; a checkpoint; or a file.

    Raises:
        WeightError: nothing there, or not weights.
        DataError: the storage does not answer.
        OutputError: the disk of this machine refuses.
    """
    base, mark, query = uri.partition("?")
    run, name = f"{posixpath.dirname(base)}{mark}{query}", posixpath.basename(base)
    if storage.exists(storage.join(uri, rundir.CHECKPOINT_JSON)):
        return _of_copy(uri)
    if name in (rundir.LAST, rundir.BEST) and storage.exists(storage.join(run, rundir.RUN_JSON)):
        if not storage.exists(uri):
            raise WeightError("no such checkpoint yet", where=uri, todo="give the run itself")
        return _of_copy(storage.join(run, storage.read_text(uri).strip()))
    last = storage.join(uri, rundir.LAST)
    if storage.exists(last):
        return _of_copy(storage.join(uri, storage.read_text(last).strip()))
    if not storage.exists(uri):
        raise WeightError(
            "no such file, checkpoint or run with a checkpoint",
            where=uri,
            todo="give what `raymrcnn train --out URI` wrote, or a weight file",
        )
    with tempfile.TemporaryDirectory(prefix="raymrcnn-weights-") as spool:
        path = Path(spool, name)
        with rundir.disk_errors(spool):
            storage.download(uri, path)
        return _from_file(path, uri)


def _of_copy(checkpoint: str) -> WeightSource:
    found = _from_checkpoint(checkpoint_copy(checkpoint, (rundir.MODEL_FILE,)))
    step = int(storage.name_of(checkpoint).removeprefix("step-"))
    return replace(found, description=f"{checkpoint.partition('?')[0]} (step {step})")


def _from_checkpoint(folder: Path) -> WeightSource:
    where = str(folder / rundir.CHECKPOINT_JSON)
    try:
        document = rundir.read_json(folder / rundir.CHECKPOINT_JSON)
    except DataError as error:
        raise WeightError(error.what, where=error.where) from None
    try:
        version, sealed = document["format"], document["files"][rundir.MODEL_FILE]
        info = info_from_json(document["model_info"])
        expected = (sealed["bytes"], sealed["sha256"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise WeightError(
            f"is not a checkpoint's manifest ({type(error).__name__}: {error})", where=where
        ) from None
    if version != FORMAT:
        raise WeightError(
            f"has format {version!r}, and {FORMAT} is known",
            where=where,
            todo="use the version of raymrcnn that wrote it",
        )
    path = folder / rundir.MODEL_FILE
    digest = sha256_of(path)
    if (path.stat().st_size, digest) != expected:
        raise WeightError(
            "is not the file that was saved: size or SHA-256 differ",
            where=str(path),
            todo="use another checkpoint of the run",
        )
    return WeightSource(
        state=read_state(path),
        info=info,
        digest=digest,
        description=f"{folder} (step {document.get('step')})",
        norm_eps=config_of(info, str(folder)).frozen_norm_eps,
        conventions=(config_of(info, str(folder)).conventions,),
    )


def absolute_source(source: str | None) -> str | None:
    """A source that does not depend on the current folder: workers run in folders of their own."""
    path = rundir.home_expanded(source) if source and not storage.is_uri(source) else None
    return str(path.absolute()) if path is not None and path.exists() else source
