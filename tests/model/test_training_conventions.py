"""What a step learns from follows the conventions, each by its own field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make_picture
from test_maskrcnn import make_target
from torch import Tensor
from torch.nn import functional as F

from raymrcnn.config import ModelConfig
from raymrcnn.model import proposals
from raymrcnn.model.conventions import CONVENTIONS
from raymrcnn.model.losses import LOSSES, box_sums, mask_sum
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn, trainable_summary
from raymrcnn.recipes import tiny
from raymrcnn.structures import Target

SHEETS = sorted(CONVENTIONS)


def small_model(name: str, **changes: Any) -> MaskRCNN:
    torch.manual_seed(0)
    config = replace(tiny().model, conventions=name, rpn_post_nms_train=40, **changes)
    return build_mask_rcnn(config, 5, 96, 128)


def batch(*numbers: int) -> tuple[list[Tensor], list[Target]]:
    images = [make_picture(90, 120, i) for i in range(len(numbers))]
    return images, [make_target(90, 120, n, i) for i, n in enumerate(numbers)]


@pytest.mark.parametrize("name", SHEETS)
def test_a_step_of_each_sheet_reaches_every_parameter(name: str) -> None:
    model = small_model(name)
    losses = model.losses(*batch(3, 0))
    assert tuple(losses) == LOSSES
    total = sum(losses.values())
    assert torch.isfinite(total)
    assert all(losses[kind] > 0 for kind in LOSSES)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SHEETS)
def test_loss_falls_when_one_image_is_learnt(name: str) -> None:
    model = small_model(name)
    images, targets = batch(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(12):
        total = sum(model.losses(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.75 * history[0]


@pytest.mark.parametrize("backbone", ["resnet50", "resnext101_32x8d"])
def test_stem_and_first_stage_are_frozen_as_in_the_reference(backbone: str) -> None:
    """FREEZE_CONV_BODY_AT is 2 there: the stem and res2, and all norms."""
    config = ModelConfig(backbone=backbone, conventions="detectron")  # type: ignore[arg-type]
    model = build_mask_rcnn(config, 2, 800, 1333)
    assert trainable_summary(model)["frozen_stages"] == ["conv1", "layer1"]
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(".bn" in n or "downsample.1" in n for n in learning)
    assert "backbone.body.layer2.0.conv1.weight" in learning
    assert not any(n.startswith(("backbone.body.conv1", "backbone.body.layer1")) for n in learning)


def test_a_resnet_halves_where_its_program_does_and_a_resnext_in_the_3x3() -> None:
    def strides(backbone: str, conventions: str) -> list[tuple[int, int]]:
        config = ModelConfig(backbone=backbone, conventions=conventions)  # type: ignore[arg-type]
        body = build_mask_rcnn(config, 2, 64, 64).backbone.body
        first = [body[f"layer{i}"][0] for i in (1, 2, 3, 4)]
        return [(block.conv1.stride[0], block.conv2.stride[0]) for block in first]

    in_3x3, in_1x1 = [(1, 1)] + [(1, 2)] * 3, [(1, 1)] + [(2, 1)] * 3
    assert strides("resnet50", "torchvision") == in_3x3
    assert strides("resnet50", "detectron") == strides("resnet50", "detectron2") == in_1x1
    assert strides("resnext101_32x8d", "detectron2") == in_3x3


def test_only_maskrcnn_benchmark_ignores_anchors_that_cross_the_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    original = proposals.sample_balanced

    def recording(labels: Tensor, *rest: Any) -> Any:
        seen.append(labels.clone())
        return original(labels, *rest)

    monkeypatch.setattr(proposals, "sample_balanced", recording)
    ignored = {}
    for name in SHEETS:
        model = small_model(name)
        images, targets = batch(3)
        model.losses(images, targets)
        padded, _ = model.transform.for_training(images, [vars(t).copy() for t in targets])
        levels = list(model.backbone(padded.tensors).values())
        anchors = model.rpn.anchor_generator(padded, levels)[0]
        height, width = padded.image_sizes[0]
        last = 1 if name == "detectron" else 0
        inside = (anchors[:, :2] >= 0).all(1)
        inside &= (anchors[:, 2] <= width - last) & (anchors[:, 3] <= height - last)
        labels = seen[-1][0]
        ignored[name] = bool((labels[~inside] == -1).all())
        assert (labels[inside] == 0).any() and (labels == 1).any()
    assert ignored == {"detectron": True, "detectron2": False, "torchvision": False}


def test_only_detectron2_divides_by_the_anchors_that_it_would_sample() -> None:
    counts = {}
    for name in SHEETS:
        model = small_model(name, rpn_samples_per_image=4096)
        counts[name] = int(model.loss_sums(*batch(2, 1)).counts[0])
    assert counts["detectron2"] == 2 * 4096
    assert counts["torchvision"] < 2 * 4096 and counts["detectron"] < 2 * 4096


def test_only_maskrcnn_benchmark_keeps_the_best_proposals_of_the_whole_batch() -> None:
    kept = {}
    for name in SHEETS:
        model = small_model(name)
        images, targets = batch(2, 1)
        padded, given = model.transform.for_training(images, [vars(t).copy() for t in targets])
        features = model.backbone(padded.tensors)
        found, _, _ = model.rpn.losses(padded, features, given, [0, 1])
        kept[name] = [len(one.boxes) for one in found]
    assert sum(kept["detectron"]) == 40
    assert kept["detectron2"] == kept["torchvision"] == [40, 40]


@pytest.mark.parametrize(("name", "beta"), [("detectron", 1.0), ("detectron2", 0.0)])
def test_box_loss_is_square_up_to_beta(name: str, beta: float) -> None:
    assert small_model(name).roi_heads.box_beta == beta
    draw = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(9, 4, generator=draw), torch.randn(9, 4, 4, generator=draw)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    expected = torch.randn(9, 4, generator=draw)
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        if label:
            for found, wanted in zip(deltas[i, label], expected[i], strict=True):
                error = abs(float(found - wanted))
                total += 0.5 * error**2 / beta if error < beta else error - 0.5 * beta
    sums = box_sums(logits, deltas, labels, expected, beta)
    assert sums[1].item() == pytest.approx(total, rel=1e-5)
    assert sums[0].item() == pytest.approx(F.cross_entropy(logits, labels).item() * 9, rel=1e-5)


def test_a_mask_is_learnt_as_zeros_and_ones_where_there_is_a_threshold() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.uint8)
    mask[:, 10:20, 10:20] = 1
    box, zeros = torch.tensor([[10.0, 10, 20, 20]]), torch.zeros(1, dtype=torch.int64)

    def loss(logit: float, aligned: bool, threshold: float | None) -> float:
        logits = torch.full((1, 1, 28, 28), logit)
        return mask_sum(logits, [box], [mask], [zeros], zeros, aligned, threshold).item()

    # Of its own box all but the cells in the corners is full of it, which cost 20 each.
    assert loss(20.0, True, 0.5) == pytest.approx(20 * 4 / 28**2, rel=1e-4)
    # Half a pixel aside, as torchvision cuts it out, a row and a column are partly empty too.
    assert loss(20.0, False, None) > 2 * loss(20.0, True, 0.5)


def test_objects_are_written_with_their_last_pixel_only_where_boxes_are() -> None:
    for name in SHEETS:
        model = small_model(name)
        images, targets = batch(2)
        _, prepared, _ = model._prepared(images, targets, None)
        height, width = model.transform._size(90, 120, 0)
        scale = torch.tensor([width / 120, height / 90] * 2)
        last = torch.tensor([0.0, 0, 1, 1]) if name == "detectron" else torch.zeros(4)
        torch.testing.assert_close(prepared[0]["boxes"], (targets[0].boxes - last) * scale)


def test_fresh_heads_are_as_small_as_the_programs_make_them() -> None:
    deviations = {}
    for name in SHEETS:
        heads = small_model(name).roi_heads
        layers = heads.box_predictor.cls_score, heads.box_predictor.bbox_pred
        layers += (heads.mask_predictor.mask_fcn_logits,)
        deviations[name] = [round(layer.weight.std().item(), 3) for layer in layers]
        fc7 = heads.box_head.fc7.weight
        if name != "torchvision":
            assert fc7.abs().max().item() == pytest.approx((3 / fc7.shape[1]) ** 0.5, rel=1e-2)
    assert deviations["detectron"][:2] == [0.01, 0.001]
    assert deviations["detectron2"] == [0.01, 0.001, 0.001]
    assert min(deviations["torchvision"]) > 0.03 and deviations["detectron"][2] > 0.3
