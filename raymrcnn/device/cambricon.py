"""What the driver's and cnmon's texts say about MLU cards: text in, `Card` records out.

Pure functions: nothing here opens a file, starts a program or touches a device. None raises on
malformed, cut or contradicting text; what it does not tell is None.

Sources: the forms of `/proc/driver/cambricon` are those that Cambricon's kernel driver prints
(cndrv_proc.c); those of cnmon were read in published logs of drivers 4.20, 5.10 and 6.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

MIB = 2**20
_MODEL = re.compile(r"[A-Za-z][\w.]*\d[\w.]*(-[\w.]+)*")
_VERSION = re.compile(r"[vV]?(\d{1,6}(?:\.\d{1,6})+)")
_BUS_ID = re.compile(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")
_TOLD_NOTHING = {"", "n/a", "na", "unknown", "none", "not available", "mlu-cambricon"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One logical MLU device of a host; an MLU370-X8 board is two. What is not told is None."""

    index: int | None = None  # N of /dev/cambricon_devN, else cnmon's card number
    model: str | None = None  # "MLU370-X8"
    memory_bytes: int | None = None
    driver: str | None = None  # "5.10.13"
    compute_mode: str | None = None  # "Default", "Exclusive": one process alone may use the card
    ecc: bool | None = None
    pci_bus_id: str | None = None  # "0000:39:00.0", lower case
    uuid: str | None = None
    pids: tuple[int, ...] | None = None  # processes on it, in the numbers of the host; () if none
    healthy: bool | None = None  # as cnmon judges device and driver
    has_node: bool | None = None  # whether its /dev/cambricon_devN is here; a container has some


def parse_information(text: str, folder: str = "") -> Card:
    """A card from `/proc/driver/cambricon/mlus/FOLDER/information`; FOLDER is the PCI address."""
    told: dict[str, str] = {}
    for line in _whole_lines(text):
        key, _, value = line.partition(":")
        told.setdefault(_plain(key), value.strip())
    inode = re.fullmatch(r"/dev/cambricon_dev(\d{1,6})", told.get("deviceinodepath", ""))
    return Card(
        index=int(inode[1]) if inode else None,
        model=_model(told.get("devicename", "")),
        driver=_version(told.get("driverversion", "")),
        pci_bus_id=_bus_id(folder),
    )


def parse_exclusive_mode(text: str) -> str | None:
    """The compute mode from the driver's file `exclusive_mode`, which holds 0 or 1."""
    return {"0": "Default", "1": "Exclusive"}.get(text.strip())


def parse_info_json(text: str) -> tuple[Card, ...]:
    """The cards of the `cnmon_info.json` that `cnmon info -j` writes."""
    try:
        whole = json.loads(text)
        cards = whole.get("CnmonInfo") if isinstance(whole, dict) else None
        trees = [list(_json_pairs(card)) for card in cards] if isinstance(cards, list) else []
    except (ValueError, RecursionError):
        return ()
    return tuple(card for card in map(_from_pairs, trees) if card != Card())


def parse_info_text(text: str) -> tuple[Card, ...]:
    """The cards of the text of `cnmon info` or `cnmon info -m`: "key : value" under "Card N"."""
    cards = []
    for block in re.split(r"(?m)^(?=[ \t]*Card[ \t]+\d+[ \t:]*$)", "\n".join(_whole_lines(text))):
        head, *lines = block.strip("\n").split("\n")
        number = re.fullmatch(r"[ \t]*Card[ \t]+(\d{1,6})[ \t:]*", head)
        if number is None:
            continue
        pairs = [("", "cardnum", number[1])]
        section = ""
        for line in lines:
            key, colon, value = (part.strip() for part in line.partition(":"))
            if colon and not value:
                section = _plain(key)
            if colon:
                pairs.append((section, _plain(key), value))
        cards.append(_from_pairs(pairs))
    return tuple(cards)


