"""Checks of the machine that this runs on. None starts Ray, and none touches a card."""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from raymrcnn import __version__
from raymrcnn.data.images import decode_image
from raymrcnn.device import mlu
from raymrcnn.device.cambricon import Card, compare_versions
from raymrcnn.doctor.findings import Finding, fail, guarded, ok, warn

# The reference's requirements; torch_mlu's by its package, the libraries by their files.
LEAST = {
    "driver": "4.20.6", "cntoolkit": "2.8.3", "cnnl": "1.10.2", "cncl": "1.1.1",
    "cnlight": "0.12.0", "torch_mlu": "1.3.0",
}  # fmt: skip
OPTIONAL = ("cnlight",)  # raymrcnn does not call it
LEAST_DOCKER = "18.00.0"
# torchvision's release for each of torch's: it calls what only that one has.
TORCHVISION = {f"2.{k}": f"0.{k + 15}" for k in range(4, 20)}
FREE_DISK, SHARED, FILES, DECODED_PER_S = 10 << 30, 1 << 30, 4096, 40.0
_DECODE_S = 0.4
_HIDING = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES")


def host_findings(
    root: Path = mlu.ROOT, cnmon: str | None = mlu.CNMON, folder: Path | None = None
) -> list[Finding]:
    """All of them.

    Args:
        root: of the file system with /proc, /dev and Cambricon's libraries.
        cnmon: the program, a name or a path; None: do not start it.
        folder: where data and runs are to lie; None: the current one.
    """
    place = folder or Path.cwd()
    return [
        *guarded("versions", _versions),
        *guarded("Cambricon", lambda: _cambricon(root, cnmon)),
        *guarded("visible devices", _visible),
        *guarded("JPEG decoding", _decoding),
        *guarded("disk", lambda: _disk(place)),
        *guarded("shared memory", _shared),
        *guarded("limits", _limits),
        *guarded("Docker", _docker),
        *guarded("token", _token),
    ]


def _versions() -> Iterator[Finding]:
    torch, vision, ray = (
        importlib.metadata.version(name) for name in ("torch", "torchvision", "ray")
    )
    found = f"raymrcnn {__version__}, torch {torch}, torchvision {vision}, Ray {ray}"
    wanted = TORCHVISION.get(".".join(torch.split(".")[:2]))
    if wanted is not None and not vision.startswith(f"{wanted}."):
        yield fail("versions", found, f"install torchvision {wanted}, which is made for this torch")
    else:
        yield ok("versions", found)


def _cambricon(root: Path, cnmon: str | None) -> Iterator[Finding]:
    cards, versions = mlu.host_cards(root, cnmon, thorough=True), mlu.versions(root, cnmon)
    if not cards and not any(versions.values()):
        yield ok("MLU cards", "none")
        return
    if not cards:
        yield fail("MLU cards", "libraries are here, cards are not",
                   "install the driver, or give the container its /dev/cambricon_dev*")  # fmt: skip
    for card in cards:
        yield _card(card)
    for name, least in LEAST.items():
        yield _version(name, versions.get(name), least)


def _card(card: Card) -> Finding:
    name = f"MLU card {card.index}"
    memory = f", {card.memory_bytes / 2**30:.0f} GiB" if card.memory_bytes else ""
    exclusive = (card.compute_mode or "Default").lower() != "default"
    what = f"{card.model or 'of unknown model'}{memory}{', exclusive mode' if exclusive else ''}"
    if card.has_node is False:
        return fail(name, f"{what}: the driver knows it, and /dev has no node of it",
                    f"give the container --device /dev/cambricon_dev{card.index}")  # fmt: skip
    if card.healthy is False:
        return fail(name, f"{what}: cnmon does not call it healthy",
                    "look at `cnmon info` and dmesg; a reset of the host may do")  # fmt: skip
    if exclusive and card.pids:
        pids = ", ".join(map(str, card.pids))
        return fail(name, f"{what}: taken by process {pids}",
                    "end that process, or take the card out by MLU_VISIBLE_DEVICES")  # fmt: skip
    if card.pids:
        return warn(name, f"{what}: {len(card.pids)} other processes use it",
                    "wait for them: memory and time are shared")  # fmt: skip
    if card.ecc is False:
        return warn(name, f"{what}: ECC is off", "switch it on: a flipped bit goes unnoticed")
    if card.model is None:
        return warn(name, what, "install cnmon, so that --accelerator MODEL and limits are known")
    return ok(name, f"{what}, healthy" if card.healthy else what)


