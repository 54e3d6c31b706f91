"""The simulated cards behave as the real ones are known to.

A test marked `on_card` runs in a second process that has the simulator, so that the processes
of other tests never see a device type "mlu".
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
pytestmark = [pytest.mark.mlu, pytest.mark.slow]


def build_module() -> ModuleType:
    """torch_mlu/build.py by itself: importing the package would register the backend here."""
    spec = importlib.util.spec_from_file_location("mlu_build", HERE / "torch_mlu/build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulator() -> dict[str, str]:
    """The environment of a process with two simulated cards; the library is built."""
    build = build_module()
    if not build.library_path().exists() and build.compiler() is None:
        pytest.skip("the MLU simulator needs a C++ compiler, and there is none here")
    build.build()
    stray = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in stray}
    return {
        **kept,
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "TORCH_MLU_SIM_DEVICES": "2",
        "OMP_NUM_THREADS": "1",
    }


class Card:
    """A process that runs functions of this file by name."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process with the cards died in {name}"
        fault = json.loads(line)
        if fault:
            pytest.fail(fault, pytrace=False)


@pytest.fixture(scope="module")
def card(simulator: dict[str, str]) -> Iterator[Card]:
    """The process with the simulated cards."""
    made = Card(simulator)
    yield made
    made.process.stdin.close()
    made.process.wait(30)


def on_card(test: Callable[[], None]) -> Callable[[Card], None]:
    """Runs a test in the process with the cards."""

    def outside(card: Card) -> None:
        card.run(test.__name__)

    outside.__name__ = outside.__qualname__ = test.__name__
    outside.inside = test  # type: ignore[attr-defined]
    return outside


