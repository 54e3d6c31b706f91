"""The MLU cards of this host, and the one door to torch_mlu.

No function here initialises a device: a driver process asks, and may still fork its workers
afterwards. Every source (the driver's files, cnmon, /dev, neuware's folder) may be absent or say
nonsense: what cannot be told is None, and nothing raises.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raymrcnn.device import cambricon
from raymrcnn.device.cambricon import Card, compare_versions
from raymrcnn.device.child import run_for
from raymrcnn.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Card",
    "compare_versions",
    "device_count",
    "device_nodes",
    "fused_sgd",
    "host_cards",
    "is_installed",
    "load",
    "obstacle",
    "show_only",
    "versions",
    "visible_cards",
    "visible_devices",
    "why_unavailable",
]

ROOT = Path("/")
CNMON = "cnmon"
CNMON_TIMEOUT_S = 20.0
MIN_DRIVER = "4.20.6"
# In the order in which CNRT and torch_mlu heed them; the first that is set, even to "", decides
# (torch_mlu, mlu/__init__.py; older ones do not know the last).
VISIBLE_DEVICES = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
# In torch_mlu's present and former spelling.
ASYNC_ERROR_HANDLING = ("TORCH_CNCL_ASYNC_ERROR_HANDLING", "CNCL_ASYNC_ERROR_HANDLING")
LIBRARIES = ("cnnl", "cncl", "cnrt", "cndev", "cnlight")


def is_installed() -> bool:
    """Whether torch_mlu can be imported, without importing it."""
    if "torch_mlu" in sys.modules:
        return sys.modules["torch_mlu"] is not None
    return importlib.util.find_spec("torch_mlu") is not None


def device_nodes(root: Path = ROOT) -> tuple[int, ...]:
    """The numbers N of /dev/cambricon_devN, sorted."""
    try:
        names = os.listdir(root / "dev")
    except OSError:
        return ()
    found = (re.fullmatch(r"cambricon_dev([0-9]{1,6})", name) for name in names)
    return tuple(sorted(int(match[1]) for match in found if match))


def visible_devices() -> tuple[str, tuple[int, ...] | tuple[str, ...]] | None:
    """The variable that decides which cards this process sees, and those; None if none is set."""
    name = next((name for name in VISIBLE_DEVICES if name in os.environ), None)
    return None if name is None else (name, cambricon.parse_visible(os.environ[name]))


def device_count(root: Path = ROOT) -> int:
    """MLU devices that this process can use; 0 without torch_mlu or with too old a driver.

    Counted in /dev, as the variables for visible devices allow; torch_mlu is asked only where
    /dev shows none, or where the cards are named by UUID.
    """
    if not is_installed():
        return 0
    nodes, visible = device_nodes(root), visible_devices()
    if visible is not None and not visible[1]:
        return 0
    if nodes and _old_driver(_proc_cards(root)):
        return 0
    if not nodes or (visible is not None and isinstance(visible[1][0], str)):
        return _count_of_torch()[0]
    return len(_visible_nodes(nodes))


def host_cards(
    root: Path = ROOT,
    cnmon: str | None = CNMON,
    timeout_s: float = CNMON_TIMEOUT_S,
    *,
    thorough: bool = False,
) -> tuple[Card, ...]:
    """The cards of this host, whatever this process may use of them, sorted by index.

    Args:
        root: of the file system with /proc, /dev.
        cnmon: the program, a name or a path; None: do not start it.
        timeout_s: for each of its (at most three) runs; after one that hangs it is left alone.
        thorough: also ask for their health, which takes cnmon longer.
    """
    nodes = device_nodes(root)
    sources = [_proc_cards(root)]
    program = shutil.which(cnmon) if cnmon else None
    if program is not None:
        json_text = _run_cnmon(program, ["info", "-j"], timeout_s, "cnmon_info.json")
        sources.append(cambricon.parse_info_json(json_text or ""))
        table = None if json_text is None else _run_cnmon(program, [], timeout_s)
        sources.append(cambricon.parse_table(table or ""))
        known = cambricon.merge(sources, nodes)
        complete = known and all(c.model and c.memory_bytes and c.driver for c in known)
        if table is not None and (thorough or not complete):
            text = _run_cnmon(program, ["info"] if thorough else ["info", "-m"], timeout_s)
            sources.append(cambricon.parse_info_text(text or ""))
    return cambricon.merge(sources, nodes)


def visible_cards(
    root: Path = ROOT, cnmon: str | None = CNMON, timeout_s: float = CNMON_TIMEOUT_S
) -> tuple[Card, ...]:
    """Of `host_cards` those that this process sees; a container is told of all of its host."""
    nodes = device_nodes(root)
    seen = _visible_nodes(nodes)
    cards = host_cards(root, cnmon, timeout_s)
    return tuple(card for card in cards if not nodes or card.index in seen)


def versions(root: Path = ROOT, cnmon: str | None = CNMON) -> dict[str, str | None]:
    """Versions, without a leading v, of driver, cntoolkit, torch_mlu and Cambricon's libraries."""
    neuware = root / "usr/local/neuware"
    home = os.environ.get("NEUWARE_HOME")
    if home and root == ROOT:
        neuware = Path(home)
    drivers = {card.driver for card in _proc_cards(root)} - {None}
    if not drivers:
        drivers = {card.driver for card in host_cards(root, cnmon)} - {None}
    try:
        libraries = os.listdir(neuware / "lib64")
    except OSError:
        libraries = []
    return {
        "driver": drivers.pop() if len(drivers) == 1 else None,
        "cntoolkit": cambricon.parse_neuware_version(_read(neuware / "version.txt")),
        **{name: cambricon.library_version(name, libraries) for name in LIBRARIES},
        "torch_mlu": _torch_mlu_version(),
    }