def _version(name: str, found: str | None, least: str) -> Finding:
    if found is None:
        if name in OPTIONAL:
            return ok(name, "not here, and not needed")
        return fail(name, "not found", f"install {name} {least} or newer")
    if (compare_versions(found, least) or 0) < 0:
        return fail(name, f"{found}, older than {least}", f"install {name} {least} or newer")
    return ok(name, found)


def _visible() -> Iterator[Finding]:
    told = {name: os.environ[name] for name in _HIDING if name in os.environ}
    if len(told) == 2 and len(set(told.values())) == 2:
        yield warn("visible devices", ", ".join(f"{k}={v!r}" for k, v in told.items()),
                   "unset CN_VISIBLE_DEVICES, which would win")  # fmt: skip
    for name in (*told, "CUDA_VISIBLE_DEVICES"):
        if os.environ.get(name) == "":
            yield warn("visible devices", f"{name} is empty and hides every card", f"unset {name}")
            return
    if not told:
        yield ok("visible devices", "no card is hidden")
    elif len(told) == 1:
        yield ok("visible devices", ", ".join(f"{k}={v}" for k, v in told.items()))


def _decoding() -> Iterator[Finding]:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(buffer, "JPEG", quality=90)
    data, count, began = buffer.getvalue(), 0, time.perf_counter()
    while time.perf_counter() - began < _DECODE_S:
        decode_image(data)
        count += 1
    rate = count / (time.perf_counter() - began)
    what = f"{rate:.0f} images/s of 640x480 a core, {os.cpu_count()} cores"
    if rate < DECODED_PER_S:
        yield warn("JPEG decoding", what, "--decode-workers on other hosts, or fewer jobs here")
    else:
        yield ok("JPEG decoding", what)


def _disk(place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    what = f"{free / 2**30:.0f} GiB free at {place}"
    if free < FREE_DISK:
        yield warn("disk", what, "make room: a checkpoint of R-101 takes 0.5 GB, three are kept")
    else:
        yield ok("disk", what)
    if not os.access(place, os.W_OK):
        yield warn("disk", f"{place} cannot be written", "give an --out elsewhere")


def _shared() -> Iterator[Finding]:
    total = shutil.disk_usage("/dev/shm").total
    what = f"/dev/shm has {total / 2**30:.1f} GiB"
    if total < SHARED:
        yield fail("shared memory", what, "docker run --shm-size 16g, or --ipc host")
    else:
        yield ok("shared memory", what)


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        yield warn("limits", f"{soft} open files (at most {hard})", f"ulimit -n {FILES}")
    else:
        yield ok("limits", f"{soft} open files")


def _docker() -> Iterator[Finding]:
    program = shutil.which("docker")
    if program is None:
        yield ok("Docker", "not here, and not needed")
        return
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    if found is None:
        yield warn(
            "Docker", f"does not tell its version ({done.stdout.strip()[:60]})", "look at it"
        )
    elif (compare_versions(found[0], LEAST_DOCKER) or 0) < 0:
        yield warn("Docker", f"{found[0]}, older than {LEAST_DOCKER}", "install a newer one")
    else:
        yield ok("Docker", found[0])


def _token() -> Iterator[Finding]:
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        yield warn("token", "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports runs code as you",
                   "unset it")  # fmt: skip
        return
    given = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    path = Path(given).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        yield ok("token", "in RAY_AUTH_TOKEN, where Kubernetes puts what a Secret holds")
    elif "RAY_AUTH_TOKEN" in os.environ:
        yield warn("token", "in RAY_AUTH_TOKEN, where others may see it",
                   "put it into ~/.ray/auth_token, mode 0600")  # fmt: skip
    elif not path.exists():
        yield ok("token", f"{path} is not here; Ray, or cluster/head.sh, makes it")
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield warn("token", f"others may read {path}", f"chmod 600 {path}")
    else:
        yield ok("token", f"in {path}, yours alone")
