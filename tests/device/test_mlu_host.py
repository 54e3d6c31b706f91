"""What a host tells about its MLU cards, from whole, cut, mangled, missing and lying sources."""

from __future__ import annotations

import json
import os
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.device import cambricon, mlu
from raymrcnn.device.cambricon import MIB, Card

SAMPLES = Path(__file__).parent / "samples"
NO_CNMON = None
PARSERS: dict[str, Callable[[str], tuple[Card, ...]]] = {
    "table-4.20.txt": cambricon.parse_table,
    "table-5.10.13.txt": cambricon.parse_table,
    "table-5.10.22.txt": cambricon.parse_table,
    "info-m.txt": cambricon.parse_info_text,
    "info.txt": cambricon.parse_info_text,
    "cnmon_info.json": cambricon.parse_info_json,
    "information": lambda text: (cambricon.parse_information(text, "0000:39:00.0"),),
}


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def information(index: int, driver: str = "5.10.13", model: str = "MLU370-X8") -> str:
    text = sample("information").replace("cambricon_dev0", f"cambricon_dev{index}")
    return text.replace("v5.10.13", f"v{driver}").replace("MLU370-X8", model)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*mlu.VISIBLE_DEVICES, "NEUWARE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system without any card."""
    (tmp_path / "dev").mkdir()
    return tmp_path


def add_nodes(root: Path, *names: str | int) -> None:
    for name in names:
        (root / "dev" / (f"cambricon_dev{name}" if isinstance(name, int) else name)).touch()


def add_proc(root: Path, bus: str, text: str, exclusive: str = "0\n") -> None:
    folder = root / "proc/driver/cambricon/mlus" / bus
    folder.mkdir(parents=True)
    (folder / "information").write_text(text)
    (folder / "exclusive_mode").write_text(exclusive)