def obstacle(root: Path = ROOT, cnmon: str | None = CNMON) -> str | None:
    """One clause that says what keeps this process from the cards; None if nothing is seen.

    Starts cnmon (a second or so): for a user who asks for the device, not for a count.
    """
    nodes, visible = device_nodes(root), visible_devices()
    of_cards = _counted(nodes)
    if not is_installed():
        return "torch_mlu is not installed" + (f", though /dev has {of_cards}" if nodes else "")
    if visible is not None and not visible[1]:
        name = visible[0]
        return f"{name}={os.environ[name]!r} hides every card"
    if not nodes:
        count, failure = _count_of_torch()
        if count:
            return None
        listed = len(_proc_cards(root))
        hint = f", though the driver lists {listed}: give the container its devices"
        return failure or "there is no /dev/cambricon_dev*" + (hint if listed else "")
    cards = host_cards(root, cnmon)
    if old := _old_driver(cards):
        return f"the driver is v{old}, and v{MIN_DRIVER} is the oldest that will do"
    usable = set(_visible_nodes(nodes))
    if not usable and visible is not None:
        name = visible[0]
        return f"{name}={os.environ[name]!r} names none of the {of_cards} in /dev"
    taken = [c for c in cards if c.index in usable and _is_taken(c)]
    if usable and len(taken) == len(usable):
        return f"every card ({len(taken)}) is in exclusive mode and taken by another process"
    return None


def fused_sgd() -> Callable[..., torch.optim.Optimizer] | None:
    """torch_mlu's SGD that updates all weights in one kernel; None where it has none."""
    try:
        optimizers = importlib.import_module("torch_mlu.optimizers")
    except ImportError:
        return None
    found: Callable[..., torch.optim.Optimizer] | None = getattr(optimizers, "FusedSGD", None)
    return found


def show_only(unit: int) -> int | str:
    """Make one of the cards that this process would see the only one; before torch_mlu is used.

    Args:
        unit: which of them, counted from 0.

    Returns:
        The number or UUID of the card on its host.

    Raises:
        DeviceError: the process sees fewer cards.
    """
    visible = visible_devices()
    card: int | str = unit
    # Ray empties CUDA_VISIBLE_DEVICES for workers without a GPU: that says nothing about MLUs.
    if visible is not None and (visible[1] or visible[0] != "CUDA_VISIBLE_DEVICES"):
        name, cards = visible
        if unit >= len(cards):
            raise DeviceError(
                f"{name}={os.environ[name]!r} shows {_counted(cards)}, and Ray gave card {unit}",
                where=socket.gethostname(),
                todo="start Ray on this node with as many MLU as it shows cards",
            )
        card = cards[unit]
    os.environ["MLU_VISIBLE_DEVICES"] = str(card)
    os.environ.pop("CN_VISIBLE_DEVICES", None)  # it would win
    return card