def serve() -> None:
    """Reads names of tests, runs them, answers with null or what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import torch_mlu  # noqa: F401

    for line in sys.stdin:
        fault = None
        try:
            globals()[line.strip()].inside()
        except BaseException:
            fault = traceback.format_exc()
        answers.write(json.dumps(fault) + "\n")
        answers.flush()


def run_script(name: str, env: dict[str, str], **changes: str) -> None:
    """Runs a function of this file in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, name],
        env={**env, **changes},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Variables that the C++ side sees as well."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def warned(call: Callable[[], Any]) -> list[str]:
    """What a call warns of falling back."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if "fall back to run on the CPU" in str(w.message)]


def test_simulator_stays_out_of_the_processes_of_other_tests() -> None:
    assert str(HERE) not in sys.path
    assert "torch_mlu" not in sys.modules


# ---- tensors


@on_card
def test_tensors_go_to_a_card_and_back_unchanged() -> None:
    for dtype in (torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool):
        values = torch.arange(24).reshape(2, 3, 4).to(dtype)
        there = values.to("mlu:1")
        assert there.device == torch.device("mlu", 1) and there.is_mlu and not values.is_mlu
        assert torch.equal(there.cpu(), values)
        assert torch.equal(there.to("mlu:0").cpu(), values)
    assert torch.equal(values.mlu().cpu(), values)
    assert torch.nn.Linear(2, 2).mlu().weight.device == torch.device("mlu", 0)


@on_card
def test_views_share_the_memory_of_their_base() -> None:
    base = torch.zeros(4, 6, device="mlu")
    before = torch.mlu.memory_allocated()
    views = [base[1:3, ::2], base.t(), base.view(3, 8), base.unfold(1, 2, 2), base[0]]
    assert torch.mlu.memory_allocated() == before
    views[0].fill_(1)
    views[1][5, 3] = 2
    expected = torch.zeros(4, 6)
    expected[1:3, ::2] = 1
    expected[3, 5] = 2
    assert torch.equal(base.cpu(), expected)
    assert torch.equal(views[2].cpu(), expected.view(3, 8))
    assert torch.equal(base.t().contiguous().cpu(), expected.t())


@on_card
def test_tensors_of_two_devices_do_not_mix_without_a_copy() -> None:
    one, other, host = (torch.ones(3, 3, device=d) for d in ("mlu:0", "mlu:1", "cpu"))
    conv = torch.nn.Conv2d(1, 1, 1).to("mlu:1")
    calls: list[Callable[[], Any]] = [
        lambda: one + other,
        lambda: one @ other,
        lambda: one @ host,
        lambda: torch.cat([one, other]),
        lambda: conv(one[None, None]),
        lambda: torch.ops.torchvision.nms(one.repeat(1, 2)[:, :4], other[0], 0.5),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            call()
    assert torch.equal((one + other.to("mlu:0")).cpu(), host + 1)
    assert torch.equal(one[torch.tensor([0, 2])].cpu(), host[:2])  # an index may be the host's


@on_card
def test_index_beyond_the_devices_is_refused() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="mlu:2")
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.mlu.set_device(2)


@on_card
def test_bfloat16_is_refused_everywhere() -> None:
    assert torch.mlu.is_bf16_supported() is False
    with pytest.raises(RuntimeError, match="BFloat16 is not supported on MLU370"):
        torch.zeros(1, device="mlu", dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="BFloat16 is not supported on MLU370"):
        torch.zeros(1).to("mlu").to(torch.bfloat16)
    with pytest.warns(UserWarning, match="only supports dtypes of torch.float16"):
        torch.autocast("mlu", dtype=torch.bfloat16)


@on_card
def test_double_is_computed_as_float() -> None:
    third = (torch.ones(4, device="mlu", dtype=torch.float64) / 3).cpu()
    assert third.dtype == torch.float64
    assert torch.equal(third, (torch.ones(4) / 3).double())
    assert not torch.equal(third, torch.ones(4, dtype=torch.float64) / 3)


@on_card
def test_saved_tensors_come_back_to_the_card_or_to_the_cpu() -> None:
    import io

    file = io.BytesIO()
    torch.save({"w": torch.arange(5.0, device="mlu:1")}, file)
    for where, device in ((None, "mlu:1"), ("mlu:0", "mlu:0"), ("cpu", "cpu")):
        file.seek(0)
        found = torch.load(file, map_location=where, weights_only=True)["w"]
        assert found.device == torch.device(device)
        assert torch.equal(found.cpu(), torch.arange(5.0))


# ---- operators


@on_card
def test_operator_without_kernel_warns_once_and_is_right() -> None:
    values = torch.linspace(0.1, 1, 5)
    there = values.to("mlu")
    found: list[torch.Tensor] = []
    (text,) = warned(lambda: found.append(torch.special.bessel_j0(there)))
    assert text.startswith(
        "The operator 'aten::special_bessel_j0.out' is not currently supported on the MLU backend "
        "and will fall back to run on the CPU. This may have performance implications."
    )
    assert warned(lambda: torch.special.bessel_j0(there)) == []
    assert torch.equal(found[0].cpu(), torch.special.bessel_j0(values))


@on_card
def test_fallback_can_be_forbidden() -> None:
    there = torch.ones(3, device="mlu")
    with (
        environment(ENABLE_FALLBACK_TO_CPU="0"),
        pytest.raises(NotImplementedError, match="aten::special_bessel_y0"),
    ):
        torch.special.bessel_y0(there)


@on_card
def test_fused_optimizer_falls_back_even_where_other_operators_have_kernels() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device="mlu"))
    weight.grad = torch.ones_like(weight)
    with environment(TORCH_MLU_SIM_KERNELS="aten"):
        assert warned(lambda: torch.special.bessel_y1(weight.detach())) == []
        (text,) = warned(torch.optim.SGD([weight], 0.5, fused=True).step)
    assert "_fused_sgd_" in text
    assert weight.tolist() == [0.5] * 3


@on_card
def test_convolution_is_the_cpus_forward_and_backward() -> None:
    for layer in (
        torch.nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        torch.nn.Conv2d(4, 6, 1, bias=False),
        torch.nn.ConvTranspose2d(4, 6, 2, stride=2),
    ):
        image = torch.rand(2, 4, 9, 8)
        gradients = []
        for device in ("cpu", "mlu:1"):
            mine = copy.deepcopy(layer).to(device)
            source = image.clone().to(device).requires_grad_()
            out = mine(source)
            out.square().sum().backward()
            every = [out.detach(), source.grad, *(p.grad for p in mine.parameters())]
            assert {tensor.device for tensor in every} == {torch.device(device)}
            gradients.append([tensor.cpu() for tensor in every])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


@on_card
def test_torchvision_has_its_kernels_and_only_those() -> None:
    from torchvision import ops

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    rois = torch.cat([torch.zeros(3, 1), boxes], 1)
    scores = torch.tensor([0.5, 0.9, 0.1])
    image = torch.rand(1, 8, 16, 16)
    weight, offset = torch.rand(4, 8, 3, 3), torch.rand(1, 18, 14, 14)
    results: dict[str, list[torch.Tensor]] = {}

    def compute(device: str) -> None:
        source = image.clone().to(device).requires_grad_()
        kept = ops.nms(boxes.to(device), scores.to(device), 0.5)
        pooled = ops.roi_align(source, rois.to(device), 4, sampling_ratio=2)
        bent = ops.deform_conv2d(source, offset.to(device), weight.to(device))
        torch.autograd.backward([pooled, bent], [torch.ones_like(pooled), torch.ones_like(bent)])
        every = [kept, pooled.detach(), bent.detach(), source.grad]
        results[device] = [tensor.cpu() for tensor in every]

    with environment(TORCH_MLU_SIM_KERNELS="aten", ENABLE_FALLBACK_TO_CPU="0"):
        compute("mlu:0")
        for pool in (ops.roi_pool, ops.ps_roi_pool, ops.ps_roi_align):
            with pytest.raises(NotImplementedError, match="torchvision::"):
                pool(image.to("mlu"), rois.to("mlu"), 2)
    compute("cpu")
    torch.testing.assert_close(results["cpu"], results["mlu:0"], rtol=1e-5, atol=1e-5)


@on_card
def test_autocast_computes_in_half_and_keeps_nms_and_roi_align_in_float() -> None:
    from torchvision import ops

    image = torch.rand(1, 3, 8, 8, device="mlu")
    conv = torch.nn.Conv2d(3, 4, 3).to("mlu")
    rois = torch.tensor([[0.0, 0, 0, 4, 4]], device="mlu")
    with torch.autocast("mlu", dtype=torch.float16):
        out = conv(image)
        assert out.dtype == torch.float16
        assert torch.softmax(out, 1).dtype == torch.float32
        assert ops.roi_align(out, rois, 2).dtype == torch.float16  # input and rois made alike
        assert ops.nms(rois[:, 1:].half(), torch.ones(1, device="mlu"), 0.5).tolist() == [0]
    with pytest.raises(RuntimeError):
        ops.roi_align(out, rois, 2)
    with torch.mlu.amp.autocast():
        assert conv(image).dtype == torch.float16


@on_card
def test_gradient_scaler_skips_a_step_that_overflows() -> None:
    weight = torch.nn.Parameter(torch.ones(2, device="mlu"))
    optimizer = torch.optim.SGD([weight], 0.5, foreach=False)
    scaler = torch.mlu.amp.GradScaler(init_scale=4.0)
    for factor, expected, scale in ((2.0, 0.0, 4.0), (float("inf"), 0.0, 2.0)):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == [expected] * 2
        assert scaler.get_scale() == scale


@on_card
def test_mask_rcnn_learns_and_detects_as_on_the_cpu() -> None:
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.recipes import tiny
    from raymrcnn.structures import Target

    torch.manual_seed(0)
    model = build_mask_rcnn(tiny().model, 3, 96, 128)
    images = [torch.rand(3, 96, 112), torch.rand(3, 100, 96)]
    boxes = torch.tensor([[10.0, 10, 50, 60], [30, 20, 90, 80]])
    masks = [torch.zeros(2, *image.shape[1:], dtype=torch.uint8) for image in images]
    for mask in masks:
        mask[0, 15:50, 15:40], mask[1, 30:70, 40:80] = 1, 1
    labels = torch.tensor([1, 2])
    found: list[tuple[Any, ...]] = []
    for device in ("cpu", "mlu:0"):
        mine = copy.deepcopy(model).to(device)
        there = [image.to(device) for image in images]
        targets = [
            Target(image_id=i, boxes=boxes.to(device), labels=labels.to(device), masks=m.to(device))
            for i, m in enumerate(masks)
        ]
        torch.manual_seed(1)
        losses = mine.losses(there, targets)
        sum(losses.values()).backward()
        detected = mine.eval().detect(there)
        gradients = {n: p.grad.cpu() for n, p in mine.named_parameters() if p.grad is not None}
        assert {loss.device for loss in losses.values()} == {torch.device(device)}
        found.append(
            (
                {name: loss.detach().cpu() for name, loss in losses.items()},
                gradients,
                [{k: v.cpu() for k, v in vars(one).items()} for one in detected],
            )
        )
    assert len(found[0][2][0]["boxes"]) > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


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
    run_script(
        "visible_cards", simulator, TORCH_MLU_SIM_DEVICES="4", PYTORCH_CNDEV_BASED_MLU_CHECK="1"
    )


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
    run_script("forks", simulator)


def join_cncl(rank: int, folder: str) -> None:
    """One of two ranks: trains in step with the other, then survives its death."""
    import torch.distributed as dist
    import torch_mlu  # noqa: F401

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
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "join_cncl", str(rank), str(tmp_path)],
            env=simulator,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            errors = rank.communicate(timeout=120)[1]
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()


# ---- the build


def test_processes_that_build_at_once_compile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    fake = tmp_path / "compiler"
    fake.write_text(f'#!/bin/sh\necho run >> {log}\nsleep 0.3\nfor out; do :; done\n: > "$out"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build = build_module()
    threads = [threading.Thread(target=build.build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.library_path().exists() and not build.library_path().is_relative_to(ROOT)
    assert log.read_text().split() == ["run"]


def test_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ImportError, match=r"needs a C\+\+ compiler"):
        build_module().build()


SCRIPTS: dict[str, Callable[..., None]] = {
    "serve": serve,
    "visible_cards": visible_cards,
    "forks": forks,
    "join_cncl": lambda rank, folder: join_cncl(int(rank), folder),
}

if __name__ == "__main__":
    functools.partial(SCRIPTS[sys.argv[1]], *sys.argv[2:])()
