"""torchvision's Mask R-CNN v2: batch norms, a deeper proposal head and a convolutional box head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import NUM_CLASSES, calibrate, make_picture
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.predictor import Predictor
from raymrcnn.structures import ImageRef

NUM_PROPOSALS = 80  # few, for speed
V2 = ModelConfig(
    norm="batch",
    rpn_convs=2,
    box_head_convs=4,
    rpn_post_nms_test=NUM_PROPOSALS,
    box_samples_per_image=64,
)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        min_size=96,
        max_size=160,
        rpn_post_nms_top_n_test=NUM_PROPOSALS,
    )
    return calibrate(model.eval(), make_picture(160, 220, 0).float() / 255).eval()


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> MaskRCNN:
    model = build_mask_rcnn(V2, NUM_CLASSES, 96, 160)
    model.load_state_dict(theirs.state_dict())  # strict: no name more or less
    return model.eval()


def test_detections_equal_torchvisions(
    ours: MaskRCNN, theirs: nn.Module, picture: Callable[[int, int, int], Tensor]
) -> None:
    image = picture(200, 240, 1)
    with torch.no_grad():
        expected = theirs([image.float() / 255])[0]
    predictor = Predictor(ours, range(1, NUM_CLASSES + 1), torch.device("cpu"))
    found = predictor.predict([image], [ImageRef(image_id=0, file_name="", uri="")])[0]
    assert len(found.scores) > 10
    np.testing.assert_array_equal(found.category_ids, expected["labels"].numpy())
    np.testing.assert_allclose(found.scores, expected["scores"].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected["boxes"].numpy(), atol=1e-3)
    bitmaps = (expected["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    encoded = coco_mask.encode(np.asfortranarray(bitmaps))
    assert found.rles == [one["counts"].decode() for one in encoded]


def test_folded_batch_norms_change_results_by_rounding_alone(ours: MaskRCNN) -> None:
    from test_predictor import assert_alike

    image, ref = make_picture(160, 220, 0), [ImageRef(image_id=0, file_name="", uri="")]
    cpu, labels = torch.device("cpu"), range(1, NUM_CLASSES + 1)
    folded = Predictor(ours, labels, cpu, fold=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded._model.modules())
    exact = Predictor(ours, labels, cpu).predict([image], ref)[0]
    assert_alike(exact, folded.predict([image], ref)[0], box_px=0.05, score=2e-3)


def test_batch_norms_learn_and_every_parameter_gets_a_gradient(ours: MaskRCNN) -> None:
    from test_maskrcnn import make_target

    model = build_mask_rcnn(V2, NUM_CLASSES, 96, 160)
    model.load_state_dict(ours.state_dict())
    before = model.backbone.fpn.inner_blocks[0][1].running_mean.clone()
    losses = model.train().losses([make_picture(160, 220, 0)], [make_target(160, 220, 3)])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert not torch.equal(model.backbone.fpn.inner_blocks[0][1].running_mean, before)