def load() -> None:
    """Import torch_mlu, which registers `torch.mlu` and the process group `cncl`.

    Raises:
        DeviceError: it is not installed, or cannot be used.
    """
    # Off by default: the peers of a worker that died would wait in a collective call for ever.
    for name in ASYNC_ERROR_HANDLING:
        os.environ.setdefault(name, "1")
    try:
        importlib.import_module("torch_mlu")
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DeviceError(
            f"torch_mlu cannot be used ({reason})",
            where=socket.gethostname(),
            todo="install the torch_mlu that matches this torch and driver",
        ) from None


def why_unavailable(root: Path = ROOT, cnmon: str | None = CNMON) -> str:
    """One clause that says why `device_count` is 0."""
    return obstacle(root, cnmon) or "torch_mlu sees no card"


def _counted(cards: Sequence[object]) -> str:
    return f"{len(cards)} card{'' if len(cards) == 1 else 's'}"


def _visible_nodes(nodes: tuple[int, ...]) -> tuple[int, ...]:
    """Of the nodes those that this process sees; cards named by UUID count as seen.

    A device number is a place in the list of nodes; the first beyond it ends the set.
    """
    visible = visible_devices()
    if visible is None:
        return nodes
    seen: list[int] = []
    for device in visible[1]:
        if isinstance(device, str):
            return nodes
        if device >= len(nodes):
            break
        seen.append(nodes[device])
    return tuple(seen)


def _count_of_torch() -> tuple[int, str | None]:
    """torch_mlu's own count, and what went wrong.

    By libcndev.so: the count that it makes otherwise would initialise the driver, and poison forks.
    """
    name = "PYTORCH_CNDEV_BASED_MLU_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import torch
        import torch_mlu  # noqa: F401  (registers torch.mlu)

        return int(torch.mlu.device_count()), None  # type: ignore[attr-defined]
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return 0, f"torch_mlu cannot be used ({reason})"
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _proc_cards(root: Path) -> tuple[Card, ...]:
    mlus = root / "proc/driver/cambricon/mlus"
    try:
        folders = sorted(os.listdir(mlus))
    except OSError:
        return ()
    cards = []
    for name in folders:
        card = cambricon.parse_information(_read(mlus / name / "information"), name)
        if card.model is None and card.driver is None and card.index is None:
            continue
        mode = cambricon.parse_exclusive_mode(_read(mlus / name / "exclusive_mode"))
        cards.append(dataclasses.replace(card, compute_mode=mode))
    return tuple(cards)


def _old_driver(cards: tuple[Card, ...]) -> str | None:
    """The version of a driver that is too old, if one is told."""
    told = (card.driver for card in cards if card.driver)
    return next((v for v in told if compare_versions(v, MIN_DRIVER) == -1), None)


def _is_taken(card: Card) -> bool:
    return card.compute_mode == "Exclusive" and bool(set(card.pids or ()) - {os.getpid()})


def _torch_mlu_version() -> str | None:
    try:
        return importlib.metadata.version("torch_mlu")
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get("torch_mlu"), "__version__", None)
        return str(version) if version else None


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[: 2**20].decode(errors="replace")
    except OSError:
        return ""


def _run_cnmon(
    program: str, words: list[str], timeout_s: float, output: str = "stdout"
) -> str | None:
    """What cnmon printed, or the file that it wrote; None if it hangs or cannot be started.

    It runs in a folder of its own, into which `info -j` writes.
    """
    with tempfile.TemporaryDirectory(prefix="cnmon-", ignore_cleanup_errors=True) as folder:
        env = {**os.environ, "LC_ALL": "C"}
        try:
            with open(Path(folder, "stdout"), "wb") as stdout:
                code = run_for([program, *words], timeout_s, stdout, env, folder)
        except OSError:
            return None
        if code is None:
            return None
        return _read(Path(folder, output))
