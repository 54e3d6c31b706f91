"""torch.mlu, visible devices, forks and cncl of the simulator behave as the real ones do."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.cards import environment, finish, on_card, start

pytestmark = [pytest.mark.mlu, pytest.mark.slow]


# ---- torch.mlu


@on_card
def test_torch_mlu_answers_as_an_mlu370() -> None:
    mlu = torch.mlu
    assert mlu.is_available() and mlu.device_count() == 2
    assert mlu.get_device_name() == mlu.get_device_name("mlu:1") == "MLU370"
    assert mlu.get_device_capability(1) == (3, 0)
    with pytest.raises(TypeError):
        mlu.get_device_properties()
    properties = mlu.get_device_properties(0)
    assert (properties.name, properties.major, properties.cluster_count) == ("MLU370", 3, 8)
    assert properties.total_memory == 24576 << 20
    assert mlu.OutOfMemoryError is torch.OutOfMemoryError
    assert torch.accelerator.current_accelerator() == torch.device("mlu")
    mlu.synchronize()
    mlu.ipc_collect()


@on_card
def test_current_device_is_where_new_tensors_go() -> None:
    assert torch.mlu.current_device() == 0
    with torch.mlu.device(1):
        assert torch.mlu.current_device() == 1
        assert torch.zeros(1, device="mlu").device.index == 1
    torch.mlu.set_device("mlu:1")
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.mlu.current_device()))
    thread.start()
    thread.join()
    assert (torch.mlu.current_device(), seen) == (1, [0])  # each thread has its own
    torch.mlu.set_device(0)


@on_card
def test_streams_and_events_keep_order_and_time() -> None:
    stream = torch.mlu.Stream(device=1)
    start, end = (torch.mlu.Event(enable_timing=True) for _ in range(2))
    assert stream.device == torch.device("mlu", 1)
    mine = torch.mlu.Stream()
    with torch.mlu.stream(mine):
        assert torch.mlu.current_stream() == mine
        start.record()
        time.sleep(0.01)
        end.record()
    assert torch.mlu.current_stream() != mine
    end.synchronize()
    mine.wait_event(end)
    mine.synchronize()
    assert mine.query() and end.query()
    assert 5 < start.elapsed_time(end) < 5000  # milliseconds


@on_card
def test_seeds_decide_what_a_card_draws() -> None:
    drawn = []
    for seed in (torch.manual_seed, torch.mlu.manual_seed, torch.mlu.manual_seed_all):
        seed(5)
        drawn.append(torch.rand(4, device="mlu").cpu())
    state = torch.mlu.get_rng_state()
    after = torch.randperm(9, device="mlu").cpu()
    torch.mlu.set_rng_state(state)
    assert torch.equal(torch.randperm(9, device="mlu").cpu(), after)
    assert all(torch.equal(drawn[0], other) for other in drawn)
    generators = [torch.Generator(device=d).manual_seed(3) for d in ("mlu", "cpu")]
    one, other = (torch.rand(3, generator=g, device=g.device).cpu() for g in generators)
    assert torch.equal(one, other) and generators[0].device.type == "mlu"


@on_card
def test_pinned_memory_is_told_from_plain_memory() -> None:
    plain = torch.ones(3)
    pinned = plain.pin_memory()
    assert pinned.is_pinned() and not plain.is_pinned()
    assert torch.equal(pinned.to("mlu", non_blocking=True).cpu(), plain)


@on_card
def test_memory_counters_count() -> None:
    mlu = torch.mlu
    mlu.reset_peak_memory_stats(1)
    before, elsewhere = mlu.memory_allocated(1), mlu.memory_allocated(0)
    block = torch.zeros(1 << 20, device="mlu:1")
    assert mlu.memory_allocated(1) - before == 4 << 20
    assert mlu.memory_allocated(0) == elsewhere
    del block
    assert mlu.memory_allocated(1) == before
    assert mlu.max_memory_allocated(1) - before == 4 << 20
    assert mlu.memory_reserved(1) >= 4 << 20
    free, total = mlu.mem_get_info(1)
    mlu.empty_cache()
    assert mlu.memory_reserved(1) == before
    assert mlu.mem_get_info(1)[0] > free and total == 24576 << 20
    mlu.reset_peak_memory_stats(1)
    assert mlu.max_memory_allocated(1) == before
    assert "allocated" in mlu.memory_summary(1)


@on_card
def test_memory_runs_out_at_the_limit() -> None:
    used = torch.mlu.memory_allocated(0)
    with environment(TORCH_MLU_SIM_MEMORY=str(used + (1 << 20))):
        fits = torch.zeros(1 << 19, dtype=torch.uint8, device="mlu:0")
        with pytest.raises(torch.OutOfMemoryError, match=r"MLU out of memory. Tried to allocate"):
            torch.zeros(1 << 20, dtype=torch.uint8, device="mlu:0")
        del fits
        torch.zeros(1 << 20, dtype=torch.uint8, device="mlu:0")


# ---- processes


def visible_cards() -> None:
    """In one process: the driver has not been touched, so the environment is read each time."""
    import torch_mlu  # noqa: F401

    uuid = "MLU-00000000-0000-0000-0000-00000000000"
    cases: list[tuple[dict[str, str], list[int]]] = [
        ({}, [0, 1, 2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"MLU_VISIBLE_DEVICES": "2,1", "CUDA_VISIBLE_DEVICES": ""}, [2, 1]),
        ({"CN_VISIBLE_DEVICES": "0", "MLU_VISIBLE_DEVICES": "2,1"}, [0]),
        ({"MLU_VISIBLE_DEVICES": "1,1"}, []),
        ({"MLU_VISIBLE_DEVICES": "1,9,2"}, [1]),
        ({"MLU_VISIBLE_DEVICES": f"{uuid}3,{uuid}0"}, [3, 0]),
    ]
    for variables, cards in cases:
        with environment(**variables):
            found = [torch.mlu.host_card(i) for i in range(torch.mlu.device_count())]
            assert found == cards, (variables, found)
    with environment(MLU_VISIBLE_DEVICES="2"):
        torch.zeros(1, device="mlu")
    assert torch.mlu.device_count() == 1, "the first use fixes the set"


def test_visible_devices_follow_the_real_precedence(simulator: dict[str, str]) -> None:
    more = {"TORCH_MLU_SIM_DEVICES": "4", "PYTORCH_CNDEV_BASED_MLU_CHECK": "1"}
    finish(start(visible_cards, {**simulator, **more}))


def child_fault() -> str:
    """What a forked child is told when it uses a card; empty: it may."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        text = ""
        try:
            torch.zeros(1, device="mlu")
        except RuntimeError as error:
            text = str(error)
        os.write(writer, text.encode() or b"fine")
        os._exit(0)
    os.wait()
    return os.read(reader, 4096).decode()


