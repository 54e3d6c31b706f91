"""torchvision's published weights by name, from torch hub's cache or the network."""

from __future__ import annotations

import difflib
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from raymrcnn.download import Checks, download
from raymrcnn.errors import FetchError, WeightError
from raymrcnn.structures import Category

USEFUL = (
    "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
    "ResNet18_Weights.IMAGENET1K_V1",
    "ResNet50_Weights.IMAGENET1K_V1",
    "ResNet101_Weights.IMAGENET1K_V1",
)

# Frozen batch norms of torchvision had no eps before its 0.8.2 (pull request 2933); files that were
# trained before are run with 0. By the first digits of the file's SHA-256, which torchvision puts
# into the file's name. Source: models/detection/mask_rcnn.py, overwrite_eps.
NORM_EPS = {"bf2d0c1e": 0.0}


def fetch(name: str) -> Path:
    """The file of a weight name such as `MaskRCNN_ResNet50_FPN_Weights.COCO_V1`.

    Raises:
        WeightError: no such name, or the file is not here and cannot be fetched.
    """
    try:
        url = torchvision.models.get_weight(name).url
    except (ValueError, AttributeError, KeyError):
        near = difflib.get_close_matches(name, USEFUL, n=1, cutoff=0.5)
        raise WeightError(
            "torchvision has no weights of that name",
            where=name,
            todo=f"did you mean {near[0]}?" if near else f"known are {', '.join(USEFUL)}",
        ) from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        try:
            download(url, path, Checks(sha256=hash_prefix_of(path)))
        except FetchError as error:
            raise WeightError(
                error.what,
                where=name,
                todo=f"download {url} elsewhere and give that file, or put it at {path}",
            ) from None
    return path


def hash_prefix_of(path: Path) -> str:
    """The first digits of the SHA-256 of a published file, which stand in its name."""
    return path.stem.rpartition("-")[2]


def coco_categories() -> tuple[Category | None, ...]:
    """The categories of labels 1 to 90 of a 91-class COCO model; None for ids that COCO lacks."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return tuple(
        None if name == "N/A" else Category(id=i, name=name) for i, name in enumerate(names, 1)
    )
