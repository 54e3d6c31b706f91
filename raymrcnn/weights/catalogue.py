"""Weights that other programs published: their names, their addresses, what is known of them.

Files are kept in one folder, `RAYMRCNN_WEIGHTS` or `~/.cache/raymrcnn/weights`, where their names
alone find them; torchvision's are kept where torchvision keeps them. Refuses to fetch by itself:
`fetch_weights` is asked to.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torchvision.models import get_weight

from raymrcnn.download import Checks, download, mirrored, text_at
from raymrcnn.errors import FetchError, WeightError

# Detectron's and detectron2's files. Sources: maskrcnn_benchmark/config/paths_catalog.py, and
# detectron2's MODEL_ZOO.md.
_FACEBOOK = "https://dl.fbaipublicfiles.com"
_TRAINED = "coco_2014_train%3Acoco_2014_valminusminival/generalized_rcnn/model_final.pkl"
# Beside Detectron's files stands their MD5. Source: detectron/utils/io.py, _get_reference_md5sum.
_MD5 = ".md5sum"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file of weights.

    Args:
        name: here.
        program: that made it.
        what: it holds.
        url: where it was published.
        file: its name on the disk.
        sha256: the digits of its SHA-256 that were published; empty: none.
        md5_url: where its MD5 is; empty: nowhere.
    """

    name: str
    program: str
    what: str
    url: str
    file: str
    sha256: str = ""
    md5_url: str = ""

    @property
    def check(self) -> str:
        """What was published to check it with; the size is the server's word."""
        if self.sha256:
            return "SHA-256"
        return "MD5" if self.md5_url else "size"


