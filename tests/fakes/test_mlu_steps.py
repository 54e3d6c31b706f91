"""The training loop on a simulated card: the steps of a CPU, and float16 with its loss scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fakes.cards import on_card

pytestmark = [pytest.mark.mlu, pytest.mark.slow]


def steps_on(
    device: torch.device, watch: Any = None, **changes: Any
) -> tuple[list[dict[str, float]], Any]:
    """Losses of three steps of a small network, and its state."""
    from raymrcnn.config import OptimConfig, override
    from raymrcnn.data.loader import TrainBatch
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.recipes import tiny
    from raymrcnn.structures import BatchPlan, Target
    from raymrcnn.train.loop import StepOptions, training_steps
    from raymrcnn.train.state import TrainState

    small = override(tiny(), ["model.norm=frozen", "model.trainable_stages=3"])
    torch.manual_seed(0)
    model = build_mask_rcnn(small.model, 3, 96, 128).train().to(device)
    image = torch.randint(0, 255, (3, 96, 112), dtype=torch.uint8)
    mask = torch.zeros(2, 96, 112, dtype=torch.uint8)
    mask[0, 15:50, 15:40], mask[1, 30:70, 40:80] = 1, 1
    boxes = torch.tensor([[15.0, 15, 40, 50], [40, 30, 80, 70]])
    target = Target(image_id=1, boxes=boxes, labels=torch.tensor([1, 2]), masks=mask)

    def batches() -> Iterator[TrainBatch]:
        for step in range(3):
            yield TrainBatch(
                step=step, epoch=0, image_ids=(1, 2), batch_ids=(1, 2), images=[image, image],
                targets=[target, target], plan=BatchPlan(seeds=(2 * step, 2 * step + 1)),
            )  # fmt: skip

    config = OptimConfig(ema_decay=0.9, **changes)
    state = TrainState(model, config, device)
    options = StepOptions(dtype=getattr(torch, config.precision), clip_grad_norm=1.0, check_every=3)
    steps = training_steps(
        model, batches(), state, lambda step: 0.002, start=0, stop=3, device=device,
        options=options, watch=watch,
    )  # fmt: skip
    return [{k: float(v) for k, v in step.losses.items()} for step in steps], state


@on_card
def test_a_card_takes_the_steps_of_a_cpu() -> None:
    from raymrcnn.device.stopwatch import Stopwatch

    expected, host = steps_on(torch.device("cpu"))
    watch = Stopwatch(torch.device("mlu:0"))
    found, there = steps_on(torch.device("mlu:0"), watch)
    assert watch.lap() > 0, "the card's own events were read"
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    for name, value in host.usable_weights().items():
        torch.testing.assert_close(
            there.usable_weights()[name].cpu(), value, atol=1e-4, rtol=0, msg=name
        )


@on_card
def test_float16_on_a_card_scales_its_gradients() -> None:
    exact, _ = steps_on(torch.device("mlu:0"))
    found, state = steps_on(torch.device("mlu:0"), precision="float16")
    assert sum(found[0].values()) == pytest.approx(sum(exact[0].values()), rel=0.05)
    assert found[0] != exact[0]
    skips = state.counts()["scaler_skips"]
    assert state.state_dict()["scaler"]["scale"] == 2.0 ** (16 - skips)


@on_card
def test_a_card_finds_in_a_batch_what_a_cpu_finds_image_by_image() -> None:
    from raymrcnn.model.maskrcnn import build_mask_rcnn
    from raymrcnn.model.predictor import Predictor
    from raymrcnn.recipes import tiny

    torch.manual_seed(0)
    model = build_mask_rcnn(tiny().model, 3, 96, 128)
    images = [torch.randint(0, 255, (3, 96, 112), dtype=torch.uint8) for _ in range(3)]
    here, there = (
        Predictor(model, (1, 2, 3), torch.device(name), score_threshold=0.0).forward(images)
        for name in ("cpu", "mlu:0")
    )
    for one, other in zip(here, there, strict=True):
        assert len(one.scores) == 100
        assert torch.equal(one.labels, other.labels)
        for name in ("boxes", "scores", "mask_probs"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-4, rtol=0)
