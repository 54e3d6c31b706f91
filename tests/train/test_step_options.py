"""Precision, accumulation, averages, recomputed activations and bad batches of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_in_ranks
from safetensors.torch import load_file
from small import prepared, run_here
from torch import nn

from raymrcnn.config import OptimConfig
from raymrcnn.device.numerics import grad_scaler, same_as_sgd
from raymrcnn.errors import DeviceError
from raymrcnn.model.losses import LossSums
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.train import job, worker
from raymrcnn.train.checkpoint import load_newest
from raymrcnn.train.loop import NonFiniteLossError, StepOptions, _update
from raymrcnn.train.metrics import read_metrics
from raymrcnn.train.state import TrainState

HOST = torch.device("cpu")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / (run / "last").read_text().strip() / "model.safetensors")


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="module")
def plain(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain")
    run_here(prepared(made_up, run))
    return run


@pytest.fixture
def with_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU run float16, which is slow there and refused."""
    for module in (job, worker):
        monkeypatch.setattr(module, "parse_dtype", lambda name, *_: getattr(torch, name))


@pytest.mark.parametrize(
    "changes",
    [
        ("optim.ema_decay=0.9", "optim.accumulate=2", "optim.precision=bfloat16"),
        ("optim.ema_decay=0.5", "optim.precision=float16", "optim.max_iter=3", "optim.steps=[]"),
    ],
    ids=["bfloat16", "float16"],
)
def test_a_resumed_run_ends_with_the_same_bits_whatever_the_options(
    made_up: Path, tmp_path: Path, with_float16: None, changes: tuple[str, ...]
) -> None:
    run_here(prepared(made_up, tmp_path / "whole", *changes))
    run_here(prepared(made_up, tmp_path / "cut", *changes), stop_after=2)
    run_here(prepared(made_up, tmp_path / "cut", *changes))
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    states = [load_newest(tmp_path / name, print) for name in ("cut", "whole")]
    assert states[0] is not None and states[1] is not None
    trained = [state.optimizer["trained"] for state in states]
    assert equal(*trained)
    assert trained[0] and not equal(
        trained[0], {k: weights(tmp_path / "cut")[k] for k in trained[0]}
    )
    assert states[0].optimizer["scaler"] == states[1].optimizer["scaler"]


def test_float16_scales_its_gradients_and_counts_what_it_left_out(
    made_up: Path, tmp_path: Path, with_float16: None
) -> None:
    _, told = run_here(
        prepared(made_up, tmp_path, "optim.precision=float16", "optim.max_iter=2", "optim.steps=[]")
    )
    records = [r for r in told if "step" in r]
    state = load_newest(tmp_path, print)
    assert state is not None
    skips = records[-1]["scaler_skips"]
    assert state.optimizer["num_scaler_skips"] == skips
    assert state.optimizer["scaler"]["scale"] == 2.0 ** (16 - skips)


def test_a_gradient_that_overflows_moves_nothing_but_the_scale() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    state = TrainState(model, OptimConfig(precision="float16", ema_decay=0.5), HOST)
    for value in (float("inf"), 1.0):
        model.zero_grad()
        state.scaler.scale(model(torch.full((1, 2), value)).sum()).backward()
        assert _update(state, 0, torch.zeros(5), StepOptions(clip_grad_norm=1.0))
        if value == float("inf"):
            assert torch.equal(model.weight, before)
    assert not torch.equal(model.weight, before)
    assert state.counts() == {"scaler_skips": 1}
    assert state.scaler.get_scale() == 2.0**15


def test_float16_on_a_cpu_is_refused_before_anything_is_written(
    made_up: Path, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match="cpu cannot run float16") as caught:
        prepared(made_up, tmp_path / "run", "optim.precision=float16")
    assert caught.value.where == "optim.precision"
    assert not (tmp_path / "run").exists()


def test_bfloat16_takes_about_the_same_steps(made_up: Path, plain: Path, tmp_path: Path) -> None:
    run_here(prepared(made_up, tmp_path, "optim.precision=bfloat16"))
    first, second = read_metrics(plain)[0], read_metrics(tmp_path)[0]
    assert first["loss"] != second["loss"]
    assert first["loss"] == pytest.approx(second["loss"], rel=0.1)


def test_recomputed_activations_give_the_same_bits(
    made_up: Path, plain: Path, tmp_path: Path
) -> None:
    run_here(prepared(made_up, tmp_path, "model.checkpoint_activations=true"))
    assert equal(weights(tmp_path), weights(plain))