def parse_table(text: str) -> tuple[Card, ...]:
    """The cards of plain `cnmon`: boxes of two rows a card, and below them the processes.

    Driver 4.20 names the driver in each card's row and shows neither bus nor compute mode; later
    ones name it in the heading. A row that does not reach its right border is ignored.
    """
    rows = [line.strip() for line in _whole_lines(text)]
    rows = [row for row in rows if row.startswith(("|", "+")) and row.endswith(("|", "+"))]
    heading = next((row for row in rows if "CNMON" in row), "")
    driver = re.search(r"Driver\s+(\S+)", heading)
    has_ecc = any("Ecc-Error" in row for row in rows)
    has_mode = any("Compute-Mode" in row for row in rows)
    running = _running(rows)
    cards: list[Card] = []
    for row, below in zip_longest(rows, rows[1:], fillvalue=""):
        if "Processes:" in row:
            break
        first, second = _cells(row), _cells(below)
        name = re.fullmatch(r"(\d{1,6})\s+\S+\s+(\S+)\s+v\S+", first[0])
        if name is None:
            continue
        own_driver = re.search(r"\s(v\d\S*)$", first[1])
        memory = re.search(r"/\s*(\d+ MiB)$", second[1])
        card = Card(
            index=int(name[1]),
            model=_model(name[2]),
            memory_bytes=_bytes(memory[1]) if memory else None,
            driver=_version((own_driver or driver or ("", ""))[1]),
            compute_mode=_mode(re.split(r"\s{2,}", second[2])[-1]) if has_mode else None,
            ecc=_ecc(first[2].split()[-1]) if has_ecc and first[2] else None,
            pci_bus_id=_bus_id(first[1]),
        )
        if running is not None:
            card = replace(card, pids=tuple(sorted(running.get(int(name[1]), ()))))
        cards.append(card)
    return tuple(cards)


def merge(sources: Iterable[Sequence[Card]], nodes: Sequence[int] = ()) -> tuple[Card, ...]:
    """One record a card from several sources, which may each know a part.

    Records are of one card if their bus addresses agree or, where one has none, their indexes.
    The first index told for a card stays; of any other field, told differently, nothing is known.
    A node without a record is a card too. Sorted by index; no index appears twice.
    """
    groups: list[list[Card]] = []
    for source in sources:
        taken: set[int] = set()
        before = [list(group) for group in groups]
        surest_first = sorted(
            source, key=lambda card: -max((_likeness(g, card) for g in before), default=0)
        )
        for card in surest_first:
            likeness = [0 if at in taken else _likeness(g, card) for at, g in enumerate(groups)]
            best = max(range(len(groups)), key=lambda at: likeness[at], default=0)
            if not groups or likeness[best] == 0:
                best = len(groups)
                groups.append([])
            groups[best].append(card)
            taken.add(best)
    cards: list[Card] = []
    for group in groups:
        card = _agreed(group)
        if card.index is not None and card.index in {other.index for other in cards}:
            card = replace(card, index=None)
        cards.append(replace(card, has_node=None if card.index is None else card.index in nodes))
    known = {card.index for card in cards}
    cards += [Card(index=node, has_node=True) for node in nodes if node not in known]
    return tuple(
        sorted(cards, key=lambda c: (c.index is None, c.index or 0, c.pci_bus_id or "", str(c)))
    )


def parse_visible(value: str) -> tuple[int, ...] | tuple[str, ...]:
    """The devices that a visible-devices variable names, as torch_mlu and CNRT read it.

    Numbers up to the first word that is none, or UUIDs; a repeat gives an empty set.
    """
    words = value.split(",")
    if "-" in value and len(value) >= 36:
        uuids: list[str] = []
        for word in words:
            if word in uuids:
                return ()
            if "-" not in word:
                break
            uuids.append(word)
        return tuple(uuids)
    numbers: list[int] = []
    for word in (word.strip() for word in words):
        if not re.fullmatch(r"[0-9]{1,9}", word):
            break
        if int(word) in numbers:
            return ()
        numbers.append(int(word))
    return tuple(numbers)