def forks() -> None:
    """Fork before the driver is touched, after a careful look, and after a real one."""
    import torch_mlu  # noqa: F401

    assert child_fault() == "fine"
    with environment(PYTORCH_CNDEV_BASED_MLU_CHECK="1"):
        assert torch.mlu.is_available()
    torch.ones(2, requires_grad=True).sum().backward()  # work of the CPU starts no device
    torch.manual_seed(1)
    assert not torch.mlu.is_initialized() and child_fault() == "fine"
    assert torch.mlu.is_available()
    text = child_fault()
    assert "Cannot re-initialize MLU in forked subprocess" in text and "'spawn'" in text
    torch.zeros(1, device="mlu")  # the parent goes on


def test_forked_child_cannot_use_a_card(simulator: dict[str, str]) -> None:
    finish(start(forks, simulator))


def join_cncl(rank_word: str, folder: str) -> None:
    """One of two ranks: trains in step with the other, then survives its death."""
    import torch.distributed as dist
    import torch_mlu  # noqa: F401

    rank = int(rank_word)
    cncl = torch.mlu.cncl
    torch.set_num_threads(1)
    torch.mlu.set_device(rank)
    dist.init_process_group("cncl", init_method=f"file://{folder}/join", rank=rank, world_size=2)
    device = torch.device("mlu", rank)
    torch.manual_seed(rank)
    parts = [torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2)]
    model = torch.nn.Sequential(*parts).to(device)
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    for _ in range(3):
        before = cncl.calls["allreduce"]
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8, device=device)).square().mean().backward()
        assert cncl.calls["allreduce"] == before + 1  # one bucket
        optimizer.step()
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert mine.device == device and torch.equal(both[0].cpu(), both[1].cpu())
    check_collectives(rank, device)
    dist.barrier()
    if rank == 1:
        os._exit(0)  # no goodbye
    check_dead_peer(device)


def check_collectives(rank: int, device: torch.device) -> None:
    import torch.distributed as dist

    objects: list[Any] = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": 0}, {"rank": 1}]
    double = torch.full((2,), 1 / 3, dtype=torch.float64).to(device)
    dist.all_reduce(double)
    assert double.cpu()[0] == 2 * torch.tensor(1 / 3).double()  # carried as float
    flags = torch.tensor([rank == 1, False], device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    assert flags.tolist() == [True, False]
    numbers = torch.arange(2, device=device) + rank
    dist.broadcast(numbers, src=1)
    assert numbers.tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="Tensors must be MLU and dense"):
        dist.all_reduce(torch.ones(1))


def check_dead_peer(device: torch.device) -> None:
    import torch.distributed as dist

    for name in torch.mlu.cncl.ERROR_HANDLING:
        os.environ.pop(name, None)
    waiting = threading.Thread(
        target=lambda: dist.all_reduce(torch.ones(1, device=device)), daemon=True
    )
    waiting.start()
    waiting.join(3)
    assert waiting.is_alive(), "without error handling a dead peer is waited for"
    os.environ["TORCH_CNCL_ASYNC_ERROR_HANDLING"] = "1"
    with pytest.raises(dist.DistBackendError, match="CNCL: allreduce failed"):
        dist.all_reduce(torch.ones(1, device=device))
    os._exit(0)


def test_two_ranks_train_alike_over_cncl_and_notice_a_death(
    simulator: dict[str, str], tmp_path: Path
) -> None:
    ranks = [start(join_cncl, simulator, rank, str(tmp_path)) for rank in "01"]
    try:
        for rank in ranks:
            finish(rank)
    finally:
        for rank in ranks:
            rank.kill()
