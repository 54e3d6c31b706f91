"""Seeded weights with sane activations, and pictures, so that tests see realistic detections."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.sampling import Sample, sample_balanced
from raymrcnn.structures import Target

torch.set_num_threads(1)

NUM_CLASSES = 5
NORMS = FrozenBatchNorm2d, nn.BatchNorm2d
# Fewer proposals than the default, for speed.
CONFIG = ModelConfig(rpn_post_nms_test=300, rpn_post_nms_train=500, box_samples_per_image=128)


def make_picture(height: int, width: int, seed: int) -> Tensor:
    """[3, height, width] uint8: blobs and textures of several scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells in (3, 9, 40):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        image += nn.functional.interpolate(noise, (height, width), mode="bicubic") / 3
    return (image[0].clamp(0, 1) * 255).to(torch.uint8)


def _calibrate(norm: FrozenBatchNorm2d | nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    values = inputs[0]
    norm.running_mean.copy_(0.5 * values.mean((0, 2, 3)))
    norm.running_var.copy_(values.square().mean((0, 2, 3)))


@torch.no_grad()
def calibrate(model: nn.Module, image: Tensor) -> nn.Module:
    """Give a torchvision-like Mask R-CNN unit activations and tens of detections an image."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, NORMS):
            module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
            module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
    hooks = [
        module.register_forward_pre_hook(_calibrate)
        for module in model.modules()
        if isinstance(module, NORMS)
    ]
    heads = model.roi_heads
    scales = {
        model.rpn.head.cls_logits: 2.0,
        model.rpn.head.bbox_pred: 0.3,
        heads.box_predictor.cls_score: 2.5,
        heads.box_predictor.bbox_pred: 0.5,
        heads.mask_predictor.mask_fcn_logits: 3.0,
    }

    def unit_output(scale: float) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            factor = scale / (output.std() + 1e-6)
            if not hasattr(module, "calibrated"):
                module.calibrated = True
                module.weight.mul_(factor)
                output = output * factor
            return output

        return hook

    for module, scale in scales.items():
        hooks.append(module.register_forward_hook(unit_output(scale)))
    model.eval()([image])
    for hook in hooks:
        hook.remove()
    heads.box_predictor.cls_score.bias[0] = 5.0
    return model


@cache
def reference_model(short_side: int = 192, long_side: int = 320) -> nn.Module:
    """torchvision's own maskrcnn_resnet50_fpn with calibrated weights, in eval mode."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        min_size=short_side,
        max_size=long_side,
        rpn_post_nms_top_n_test=CONFIG.rpn_post_nms_test,
        rpn_post_nms_top_n_train=CONFIG.rpn_post_nms_train,
        box_batch_size_per_image=CONFIG.box_samples_per_image,
    )
    frozen(model)
    return calibrate(model, make_picture(240, 320, 0).float() / 255).eval()


def frozen(model: nn.Module) -> None:
    """Replace every batch norm by a frozen one, as torchvision does for pretrained weights."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, FrozenBatchNorm2d(child.num_features))
        else:
            frozen(child)


def same_weights(reference: nn.Module) -> MaskRCNN:
    """Our model, with the weights and the image size of a torchvision model."""
    transform = reference.transform
    model = build_mask_rcnn(CONFIG, NUM_CLASSES, transform.min_size[-1], transform.max_size)
    model.load_state_dict(reference.state_dict())
    return model


class GivenSampler:
    """In torchvision's place: chooses what our network chose, told from outside."""

    def __init__(self, chosen: list[tuple[Tensor, Tensor]]) -> None:
        self.chosen = chosen  # places of positives and of negatives, an image each

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        def masks(kind: int) -> list[Tensor]:
            return [
                torch.zeros(len(of), dtype=torch.uint8).index_fill(0, places[kind], 1)
                for of, places in zip(labels, self.chosen, strict=True)
            ]

        return masks(0), masks(1)


@pytest.fixture
def sampled_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[MaskRCNN, nn.Module, list[Tensor], list[Target]], dict[str, Tensor]]:
    """Losses of our network, after which a torchvision network samples as it did."""
    from raymrcnn.model import heads, proposals

    def losses(
        ours: MaskRCNN, reference: nn.Module, images: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        taken = []

        def recorded(*given: Any) -> Sample:
            taken.append(sample_balanced(*given))
            return taken[-1]

        for stage in (proposals, heads):
            monkeypatch.setattr(stage, "sample_balanced", recorded)
        found = ours.train().losses(images, targets)
        chosen = [
            (places[mask], others[other_mask])
            for one in taken
            for places, mask, others, other_mask in zip(
                one.positives, one.is_positive, one.negatives, one.is_negative, strict=True
            )
        ]
        reference.rpn.fg_bg_sampler = GivenSampler(chosen[: len(images)])
        reference.roi_heads.fg_bg_sampler = GivenSampler(chosen[len(images) :])
        return found

    return losses


@pytest.fixture
def picture() -> Callable[[int, int, int], Tensor]:
    return make_picture


@pytest.fixture
def reference() -> nn.Module:
    """torchvision's model at 192 to 320 pixels, in eval mode."""
    return reference_model().eval()


@pytest.fixture
def full_size_reference() -> nn.Module:
    """torchvision's model at 800 to 1333 pixels, in eval mode."""
    return reference_model(800, 1333).eval()


@pytest.fixture
def full_size_ours(full_size_reference: nn.Module) -> MaskRCNN:
    return same_weights(full_size_reference).eval()


@pytest.fixture
def ours(reference: nn.Module) -> MaskRCNN:
    """Our model with the weights of `reference`, in eval mode."""
    return same_weights(reference).eval()


@pytest.fixture
def quick(ours: MaskRCNN) -> MaskRCNN:
    """`ours` with a tenth of the proposals, for tests that compare it with itself alone."""
    ours.rpn._post_nms_top_n["testing"] = 100
    ours.roi_heads.detections_per_img = 30
    return ours


@pytest.fixture(scope="session")
def expected() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two pictures, and what torchvision's model finds in them."""
    images = [make_picture(240, 320, 0), make_picture(333, 201, 1)]
    with torch.no_grad():
        return images, reference_model().eval()([image.float() / 255 for image in images])
