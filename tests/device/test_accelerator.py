"""Which card is taken, and what it is asked to do and cannot."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from raymrcnn.device import accelerator, mlu
from raymrcnn.device.accelerator import CPU, CUDA, MLU, ROWS, Accelerator, parse_dtype, pick
from raymrcnn.errors import ConfigError, DeviceError


def cards(monkeypatch: pytest.MonkeyPatch, **there: int) -> None:
    monkeypatch.setattr(accelerator, "num_cards", lambda row: {"cpu": 1, **there}.get(row.name, 0))


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"mlu": 1, "cuda": 8}, MLU),
        ({"mlu": 8}, MLU),
        ({"cuda": 1}, CUDA),
        ({}, CPU),
    ],
)
def test_auto_takes_the_best_that_is_present(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, int], chosen: Accelerator
) -> None:
    cards(monkeypatch, **there)
    assert pick("auto") is chosen
    assert pick() is chosen


def test_a_name_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, mlu=1, cuda=1)
    monkeypatch.setattr(mlu, "obstacle", lambda: None)
    assert [pick(name) for name in ("cpu", "cuda", "mlu")] == [CPU, CUDA, MLU]


def test_cards_that_cannot_be_used_are_refused_where_they_are_insisted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch, mlu=1)
    monkeypatch.setattr(mlu, "obstacle", lambda: "the driver is v4.1.0, and v4.20.6 is the oldest")
    with pytest.raises(DeviceError, match="--device: no mlu device: the driver is v4.1.0"):
        pick("mlu")


@pytest.mark.parametrize("name", ["cuda", "mlu"])
def test_a_card_that_is_absent_is_refused_and_never_replaced(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cards(monkeypatch)
    with pytest.raises(DeviceError, match=f"--device: no {name} device: ") as caught:
        pick(name)
    assert "--device auto or cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("cuba", "did you mean cuda?"),
        ("mlu370", "did you mean mlu?"),
        ("CPU", "choose auto, cpu, cuda, mlu"),
        ("", "choose auto, cpu, cuda, mlu"),
    ],
)
def test_an_unknown_device_is_answered_with_those_there_are(name: str, advice: str) -> None:
    with pytest.raises(DeviceError) as caught:
        pick(name)
    assert advice in str(caught.value)


def test_asking_for_cards_starts_none() -> None:
    pick("auto")
    assert not torch.cuda.is_initialized()


def test_the_first_device_of_a_kind_is_known_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(mlu, "load", lambda: loaded.append("torch_mlu"))
    assert accelerator.first_device(CPU) == torch.device("cpu")
    assert accelerator.first_device(CUDA) == torch.device("cuda", 0)
    assert not loaded
    named = replace(MLU, torch_type="privateuseone")  # as torch calls it unnamed
    monkeypatch.setattr(accelerator, "MLU", named)
    assert accelerator.first_device(named).index == 0
    assert loaded == ["torch_mlu"]


def test_the_machine_itself_is_one_cpu() -> None:
    assert accelerator.num_cards(CPU) == 1


NAMES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("row", "name"), list(itertools.product(ROWS.values(), NAMES)))
def test_a_dtype_is_given_or_refused_with_those_the_device_has(row: Accelerator, name: str) -> None:
    wanted = getattr(torch, name)
    if name == "float32" or wanted in row.autocast_dtypes:
        assert parse_dtype(name, row) is wanted
        return
    with pytest.raises(DeviceError, match=f"{row.name} cannot run {name}; choose ") as caught:
        parse_dtype(name, row)
    offered = str(caught.value).rpartition("choose ")[2].split(" or ")
    assert offered[0] == "float32"
    assert all(parse_dtype(other, row) for other in offered)
    assert name not in offered


def test_what_each_device_can_do_is_known() -> None:
    assert CPU.autocast_dtypes == (torch.bfloat16,)
    assert set(CUDA.autocast_dtypes) == {torch.float16, torch.bfloat16}
    assert MLU.autocast_dtypes == (torch.float16,)  # the MLU370 has no bfloat16


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fp16", "choose one of float32, float16, bfloat16"),
        ("float", "did you mean float"),
        ("int8", "choose one of float32"),
    ],
)
def test_an_unknown_dtype_is_answered_with_those_there_are(name: str, advice: str) -> None:
    with pytest.raises(ConfigError, match="--dtype: no dtype") as caught:
        parse_dtype(name, CPU)
    assert advice in str(caught.value)


def test_no_two_rows_share_a_name_of_anything() -> None:
    for field in ("name", "torch_type", "ray_resource", "process_group_backend"):
        values = [getattr(row, field) for row in ROWS.values()]
        assert len(set(values)) == len(values), field
    assert list(ROWS) == [row.name for row in ROWS.values()]
