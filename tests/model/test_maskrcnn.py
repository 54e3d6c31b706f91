"""torchvision is the oracle: same weights, same image, same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import LOSSES, MaskRCNN, build_mask_rcnn, trainable_summary
from raymrcnn.recipes import tiny
from raymrcnn.structures import Target

Expected = tuple[list[Tensor], list[dict[str, Tensor]]]
Picture = Callable[[int, int, int], Tensor]


def make_target(height: int, width: int, num_objects: int, seed: int = 0) -> Target:
    """Random boxes at least 8 px wide, each filled by its mask."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_objects, 2, generator=generator)
    sizes = torch.rand(num_objects, 2, generator=generator) * 0.4 + 0.1
    span = torch.tensor([width, height], dtype=torch.float32)
    low = (corners * (1 - sizes) * span).floor()
    high = (low + (sizes * span).clamp(min=8)).floor()
    masks = torch.zeros(num_objects, height, width, dtype=torch.uint8)
    for mask, (x1, y1), (x2, y2) in zip(masks, low.long(), high.long(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return Target(
        image_id=seed,
        boxes=torch.cat((low, high), dim=1),
        labels=torch.randint(1, 6, (num_objects,), generator=generator),
        masks=masks,
    )


def small_model() -> MaskRCNN:
    torch.manual_seed(0)
    config = replace(tiny().model, rpn_post_nms_train=40, rpn_post_nms_test=40)
    return build_mask_rcnn(config, 5, 96, 128)


def test_r50_keys_and_shapes_are_torchvisions() -> None:
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=8)
    ours = build_mask_rcnn(ModelConfig(), 7, 800, 1333)
    expected = {k: v.shape for k, v in theirs.state_dict().items()}
    # A frozen batch norm counts no batches.
    expected = {k: v for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in ours.state_dict().items()} == expected


def test_detections_equal_torchvisions(ours: MaskRCNN, expected: Expected) -> None:
    images, outputs = expected
    found = ours.detect(images)
    for image, theirs, mine in zip(images, outputs, found, strict=True):
        assert len(mine.scores) > 10
        assert torch.equal(mine.labels, theirs["labels"])
        assert torch.equal(mine.scores, theirs["scores"])
        torch.testing.assert_close(mine.boxes, theirs["boxes"], atol=1e-3, rtol=0)
        pasted = paste_masks_in_image(mine.mask_probs[:, None], mine.boxes, image.shape[-2:])
        assert torch.equal(pasted > 0.5, theirs["masks"] > 0.5)
        assert (pasted > 0.5).any()


@pytest.mark.slow
def test_detections_equal_torchvisions_at_full_size(
    full_size_ours: MaskRCNN, full_size_reference: nn.Module, picture: Picture
) -> None:
    image = picture(480, 640, 3)
    with torch.no_grad():
        expected = full_size_reference([image.float() / 255])[0]
    found = full_size_ours.detect([image])[0]
    assert torch.equal(found.labels, expected["labels"])
    assert torch.equal(found.scores, expected["scores"])
    torch.testing.assert_close(found.boxes, expected["boxes"], atol=1e-3, rtol=0)
    pasted = paste_masks_in_image(found.mask_probs[:, None], found.boxes, (480, 640))
    assert torch.equal(pasted > 0.5, expected["masks"] > 0.5)


def test_limits_are_those_given(reference: nn.Module, picture: Picture) -> None:
    image = picture(240, 320, 0)
    torch.manual_seed(0)
    model = build_mask_rcnn(ModelConfig(), 5, 192, 320, score_threshold=0.2, max_detections=7)
    model.load_state_dict(reference.state_dict())
    found = model.eval().detect([image])[0]
    assert len(found.scores) == 7
    assert (found.scores > 0.2).all()
    model.roi_heads.score_thresh = 0.999
    assert len(model.detect([image])[0].scores) == 0


def test_nothing_found_has_the_shapes_of_something(ours: MaskRCNN, picture: Picture) -> None:
    ours.roi_heads.score_thresh = 1.0
    found = ours.detect([picture(64, 64, 0)])[0]
    assert found.boxes.shape == (0, 4)
    assert found.mask_probs.shape == (0, 28, 28)
    assert ours.detect([]) == []


def test_losses_and_gradients_of_one_step_equal_torchvisions(
    ours: MaskRCNN,
    reference: nn.Module,
    picture: Picture,
    sampled_alike: Callable[..., dict[str, Tensor]],
) -> None:
    images = [picture(200, 300, 0), picture(300, 200, 1)]
    targets = [make_target(200, 300, 3, 0), make_target(300, 200, 5, 1)]
    annotations = [{"boxes": t.boxes, "labels": t.labels, "masks": t.masks} for t in targets]
    reference = copy.deepcopy(reference)
    found = sampled_alike(ours, reference, images, targets)
    expected = reference.train()([image.float() / 255 for image in images], annotations)
    assert set(found) == set(LOSSES) == set(expected)
    for name in LOSSES:
        assert expected[name] > 0
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)
    # Norms are written over their input here, which autograd must survive.
    sum(expected.values()).backward()
    sum(found.values()).backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    trained = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert "backbone.body.layer2.0.conv1.weight" in trained
    for name, gradient in trained.items():
        scale = gradients[name].abs().max()
        assert scale > 0
        torch.testing.assert_close(gradient, gradients[name], atol=1e-4 * scale.item(), rtol=0)


