"""Hosts with MLU cards, good and bad: what the driver, cnmon, /dev and neuware's folder show there.

Files in the forms of `tests/device/samples`. `command` runs a program where they lie over this
machine's own, in a mount namespace of its own: the program under test knows of no stand-in.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "device" / "samples"
# The cards' nodes beside the few that programs need, and the driver's folder over the kernel's.
_OVERLAY = """
set -e
root=$1; shift
mount -t tmpfs dev "$root/dev"
for name in null zero full random urandom tty; do
    : > "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/shm"; mount --bind /dev/shm "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
for node in $(cat "$root/nodes"); do : > "$root/dev/$node"; done
mount --rbind "$root/dev" /dev
mount --bind "$root/proc/driver" /proc/driver
exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class FakeCard:
    """One of a host's cards.

    Args:
        model: as the driver names it.
        driver: its version.
        exclusive: whether one process alone may use it.
        pid: of a process on it; 0: none.
        ecc: whether errors of its memory are corrected.
        health: of the device, in cnmon's word.
        node: whether /dev has it.
    """

    model: str = "MLU370-X8"
    driver: str = "5.10.13"
    exclusive: bool = False
    pid: int = 0
    ecc: bool = True
    health: str = "Good"
    node: bool = True


def why_not() -> str:
    """Why such a host cannot be entered here; empty where it can."""
    if os.geteuid() != 0:
        return "mount namespaces need root"
    if not Path("/proc/driver").is_dir():
        return "this kernel has no /proc/driver to lay cards over"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no mount namespaces here: {done.stderr.strip()}"


def write_host(root: Path, cards: Sequence[FakeCard], **libraries: str) -> None:
    """Lay out a host in an empty folder.

    Args:
        root: that folder.
        cards: in the order of their numbers.
        libraries: versions that are not the usual ones, of cntoolkit, torch_mlu, cnnl, cncl.
    """
    versions = {"cntoolkit": "3.9.0", "torch_mlu": "1.22.2", "cnnl": "1.25.1", "cncl": "1.15.0"}
    versions |= libraries
    (root / "dev").mkdir(parents=True)
    kept = [k for k, card in enumerate(cards) if card.node]
    (root / "nodes").write_text("\n".join(f"cambricon_dev{k}" for k in kept))
    for k, card in enumerate(cards):
        folder = root / "proc/driver/cambricon/mlus" / f"{_bus(k)}"
        folder.mkdir(parents=True)
        text = (SAMPLES / "information").read_text().replace("cambricon_dev0", f"cambricon_dev{k}")
        text = text.replace("v5.10.13", f"v{card.driver}").replace("MLU370-X8", card.model)
        (folder / "information").write_text(text)
        (folder / "exclusive_mode").write_text(f"{int(card.exclusive)}\n")
    _write_cnmon(root, cards)
    neuware = root / "neuware"
    (neuware / "lib64").mkdir(parents=True)
    (neuware / "version.txt").write_text(f"Neuware Version {versions['cntoolkit']}\n")
    for name in ("cnnl", "cncl"):
        (neuware / "lib64" / f"lib{name}.so.{versions[name]}").touch()
    package = root / "site" / f"torch_mlu-{versions['torch_mlu']}.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch_mlu\nVersion: {versions['torch_mlu']}\n"
    )


def environment(root: Path, base: dict[str, str]) -> dict[str, str]:
    """Of a process on that host."""
    path = os.pathsep.join(filter(None, [str(root / "site"), base.get("PYTHONPATH", "")]))
    kept = {k: v for k, v in base.items() if not k.endswith("VISIBLE_DEVICES")}
    return {
        **kept, "PYTHONPATH": path, "NEUWARE_HOME": str(root / "neuware"),
        "PATH": f"{root / 'bin'}{os.pathsep}{base['PATH']}",
    }  # fmt: skip


def command(root: Path, *words: object) -> list[str]:
    """A command line, to be run on that host."""
    return ["unshare", "--mount", "bash", "-c", _OVERLAY, "host", str(root), *map(str, words)]


def _bus(k: int) -> str:
    return f"0000:{0x39 + k:02x}:00.0"


def _write_cnmon(root: Path, cards: Sequence[FakeCard]) -> None:
    (root / "bin").mkdir()
    table, info = root / "table", root / "info"
    table.write_text(_table(cards))
    info.write_text("".join(_info(k, card) for k, card in enumerate(cards)))
    program = root / "bin" / "cnmon"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in "info -j") echo nonsense > cnmon_info.json;; info) cat {info};; '
        f'"") cat {table};; esac\n'
    )
    program.chmod(0o755)


def _table(cards: Sequence[FakeCard]) -> str:
    """Plain `cnmon`, as of driver 5.10.22."""
    lines = (SAMPLES / "table-5.10.22.txt").read_text().splitlines()
    head, processes = lines[1:7], lines[14:18]
    head[1] = head[1].replace("v5.10.31", f"v{cards[0].driver}".ljust(8))
    rows = []
    for k, card in enumerate(cards):
        mode = "Exclusive" if card.exclusive else "Default"
        ecc = "0" if card.ecc else "N/A"
        rows += [
            f"| {k}     /   {card.model}    v1.1.6 |         {_bus(k).upper()} | 0% {ecc:>17} |",
            f"|  0%   34C        100 W/ 250 W |     0 MiB/ 23374 MiB | FULL {mode:>16} |",
            lines[9],
        ]
    used = [f"|  {k}     /   {card.pid:<6}  python train.py{'':32}1400 MiB |"
            for k, card in enumerate(cards) if card.pid]  # fmt: skip
    return "\n".join([*head, *rows, "", *processes, *used, lines[-1], ""])


def _info(k: int, card: FakeCard) -> str:
    """`cnmon info` of one card, as far as it adds to the table."""
    return (
        f"Card {k}\n    Product Name : {card.model}\n    Driver : v{card.driver}\n"
        f"    Health State :\n        Device : {card.health}\n        Driver : Running\n"
        "    Physical Memory Usage :\n        Total : 23374 MiB\n"
    )
