"""Tensors and operators of the simulated cards behave as the real ones are known to."""

from __future__ import annotations

import copy
import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.cards import HERE, ROOT, build_module, environment, on_card, warned

pytestmark = [pytest.mark.mlu, pytest.mark.slow]


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
def test_fused_sgd_is_taken_where_it_gives_the_same_update() -> None:
    from torch_mlu.optimizers import FusedSGD

    from raymrcnn.device.numerics import same_as_sgd, sgd

    device = torch.device("mlu", 0)
    weight = torch.nn.Parameter(torch.ones(2, device=device))
    assert isinstance(sgd(device, [{"params": [weight]}], lr=0.1, momentum=0.9), FusedSGD)

    class Another(FusedSGD):
        def _update(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
            weight.add_(weight.grad, alpha=-group["lr"])

    assert not same_as_sgd(Another, device)


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