def test_channels_last_takes_the_same_steps(made_up: Path, plain: Path, tmp_path: Path) -> None:
    run_here(prepared(made_up, tmp_path, "optim.channels_last=true"))
    for one, other in zip(read_metrics(tmp_path), read_metrics(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)


def test_the_average_follows_its_formula_and_is_what_a_checkpoint_gives() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    state = TrainState(model, OptimConfig(ema_decay=0.5), HOST)
    expected = 1.0
    for step, value in enumerate((2.0, -4.0, 8.0, 1.0, 0.0, 3.0, 5.0, 5.0, 5.0, 7.0)):
        nn.init.constant_(model.weight, value)
        state.average(step)
        kept = min(0.5, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
        assert state.usable_weights()["weight"].item() == pytest.approx(expected)
    other = TrainState(nn.Linear(1, 1, bias=False), OptimConfig(ema_decay=0.5), HOST)
    other.load_state_dict(state.usable_weights(), state.state_dict())
    assert other.model.weight.item() == 7.0  # type: ignore[union-attr, operator]
    assert torch.equal(other.usable_weights()["weight"], state.usable_weights()["weight"])


# ---- bad batches


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, set[int]], None]:
    """From then on, the losses of the forward passes of these numbers are not a number."""

    def change(start: int, passes: set[int]) -> None:
        calls = iter(range(start, 10**6))
        real = MaskRCNN.loss_sums

        def spoilt(self: MaskRCNN, *given: Any) -> LossSums:
            found = real(self, *given)
            return (
                LossSums(found.sums * float("nan"), found.counts)
                if next(calls) in passes
                else found
            )

        monkeypatch.setattr(MaskRCNN, "loss_sums", spoilt)

    return change


SKIP = ("optim.on_bad_loss=skip", "optim.max_bad_steps=2")


def test_a_bad_step_is_left_out_and_written_down(
    made_up: Path, tmp_path: Path, spoil: Callable[[int, set[int]], None]
) -> None:
    spoil(0, {1, 2})
    done, told = run_here(prepared(made_up, tmp_path, *SKIP))
    assert done == 6
    assert [r["note"].split(":")[0] for r in told if "note" in r] == [
        "step 2 left out",
        "step 3 left out",
    ]
    records = read_metrics(tmp_path)
    assert [r["bad_steps"] for r in records] == [1, 2, 2]
    left_out = [item for r in records for item in r.get("left_out", [])]
    assert [item["step"] for item in left_out] == [2, 3]
    assert all(len(item["images"]) == 4 for item in left_out)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(word))
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


def test_more_bad_steps_than_allowed_end_the_run_also_when_resumed(
    made_up: Path, tmp_path: Path, spoil: Callable[[int, set[int]], None]
) -> None:
    bad = {0, 1, 4}
    spoil(0, bad)
    run_here(prepared(made_up, tmp_path, *SKIP), stop_after=3)
    spoil(3, bad)
    with pytest.raises(NonFiniteLossError, match="2 steps were left out before") as caught:
        run_here(prepared(made_up, tmp_path, *SKIP))
    assert caught.value.where == "step 5"


def _spoil(image_id: int) -> None:
    """In this process, the losses of a batch with that image are not a number."""
    real = MaskRCNN.loss_sums

    def spoilt(self: MaskRCNN, images: Any, targets: Any, plan: Any) -> LossSums:
        found = real(self, images, targets, plan)
        bad = any(target.image_id == image_id for target in targets)
        return LossSums(found.sums * (float("nan") if bad else 1.0), found.counts)

    MaskRCNN.loss_sums = spoilt  # type: ignore[method-assign]


def test_workers_leave_out_the_same_steps(made_up: Path, tmp_path: Path) -> None:
    # One epoch of 32 images: the bad one is in one worker's share of one batch.
    changes = (*SKIP, "optim.batch_size=8", "optim.max_iter=4", "checkpoint.every=4", "log_every=1")
    ready = prepared(made_up, tmp_path / "run", *changes, workers=2)
    bad_image = int(ready.dataset.index.image_ids[ready.dataset.images[0]])
    told = run_in_ranks(ready, 2, tmp_path / "rendezvous", partial(_spoil, bad_image))
    assert [r["bad_steps"] for r in told if "step" in r][-1] == 1
    # Others may come: on a busy machine one of the workers is slow.
    assert sum("left out" in r.get("note", "") for r in told) == 1
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


# ---- optimizers


def test_another_sgd_is_taken_only_if_it_gives_the_same_update() -> None:
    class Rounded(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            found = super().step(closure)
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.data.mul_(1.001)
            return found

    class OtherArguments(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params)

    assert same_as_sgd(torch.optim.SGD, HOST)
    assert not same_as_sgd(Rounded, HOST)
    assert not same_as_sgd(OtherArguments, HOST)


def test_a_scaler_that_is_not_needed_changes_nothing() -> None:
    assert not grad_scaler(HOST, enabled=False).is_enabled()
    assert TrainState(nn.Linear(1, 1), OptimConfig(), HOST).state_dict()["scaler"] == {}


@pytest.mark.slow
def test_a_compiled_backbone_keeps_its_names_and_takes_the_steps(
    made_up: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nn.Module.compile
    compiled = []

    def without_a_compiler(self: nn.Module, **options: Any) -> None:
        compiled.append(self)
        real(self, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", without_a_compiler)
    run_here(prepared(made_up, tmp_path, "optim.compile=true"))
    assert len(compiled) == 1
    assert equal(weights(tmp_path), weights(plain))


# ---- mask targets


def test_outlines_train_as_bitmaps_do(made_up: Path, plain: Path, tmp_path: Path) -> None:
    run_here(prepared(made_up, tmp_path, "data.mask_targets=outline"))
    for one, other in zip(read_metrics(tmp_path), read_metrics(plain), strict=True):
        assert one["loss_mask"] != other["loss_mask"]
        assert one["loss_mask"] == pytest.approx(other["loss_mask"], rel=0.03)
        assert one["loss_classifier"] == pytest.approx(other["loss_classifier"], rel=0.05)