def compare_versions(one: str, other: str) -> int | None:
    """-1, 0 or 1 as `one` is older than, equal to or newer than `other`; None if not versions.

    Only the leading numbers count: "v5.10.13" is newer than "5.9", "1.22.2-torch2.1" is "1.22.2".
    """
    found = [re.match(r"\s*[vV]?(\d{1,9}(?:\.\d{1,9})*)", text) for text in (one, other)]
    left, right = ([int(part) for part in m[1].split(".")] if m else [] for m in found)
    if not left or not right:
        return None
    length = max(len(left), len(right))
    left, right = (parts + [0] * (length - len(parts)) for parts in (left, right))
    return (left > right) - (left < right)


def parse_neuware_version(text: str) -> str | None:
    """The version from neuware's version.txt: "Neuware Version 3.9.0"."""
    found = re.search(r"(?i)version\s*:?\s*(\S+)", text)
    return _version(found[1]) if found else None


def library_version(name: str, file_names: Iterable[str]) -> str | None:
    """The most exact version among the names `lib<name>.so.<version>`; of several, the newest."""
    form = re.compile(rf"lib{re.escape(name)}\.so\.(\d{{1,9}}(?:\.\d{{1,9}})*)")
    versions = [m[1] for m in map(form.fullmatch, file_names) if m]
    return max(
        versions,
        key=lambda v: (v.count("."), [int(part) for part in v.split(".")]),
        default=None,
    )


def _whole_lines(text: str) -> list[str]:
    """Lines that end in a line break: the last of a cut text may end in half a number."""
    return [line.rstrip("\r\n") for line in text.splitlines(keepends=True) if line[-1] in "\r\n"]


def _cells(row: str) -> list[str]:
    cells = [cell.strip() for cell in row[1:-1].split("|")]
    return cells if row.startswith("|") and len(cells) == 3 else ["", "", ""]


def _running(rows: list[str]) -> dict[int, set[int]] | None:
    """PIDs by card from the table of processes; None where it is absent or cut."""
    start = next((at for at, row in enumerate(rows) if "Processes:" in row), len(rows))
    table = rows[start + 1 :]
    if not any(row.startswith("+-") for row in table):
        return None
    found: dict[int, set[int]] = {}
    for row in table:
        process = re.match(r"\|\s+(\d{1,6})\s+\S+\s+(\d{1,9})\s", row)
        if process:
            found.setdefault(int(process[1]), set()).add(int(process[2]))
    return found