def weights_folder() -> Path:
    """Where fetched files are kept."""
    chosen = os.environ.get("RAYMRCNN_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "raymrcnn" / "weights"


def published() -> tuple[Published, ...]:
    """All that is known, those of the reference first."""
    return (*_maskrcnn_benchmark(), *_detectron(), *_detectron2(), *_torchvision())


def published_named(name: str) -> Published | None:
    """The entry of that name, without regard to case."""
    return next((p for p in published() if p.name.lower() == name.lower()), None)


def place_of(entry: Published, folder: Path | None = None) -> Path:
    """Where the file is, or would be."""
    if folder is not None:
        return folder / entry.file
    if entry.program == "torchvision":
        return Path(torch.hub.get_dir()) / "checkpoints" / entry.file
    return weights_folder() / entry.file


def fetch_weights(
    name: str,
    folder: Path | None = None,
    mirror: str | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> tuple[Published, Path, bool]:
    """Bring a published file here, if it is not here.

    Args:
        name: of an entry.
        folder: to put it into; None: the usual one.
        mirror: see `raymrcnn.download.mirrored`; also RAYMRCNN_MIRROR.
        on_progress: see `raymrcnn.download.download`.

    Returns:
        The entry, the file, and whether it had to be fetched.

    Raises:
        WeightError: no such name.
        FetchError: see `raymrcnn.download.download`.
    """
    entry = published_named(name)
    if entry is None:
        raise unknown_name(name)
    mirror = mirror or os.environ.get("RAYMRCNN_MIRROR")
    path = place_of(entry, folder)
    md5 = _md5(mirrored(entry.md5_url, mirror)) if entry.md5_url and not path.exists() else ""
    checks = Checks(sha256=entry.sha256, md5=md5)
    return entry, path, download(mirrored(entry.url, mirror), path, checks, on_progress)


def unknown_name(name: str) -> WeightError:
    """One line that names the nearest."""
    near = difflib.get_close_matches(name, [p.name for p in published()], n=1, cutoff=0.5)
    return WeightError(
        "no published weights of that name",
        where=name,
        todo=(f"did you mean {near[0]}? " if near else "") + "`raymrcnn weights list` has all",
    )


def _md5(url: str) -> str:
    text = text_at(url).split()
    if not text or not re.fullmatch(r"[0-9a-fA-F]{32}", text[0]):
        raise FetchError("is no MD5", where=url, todo="try another --mirror")
    return text[0]


def _maskrcnn_benchmark() -> list[Published]:
    # They lie beside torchvision's own. Source: maskrcnn-benchmark's MODEL_ZOO.md.
    base = get_weight("ResNet50_Weights.IMAGENET1K_V1").url.rpartition("/")[0]
    return [
        Published(
            name=name,
            program="maskrcnn-benchmark",
            what=f"{backbone}-FPN, mask AP {ap}",
            url=f"{base}/maskrcnn/{name}.pth",
            file=f"{name}.pth",
        )
        for name, backbone, ap in (
            ("e2e_mask_rcnn_R_50_FPN_1x", "R-50", 34.2),
            ("e2e_mask_rcnn_R_101_FPN_1x", "R-101", 36.1),
            ("e2e_mask_rcnn_X_101_32x8d_FPN_1x", "X-101-32x8d", 37.8),
        )
    ]


def _detectron() -> list[Published]:
    base = f"{_FACEBOOK}/detectron"
    backbones = [
        Published(
            name=name,
            program="Caffe2",
            what=f"{backbone}, ImageNet",
            url=f"{base}/ImageNetPretrained/{folder}/{name}.pkl",
            file=f"{name}.pkl",
            md5_url=f"{base}/ImageNetPretrained/{folder}/{name}.pkl{_MD5}",
        )
        for name, folder, backbone in (
            ("R-50", "MSRA", "R-50"),
            ("R-101", "MSRA", "R-101"),
            ("X-101-32x8d", "20171220", "X-101-32x8d"),
        )
    ]
    models = [
        Published(
            name=f"detectron/{name}",
            program="Detectron",
            what=f"{backbone}-FPN",
            url=f"{base}/{number}/12_2017_baselines/{name}.yaml.{stamp}/output/train/{_TRAINED}",
            file=f"detectron-{name}.pkl",
            md5_url=f"{base}/{number}/12_2017_baselines/{name}.yaml.{stamp}/output/train/"
            f"{_TRAINED}{_MD5}",
        )
        for name, number, stamp, backbone in (
            ("e2e_mask_rcnn_R-50-FPN_1x", 35858933, "01_48_14.DzEQe4wC", "R-50"),
            ("e2e_mask_rcnn_R-101-FPN_1x", 35861795, "02_31_37.KqyEK4tT", "R-101"),
            ("e2e_mask_rcnn_X-101-32x8d-FPN_1x", 36761843, "06_35_59.RZotkLKI",
             "X-101-32x8d"),
        )
    ]  # fmt: skip
    return [*backbones, *models]


def _detectron2() -> list[Published]:
    return [
        Published(
            name=f"detectron2/{name}",
            program="detectron2",
            what=f"{backbone}-FPN",
            url=f"{_FACEBOOK}/detectron2/COCO-InstanceSegmentation/{name}/{number}/{file}",
            file=f"detectron2-{name}.pkl",
        )
        for name, number, file, backbone in (
            ("mask_rcnn_R_50_FPN_1x", 137260431, "model_final_a54504.pkl", "R-50"),
            ("mask_rcnn_R_50_FPN_3x", 137849600, "model_final_f10217.pkl", "R-50"),
            ("mask_rcnn_R_101_FPN_3x", 138205316, "model_final_a3ec72.pkl", "R-101"),
            ("mask_rcnn_X_101_32x8d_FPN_3x", 139653917, "model_final_2d9806.pkl",
             "X-101-32x8d"),
        )
    ]  # fmt: skip


def _torchvision() -> list[Published]:
    found = []
    for name, what in (
        ("MaskRCNN_ResNet50_FPN_Weights.COCO_V1", "R-50-FPN; the default"),
        ("MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1", "R-50-FPN, version 2"),
        ("ResNet18_Weights.IMAGENET1K_V1", "R-18, ImageNet"),
        ("ResNet50_Weights.IMAGENET1K_V1", "R-50, ImageNet"),
        ("ResNet50_Weights.IMAGENET1K_V2", "R-50, ImageNet"),
        ("ResNet101_Weights.IMAGENET1K_V1", "R-101, ImageNet"),
        ("ResNet101_Weights.IMAGENET1K_V2", "R-101, ImageNet"),
    ):
        url = get_weight(name).url
        file = Path(urlsplit(url).path).name
        found.append(
            Published(
                name=name,
                program="torchvision",
                what=what,
                url=url,
                file=file,
                sha256=Path(file).stem.rpartition("-")[2],
            )
        )
    return found