def make_cnmon(root: Path, table: str = "", info_json: str = "", info_m: str = "") -> str:
    """A cnmon that answers with these texts, and logs the words it was called with."""
    for name, text in (("table", table), ("json", info_json), ("info-m", info_m)):
        (root / name).write_text(text)
    program = root / "cnmon"
    program.write_text(
        f"""#!/bin/sh
echo "$PWD: $*" >> {root}/calls
case "$*" in
  "info -j") cp {root}/json cnmon_info.json;;
  "info -m") cat {root}/info-m;;
  "info") cat {SAMPLES}/info.txt;;
  "") cat {root}/table;;
esac
"""
    )
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """torch_mlu can be found, and it is a failure to import it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "torch_mlu.py").write_text("raise AssertionError('torch_mlu was imported')\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "torch_mlu", raising=False)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_mlu", None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """A torch_mlu that counts two devices and notes how it was asked to."""
    how: list[str | None] = []

    def count() -> int:
        how.append(os.environ.get("PYTORCH_CNDEV_BASED_MLU_CHECK"))
        return 2

    monkeypatch.setitem(sys.modules, "torch_mlu", types.ModuleType("torch_mlu"))
    monkeypatch.setattr(torch, "mlu", types.SimpleNamespace(device_count=count), raising=False)
    return how


# The parsers, one form each


def test_the_drivers_file_tells_model_driver_and_number() -> None:
    card = cambricon.parse_information(sample("information"), "0000:39:00.0")
    assert card == Card(index=0, model="MLU370-X8", driver="5.10.13", pci_bus_id="0000:39:00.0")


def test_the_drivers_file_of_an_unnamed_board_tells_no_model() -> None:
    assert cambricon.parse_information("Device name: mlu-cambricon\n") == Card()


def test_the_table_of_driver_4_20_has_the_driver_in_each_row_and_no_mode() -> None:
    cards = cambricon.parse_table(sample("table-4.20.txt"))
    first = Card(
        index=0, model="MLU370-X4", memory_bytes=23308 * MIB, driver="4.20.11", ecc=False, pids=()
    )
    assert cards == (first, replace(first, index=1, model="MLU370-S4"))


def test_the_two_devices_of_an_x8_board_are_two_cards() -> None:
    cards = cambricon.parse_table(sample("table-5.10.13.txt"))
    first = Card(
        index=0,
        model="MLU370-X8",
        memory_bytes=23374 * MIB,
        driver="5.10.13",
        compute_mode="Default",
        ecc=False,
        pci_bus_id="0000:39:00.0",
        pids=(),
    )
    assert cards == (first, replace(first, index=1, pci_bus_id="0000:3d:00.0"))


def test_the_table_of_later_drivers_tells_exclusive_mode_ecc_and_processes() -> None:
    first, second = cambricon.parse_table(sample("table-5.10.22.txt"))
    assert (first.compute_mode, first.ecc, first.pids) == ("Exclusive", True, (101934, 101935))
    assert (second.compute_mode, second.ecc, second.pids) == ("Default", True, ())
    assert first.driver == "5.10.31"
    assert first.memory_bytes == 20638 * MIB


def test_a_driver_older_than_its_cnmon_is_the_drivers_version() -> None:
    text = sample("table-5.10.13.txt").replace("CNMON v5.10.13", "CNMON v6.2.29 ")
    assert {card.driver for card in cambricon.parse_table(text)} == {"5.10.13"}


def test_hidden_numbers_in_a_table_are_not_told() -> None:
    text = sample("table-5.10.22.txt").replace("20638 MiB", "xxxxx MiB")
    assert {card.memory_bytes for card in cambricon.parse_table(text)} == {None}


def test_a_column_without_its_heading_tells_no_mode() -> None:
    text = sample("table-5.10.22.txt").replace("Compute-Mode", "Another-Name")
    assert {card.compute_mode for card in cambricon.parse_table(text)} == {None}


def test_a_row_broken_in_two_tells_nothing() -> None:
    text = sample("table-5.10.22.txt").replace("FULL        Exclu", "FULL        Exclu\n")
    first, second = cambricon.parse_table(text)
    assert (first.compute_mode, first.memory_bytes) == (None, None)
    assert second.compute_mode == "Default"


def test_info_m_tells_physical_memory_not_virtual() -> None:
    card = Card(index=0, model="MLU370-X8", memory_bytes=23374 * MIB, driver="5.10.26")
    assert cambricon.parse_info_text(sample("info-m.txt")) == (card, replace(card, index=1))
    turned = sample("info-m.txt").replace("    Physical Memory Usage", "    Some Memory Usage")
    assert {c.memory_bytes for c in cambricon.parse_info_text(turned)} == {None}


def test_info_tells_address_ecc_and_processes_and_takes_no_health_for_a_version() -> None:
    assert cambricon.parse_info_text(sample("info.txt")) == (
        Card(
            index=0,
            model="MLU370-X4",
            memory_bytes=23308 * MIB,
            driver="5.10.22",
            compute_mode="Default",
            ecc=False,
            pci_bus_id="0000:1a:00.0",
            uuid="77013006-2457-0000-0000-000000000000",
            pids=(101934,),
            healthy=True,
        ),
    )


@pytest.mark.parametrize(
    ("device", "driver", "healthy"),
    [("Good", "Running", True), ("Bad", "Running", False), ("Good", "Reset", False),
     ("N/A", "N/A", None), ("Good", "", True)],
)  # fmt: skip
def test_a_card_is_healthy_if_device_and_driver_are(
    device: str, driver: str, healthy: bool | None
) -> None:
    text = sample("info.txt").replace(": Good", f": {device}").replace(": Running", f": {driver}")
    assert [card.healthy for card in cambricon.parse_info_text(text)] == [healthy]


def test_json_tells_cards_by_number_with_address_and_uuid() -> None:
    cards = cambricon.parse_info_json(sample("cnmon_info.json"))
    assert [card.pci_bus_id for card in cards] == ["0000:39:00.0", "0000:3d:00.0"]
    assert cards[1] == Card(
        index=1,
        model="MLU370-X8",
        memory_bytes=23374 * MIB,
        pci_bus_id="0000:3d:00.0",
        uuid="00000000-0000-0000-0000-3d0000000000",
    )


@pytest.mark.parametrize("total", [23374, "23374", "23374 MiB", 23374.0])
def test_json_memory_may_be_a_number_or_a_text(total: object) -> None:
    text = json.dumps({"CnmonInfo": [{"CardNum": "3", "PhysicalMemUsage": {"Total": total}}]})
    assert cambricon.parse_info_json(text) == (Card(index=3, memory_bytes=23374 * MIB),)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "7", '{"CnmonInfo": 3}', '{"CnmonInfo": [null, 1, [], {}]}', "[" * 100_000],
)
def test_json_of_another_shape_tells_no_card(text: str) -> None:
    assert cambricon.parse_info_json(text) == ()


def test_json_values_of_wrong_kinds_are_not_told() -> None:
    wrong = {"CardNum": True, "ProductName": 7, "UUID": [1], "PCI": "39:00.0", "Driver": None}
    assert cambricon.parse_info_json(json.dumps({"CnmonInfo": [wrong]})) == ()


@pytest.mark.parametrize("name", PARSERS)
def test_a_text_cut_anywhere_tells_nothing_that_is_false(name: str) -> None:
    text, parse = sample(name), PARSERS[name]
    whole = {card.index: card for card in parse(text)}
    for end in range(len(text)):
        for card in parse(text[:end]):
            if card.index is None:
                assert name == "information"
            full = whole[0 if card.index is None else card.index]
            known = {k: v for k, v in vars(card).items() if v is not None}
            pids = known.pop("pids", ())
            assert known.items() <= vars(full).items(), (end, card)
            assert set(pids) <= set(full.pids or ())
            if name.startswith("table"):
                assert card.pids in (None, full.pids)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mangled_text_never_raises(name: str, data: st.DataObject) -> None:
    text = sample(name)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 1, 3, 40, 300])))
        patch = data.draw(
            st.one_of(
                st.text(max_size=6),
                st.sampled_from(
                    ["\n", "|", ":", "²", "٣", "N/A", "-1", "9" * 30, "null", "{", "["]
                ),
                st.just(text[start:end] * 2),
            )
        )
        text = text[:start] + patch + text[end:]
    for parse in PARSERS.values():
        cards = parse(text)
        merged = cambricon.merge([cards, parse(sample(name)), cards], nodes=(0, 1, 11))
        told = [card.index for card in merged if card.index is not None]
        assert told == sorted(set(told))
        assert {0, 1, 11} <= set(told)


# Several sources


def test_sources_complete_each_other() -> None:
    proc = Card(index=0, model="MLU370-X8", pci_bus_id="0000:39:00.0")
    table = Card(index=0, memory_bytes=5, pci_bus_id="0000:39:00.0", compute_mode="Default")
    plain = Card(index=0, driver="5.10.13")
    assert cambricon.merge([(proc,), (table,), (plain,)], [0]) == (
        replace(proc, memory_bytes=5, compute_mode="Default", driver="5.10.13", has_node=True),
    )


def test_of_what_sources_tell_differently_nothing_is_known() -> None:
    one = Card(index=0, model="MLU370-X8", driver="5.10.13", ecc=True)
    other = Card(index=0, model="MLU370-X4", driver="5.10.22", ecc=False)
    third = Card(index=0, model="MLU370-X8", driver="5.10.13")
    assert cambricon.merge([(one,), (other,), (third,)], []) == (Card(index=0, has_node=False),)


def test_a_less_exact_model_is_no_contradiction() -> None:
    cards = cambricon.merge([(Card(index=0, model="MLU370"),), (Card(index=0, model="MLU370-X8"),)])
    assert [card.model for card in cards] == ["MLU370-X8"]
    cards = cambricon.merge([(Card(index=0, model="MLU37"),), (Card(index=0, model="MLU370-X8"),)])
    assert [card.model for card in cards] == [None]


def test_the_address_tells_cards_apart_where_the_numbers_contradict() -> None:
    # A container: cnmon counts the card it was given from 0, the driver says that it is number 3.
    proc = tuple(Card(index=n, pci_bus_id=f"0000:0{n}:00.0") for n in range(4))
    inside = (Card(index=0, pci_bus_id="0000:03:00.0", memory_bytes=7),)
    cards = cambricon.merge([proc, inside], [3])
    assert [(c.index, c.memory_bytes, c.has_node) for c in cards] == [
        (0, None, False), (1, None, False), (2, None, False), (3, 7, True),
    ]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
def test_two_devices_behind_one_address_stay_two(turned: bool) -> None:
    board = tuple(Card(index=n, pci_bus_id="0000:39:00.0") for n in range(2))
    again = tuple(replace(card, memory_bytes=card.index) for card in board)
    cards = cambricon.merge([board, again[::-1] if turned else again])
    assert [(card.index, card.memory_bytes) for card in cards] == [(0, 0), (1, 1)]


def test_the_device_that_a_source_left_out_is_not_taken_for_its_neighbour() -> None:
    board = tuple(Card(index=n, pci_bus_id="0000:39:00.0", memory_bytes=n) for n in range(2))
    cards = cambricon.merge([(replace(board[0], ecc=True),), board[::-1]])
    assert [(c.index, c.memory_bytes, c.ecc) for c in cards] == [(0, 0, True), (1, 1, None)]


def test_one_number_for_two_addresses_is_given_once() -> None:
    cards = cambricon.merge(
        [(Card(index=0, pci_bus_id="0000:01:00.0"),), (Card(index=0, pci_bus_id="0000:02:00.0"),)]
    )
    assert [(c.index, c.pci_bus_id) for c in cards] == [(0, "0000:01:00.0"), (None, "0000:02:00.0")]


# The host


def test_a_host_without_anything_has_no_card(root: Path) -> None:
    assert mlu.host_cards(root, NO_CNMON) == ()
    assert mlu.host_cards(root / "absent", "no-such-cnmon") == ()


def test_nodes_from_ten_on_are_counted_and_other_nodes_are_not(root: Path) -> None:
    add_nodes(
        root, *range(12), "cambricon_ctl", "cambricon_ipcm0", "cambricon_dev", "cambricon_dev1a"
    )
    assert mlu.device_nodes(root) == tuple(range(12))
    cards = mlu.host_cards(root, NO_CNMON)
    assert cards == tuple(Card(index=n, has_node=True) for n in range(12))


def test_a_container_knows_the_models_of_its_own_cards_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, model in enumerate(("MLU370-S4", "MLU370-X8", "MLU370-X8")):
        add_proc(root, f"0000:3{index}:00.0", information(index, model=model))
    assert len(mlu.visible_cards(root, NO_CNMON)) == 3, "without /dev nothing says which"
    add_nodes(root, 1, 2)
    assert [card.index for card in mlu.visible_cards(root, NO_CNMON)] == [1, 2]
    assert {card.model for card in mlu.visible_cards(root, NO_CNMON)} == {"MLU370-X8"}
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "1")
    assert [card.index for card in mlu.visible_cards(root, NO_CNMON)] == [2]


def test_the_driver_alone_tells_model_and_mode(root: Path) -> None:
    add_nodes(root, 0, 1)
    add_proc(root, "0000:3d:00.0", information(1), exclusive="1\n")
    add_proc(root, "0000:39:00.0", information(0))
    first, second = mlu.host_cards(root, NO_CNMON)
    assert first == Card(
        index=0,
        model="MLU370-X8",
        driver="5.10.13",
        compute_mode="Default",
        pci_bus_id="0000:39:00.0",
        has_node=True,
    )
    assert second == replace(first, index=1, compute_mode="Exclusive", pci_bus_id="0000:3d:00.0")


def test_all_sources_together_tell_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_nodes(root, 0, 1)
    add_proc(root, "0000:39:00.0", information(0))
    add_proc(root, "0000:3d:00.0", information(1))
    cnmon = make_cnmon(root, sample("table-5.10.13.txt"), sample("cnmon_info.json"))
    here = root / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cards = mlu.host_cards(root, cnmon)
    told = [{k: v for k, v in vars(card).items() if k != "healthy"} for card in cards]
    assert [None in one.values() for one in told] == [False, False]
    assert [card.uuid[-12:] for card in cards if card.uuid] == ["390000000000", "3d0000000000"]
    assert list(here.iterdir()) == [], "cnmon writes its JSON where it is started"
    calls = (root / "calls").read_text().splitlines()
    assert [line.split(": ")[1] for line in calls] == ["info -j", ""], "info -m was not needed"
    assert not any(Path(line.split(":")[0]).exists() for line in calls)


def test_asked_to_be_thorough_it_tells_health(root: Path) -> None:
    add_nodes(root, 0)
    cnmon = make_cnmon(root, "cnmon: nonsense\n", "{", sample("info-m.txt"))
    (card,) = mlu.host_cards(root, cnmon, thorough=True)
    assert (card.model, card.healthy, card.has_node) == ("MLU370-X4", True, True)


def test_cnmon_info_m_fills_what_the_others_left_open(root: Path) -> None:
    cnmon = make_cnmon(root, "cnmon: nonsense\n", "{", sample("info-m.txt"))
    cards = mlu.host_cards(root, cnmon)
    assert [(c.index, c.model, c.memory_bytes) for c in cards] == [
        (0, "MLU370-X8", 23374 * MIB), (1, "MLU370-X8", 23374 * MIB),
    ]  # fmt: skip


def test_a_cnmon_that_hangs_is_given_up_once(root: Path) -> None:
    add_nodes(root, 0)
    program = root / "cnmon"
    program.write_text(f"#!/bin/sh\necho x >> {root}/calls\nsleep 60 &\nwait\n")
    program.chmod(0o755)
    start = time.monotonic()
    assert mlu.host_cards(root, str(program), timeout_s=0.5) == (Card(index=0, has_node=True),)
    assert time.monotonic() - start < 5
    assert (root / "calls").read_text() == "x\n"


@pytest.mark.parametrize("script", ["#!/no/such/shell\n", "", "#!/bin/sh\nexit 3\n"])
def test_a_cnmon_that_fails_tells_nothing(root: Path, script: str) -> None:
    program = root / "cnmon"
    program.write_text(script)
    program.chmod(0o755)
    assert mlu.host_cards(root, str(program)) == ()


def test_binary_noise_in_the_drivers_files_tells_nothing(root: Path) -> None:
    add_proc(root, "0000:39:00.0", "")
    (root / "proc/driver/cambricon/mlus/0000:39:00.0/information").write_bytes(bytes(range(256)))
    (root / "proc/driver/cambricon/mlus/stray").write_text("x")
    assert mlu.host_cards(root, NO_CNMON) == ()


# Versions


def test_versions_come_from_the_driver_and_neuwares_files(root: Path) -> None:
    add_proc(root, "0000:39:00.0", information(0))
    lib = root / "usr/local/neuware/lib64"
    lib.mkdir(parents=True)
    (lib.parent / "version.txt").write_text("Neuware Version 3.9.0\n")
    for name in ("cnnl.so", "cnnl.so.1", "cnnl.so.1.26.6", "cnnl_extra.so.9.9.9", "cncl.so.1.21.0"):
        (lib / f"lib{name}").touch()
    found = mlu.versions(root, NO_CNMON)
    assert found["driver"] == "5.10.13"
    assert found["cntoolkit"] == "3.9.0"
    assert (found["cnnl"], found["cncl"], found["cnrt"]) == ("1.26.6", "1.21.0", None)
    assert {"cnlight", "cndev", "torch_mlu"} <= set(found)


def test_neuware_may_lie_where_its_variable_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "version.txt").write_text("Neuware Version 3.15.7\n")
    monkeypatch.setattr(mlu, "ROOT", root)
    monkeypatch.setenv("NEUWARE_HOME", str(root))
    assert mlu.versions(root, NO_CNMON)["cntoolkit"] == "3.15.7"


def test_versions_of_an_empty_host_are_none(root: Path, not_installed: None) -> None:
    assert set(mlu.versions(root, NO_CNMON).values()) == {None}


def test_cards_that_name_two_drivers_leave_it_open(root: Path) -> None:
    add_proc(root, "0000:39:00.0", information(0, driver="5.10.13"))
    add_proc(root, "0000:3d:00.0", information(1, driver="5.10.22"))
    assert mlu.versions(root, NO_CNMON)["driver"] is None


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ("4.20.6", "4.20.11", -1),
        ("v5.10.13", "5.10.13", 0),
        ("5.10", "5.10.0", 0),
        ("5.10.0.1", "5.10", 1),
        ("1.22.2-torch2.1.0", "1.22.2", 0),
        ("1.33.1+torch2.11.0", "1.9", 1),
        ("", "1.0", None),
        ("1.0", "unknown", None),
    ],
)
def test_versions_compare_by_their_numbers(one: str, other: str, result: int | None) -> None:
    assert mlu.compare_versions(one, other) == result
    assert mlu.compare_versions(other, one) == (None if result is None else -result)


# What this process may use


def test_counting_neither_imports_torch_mlu_nor_starts_cnmon(root: Path, installed: None) -> None:
    add_nodes(root, *range(16))
    assert mlu.is_installed()
    assert mlu.device_count(root) == 16
    assert "torch_mlu" not in sys.modules


def test_nothing_is_counted_without_torch_mlu(root: Path, not_installed: None) -> None:
    add_nodes(root, 0)
    assert not mlu.is_installed()
    assert mlu.device_count(root) == 0


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"MLU_VISIBLE_DEVICES": "1,3"}, 2),
        ({"MLU_VISIBLE_DEVICES": " 1 , 3 "}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "", "MLU_VISIBLE_DEVICES": "0,1"}, 2),
        ({"MLU_VISIBLE_DEVICES": "0,1", "CN_VISIBLE_DEVICES": "2"}, 1),
        ({"MLU_VISIBLE_DEVICES": "0,1", "CN_VISIBLE_DEVICES": ""}, 0),
        ({"MLU_VISIBLE_DEVICES": "0,1,0"}, 0),
        ({"MLU_VISIBLE_DEVICES": "0,-1,2"}, 1),
        ({"MLU_VISIBLE_DEVICES": "-1"}, 0),
        ({"MLU_VISIBLE_DEVICES": "2,9,3"}, 1),
        ({"MLU_VISIBLE_DEVICES": "0,two,3"}, 1),
    ],
)
def test_visible_devices_are_heeded_as_torch_mlu_does(
    root: Path,
    installed: None,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    count: int,
) -> None:
    add_nodes(root, *range(4))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mlu.device_count(root) == count
    if count == 0:
        assert "VISIBLE_DEVICES=" in mlu.why_unavailable(root, NO_CNMON)


@pytest.mark.parametrize("before", [None, "0"])
def test_torch_mlu_is_asked_where_dev_shows_nothing_and_through_cndev(
    root: Path, asked: list[str | None], monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    name = "PYTORCH_CNDEV_BASED_MLU_CHECK"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    assert mlu.device_count(root) == 2
    assert asked == ["1"]
    assert os.environ.get(name) == before
    assert mlu.obstacle(root, NO_CNMON) is None


def test_uuids_are_left_to_torch_mlu(
    root: Path, asked: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nodes(root, 0, 1, 2)
    uuids = [f"{n:08d}-2457-0000-0000-000000000000" for n in range(2)]
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", ",".join(uuids))
    assert mlu.device_count(root) == 2
    assert asked == ["1"]
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", f"{uuids[0]},{uuids[0]}")
    assert mlu.device_count(root) == 0


@given(st.text(alphabet="0123456789,- aMLU²٣", max_size=50))
def test_any_visible_devices_variable_can_be_read(value: str) -> None:
    found = cambricon.parse_visible(value)
    assert len(set(found)) == len(found)


# Why not


def test_cards_without_torch_mlu_are_said(root: Path, not_installed: None) -> None:
    assert mlu.why_unavailable(root, NO_CNMON) == "torch_mlu is not installed"
    add_nodes(root, 0, 1)
    said = "torch_mlu is not installed, though /dev has 2 cards"
    assert mlu.why_unavailable(root, NO_CNMON) == said


def test_a_container_without_the_devices_is_said(
    root: Path, asked: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "mlu", types.SimpleNamespace(device_count=lambda: 0))
    assert mlu.why_unavailable(root, NO_CNMON) == "there is no /dev/cambricon_dev*"
    add_proc(root, "0000:39:00.0", information(0))
    assert "the driver lists 1" in mlu.why_unavailable(root, NO_CNMON)


def test_a_torch_mlu_that_cannot_be_loaded_is_said_and_counts_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch_mlu.py").write_text("raise ImportError('libcnrt.so: cannot open')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_mlu", raising=False)
    assert mlu.device_count(root) == 0
    assert "libcnrt.so: cannot open" in mlu.why_unavailable(root, NO_CNMON)


@pytest.mark.parametrize(("driver", "count"), [("4.20.5", 0), ("4.9.20", 0), ("4.20.6", 1)])
def test_a_driver_that_is_too_old_is_said_and_counts_none(
    root: Path, installed: None, driver: str, count: int
) -> None:
    add_nodes(root, 0)
    add_proc(root, "0000:39:00.0", information(0, driver=driver))
    assert mlu.device_count(root) == count
    old = f"the driver is v{driver}, and v4.20.6 is the oldest that will do"
    assert mlu.obstacle(root, NO_CNMON) == (None if count else old)


def test_cards_taken_in_exclusive_mode_are_said(
    root: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nodes(root, 0, 1)
    table = sample("table-5.10.22.txt")
    cnmon = make_cnmon(root, table)
    assert mlu.obstacle(root, cnmon) is None, "card 1 is free"
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "0")
    said = "every card (1) is in exclusive mode and taken by another process"
    assert mlu.obstacle(root, cnmon) == said
    monkeypatch.delenv("MLU_VISIBLE_DEVICES")
    monkeypatch.setattr(os, "getpid", lambda: 101934)
    taken = table.replace("FULL          Default", "FULL        Exclusive")
    taken = taken.replace("|  0     /   101935", "|  1     /   101935")
    assert mlu.obstacle(root, make_cnmon(root, taken)) is None, "one process is this one"
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert mlu.why_unavailable(root, make_cnmon(root, taken)) == said.replace("(1)", "(2)")