def _json_pairs(tree: Any, section: str = "", key: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(tree, dict):
        yield section, key, ""
        for name, value in tree.items():
            yield from _json_pairs(value, key or section, _plain(name))
    elif isinstance(tree, list):
        yield section, key, ""
        for value in tree:
            yield from _json_pairs(value, section, key)
    else:
        yield section, key, tree


def _from_pairs(pairs: list[tuple[str, str, Any]]) -> Card:
    """A card from (section, key, value); names without case, blanks and signs."""

    def told(key: str) -> Any:
        return next((v for _, k, v in pairs if k == key and v not in ("", None)), None)

    memory = next((v for s, k, v in pairs if k == "total" and s.startswith("physicalmem")), None)
    driver_keys = ("driver", "driverversion")  # "Driver : Running", a health, is no version
    pci = [
        _hex(next((v for s, k, v in pairs if s == "pci" and k in names), None))
        for names in (("domainid",), ("bus", "busnum"), ("device",), ("function",))
    ]
    domain, bus, device, function = (f"{part:x}" if part is not None else "?" for part in pci)
    eccs = [v for s, k, v in pairs if k == "ddreccerrcount"]
    pids = {int(v) for _, k, v in pairs if k == "pid" and _is_number(v)}
    lists_processes = any(k == "processes" for _, k, _ in pairs)
    number = told("cardnum")
    uuid = told("uuid")
    return Card(
        index=int(number) if _is_number(number) else None,
        model=_model(told("productname")),
        memory_bytes=_bytes(memory),
        driver=next(filter(None, (_version(v) for _, k, v in pairs if k in driver_keys)), None),
        compute_mode=_mode(told("computemode")),
        ecc=_ecc(eccs[0]) if eccs else None,
        pci_bus_id=_bus_id(f"{domain}:{bus}:{device}.{function}"),
        uuid=uuid if isinstance(uuid, str) and re.fullmatch(r"[\w-]{8,64}", uuid) else None,
        healthy=_healthy({k: _text(v).lower() for s, k, v in pairs if s == "healthstate"}),
        pids=tuple(sorted(pids)) if lists_processes else None,
    )


def _likeness(group: list[Card], card: Card) -> int:
    """3 if bus and index agree, 2 if the bus does, 1 if the index does and a bus is missing."""
    buses = {c.pci_bus_id for c in group} - {None}
    same_index = card.index is not None and card.index in {c.index for c in group}
    if card.pci_bus_id is None or not buses:
        return int(same_index)
    return (2 + int(same_index)) if card.pci_bus_id in buses else 0


def _agreed(group: list[Card]) -> Card:
    values: dict[str, Any] = {}
    for field in fields(Card):
        told = [v for v in (getattr(card, field.name) for card in group) if v is not None]
        if field.name == "pids":  # read at several moments
            values["pids"] = tuple(sorted(set().union(*told))) if told else None
        elif field.name == "index":
            values["index"] = told[0] if told else None
        elif field.name == "model":  # "MLU370" is less exact than "MLU370-X8", not another
            longest = max(told, key=len, default=None)
            agree = all(f"{longest}-".startswith(f"{name}-") for name in told)
            values["model"] = longest if agree else None
        else:
            values[field.name] = told[0] if told and len(set(told)) == 1 else None
    return Card(**values)


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(key).lower())


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,9}", str(value)) is not None


def _text(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    return "" if text.lower() in _TOLD_NOTHING else text


def _model(value: Any) -> str | None:
    text = _text(value)
    return text if _MODEL.fullmatch(text) else None


def _version(value: Any) -> str | None:
    found = _VERSION.fullmatch(_text(value))
    return found[1] if found else None


def _mode(value: Any) -> str | None:
    """Exclusive in all its spellings ("Exclusive_Process") is "Exclusive"."""
    text = _text(value)
    if text.lower().startswith("exclusive"):
        return "Exclusive"
    return text if re.fullmatch(r"[A-Za-z][\w -]*", text) else None


def _ecc(value: Any) -> bool | None:
    """A count of errors, or a list of them, is kept only while ECC is on; off shows N/A."""
    text = str(value).strip().lower()
    if text in ("n/a", "off", "disable", "disabled"):
        return False
    return True if _is_number(text) or text in ("", "on", "enable", "enabled") else None


def _healthy(told: dict[str, str]) -> bool | None:
    """Whether the device is good and its driver runs; of what is told neither way, nothing."""
    states = [told.get("device"), told.get("driver")]
    if not any(states):
        return None
    return all(state in (None, "", "good", "running") for state in states)


def _bytes(value: Any) -> int | None:
    """Bytes from "23374 MiB"; a bare number, as in the JSON, is in MiB."""
    found = re.fullmatch(r"(\d{1,9})(?:\.0+)?\s*(?:MiB|MB)?", str(value).strip())
    return (int(found[1]) * MIB or None) if found else None


def _hex(value: Any) -> int | None:
    """A part of a PCI address: digits in a text are hexadecimal, a number is itself."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 2**32 else None
    text = value.strip() if isinstance(value, str) else ""
    return int(text, 16) if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,8}", text) else None


def _bus_id(text: str) -> str | None:
    found = _BUS_ID.fullmatch(text.strip())
    if found is None:
        return None
    domain, bus, device, function = (int(part or "0", 16) for part in found.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"