@pytest.mark.parametrize(
    "numbers", [(), (0,), (0, 0), (3, 0)], ids=["no image", "empty", "two empty", "one empty"]
)
def test_every_trainable_parameter_gets_a_gradient(
    numbers: tuple[int, ...], picture: Picture
) -> None:
    model = small_model()
    images = [picture(90, 120, i) for i in range(len(numbers))]
    targets = [make_target(90, 120, n, i) for i, n in enumerate(numbers)]
    losses = model.losses(images, targets)
    assert tuple(losses) == LOSSES
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    if sum(numbers) == 0:
        assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


def test_loss_falls_when_one_image_is_learnt(picture: Picture) -> None:
    model = small_model()
    images, targets = [picture(90, 120, 0)], [make_target(90, 120, 3)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(12):
        losses = model.losses(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.7 * history[0]


def test_uint8_and_float_images_are_the_same_image(quick: MaskRCNN, picture: Picture) -> None:
    image = picture(120, 160, 2)
    found, again = quick.detect([image, image.float() / 255])
    assert torch.equal(found.scores, again.scores)
    assert torch.equal(found.boxes, again.boxes)


def test_a_line_of_pixels_is_an_image(picture: Picture) -> None:
    model = small_model().eval()
    found = model.detect([picture(1, 2000, 0), picture(2000, 1, 0), picture(1, 1, 0)])
    assert all(torch.isfinite(one.boxes).all() for one in found)


def test_first_batch_does_not_decide_the_strides(quick: MaskRCNN, picture: Picture) -> None:
    image = picture(240, 320, 0)
    again = copy.deepcopy(quick)
    expected = quick.detect([image])[0]
    again.transform.min_size = (33,)  # pads to 64: P5 would look like stride 16
    again.detect([picture(33, 33, 1)])
    again.transform.min_size = (192,)
    assert torch.equal(again.detect([image])[0].boxes, expected.boxes)


def test_stages_below_the_trainable_ones_take_no_gradient() -> None:
    model = build_mask_rcnn(ModelConfig(trainable_stages=3), 2, 800, 1333)
    summary = trainable_summary(model)
    assert summary["frozen_stages"] == ["conv1", "layer1"]
    assert summary["frozen_norms"] == 53
    assert summary["trainable"] < summary["parameters"]
    whole = trainable_summary(small_model())
    assert whole["frozen_stages"] == [] and whole["frozen_norms"] == 0
    assert whole["trainable"] == whole["parameters"]


def test_eps_of_frozen_norms_is_the_configs() -> None:
    model = build_mask_rcnn(ModelConfig(backbone="resnet18", frozen_norm_eps=0.0), 2, 64, 64)
    assert model.backbone.body.bn1.eps == 0.0
    model = build_mask_rcnn(ModelConfig(backbone="resnet18"), 2, 64, 64)
    assert model.backbone.body.bn1.eps == 1e-5


@pytest.mark.parametrize("backbone", ["resnet18", "resnet101"])
def test_other_backbones_build_and_detect(backbone: str, picture: Picture) -> None:
    model = build_mask_rcnn(ModelConfig(backbone=backbone), 3, 64, 64).eval()
    with torch.no_grad():
        assert len(model.detect([picture(64, 64, 0)])) == 1
