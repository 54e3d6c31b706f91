from __future__ import annotations

import json
from pathlib import Path

from raymrcnn.device.host import hardware, versions


def test_processor_memory_and_cards_are_read_from_the_system(tmp_path: Path) -> None:
    gpus = tmp_path / "proc/driver/nvidia/gpus"
    for k in range(2):
        (gpus / f"0000:0{k}:00.0").mkdir(parents=True)
        text = "Model: \t\t NVIDIA H100\nIRQ:   16\n"
        (gpus / f"0000:0{k}:00.0/information").write_text(text)
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       25165824 kB\nMemFree: 1 kB\n")
    found = hardware("cuda", tmp_path)
    assert found["cards"] == ["NVIDIA H100", "NVIDIA H100"]
    assert (found["cpu"], found["memory_gib"]) == ("Some CPU @ 3 GHz", 24.0)
    assert "cards" not in hardware("cpu", tmp_path)
    json.dumps(found)


def test_what_the_system_does_not_tell_is_left_out(tmp_path: Path) -> None:
    found = hardware("mlu", tmp_path)
    assert "memory_gib" not in found and "cards" not in found
    assert found["cpu"] and found["cpus"]


def test_this_host_is_known() -> None:
    assert hardware("cpu")["memory_gib"] > 0
    assert {"python", "torch", "raymrcnn", "ray"} <= set(versions())
