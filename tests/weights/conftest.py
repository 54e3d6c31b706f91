"""A small network and its state dict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raymrcnn.config import ModelConfig
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn

torch.set_num_threads(1)

# The smallest that is built: 13 million values, most of them the ResNet-18.
SMALL = ModelConfig(
    backbone="resnet18", fpn_channels=16, box_head_channels=32, mask_head_channels=16
)


def make_model(num_classes: int = 3, seed: int = 0) -> MaskRCNN:
    torch.manual_seed(seed)
    return build_mask_rcnn(SMALL, num_classes, 64, 96)


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """Of a small detector with 3 classes."""
    return dict(make_model().state_dict())


@pytest.fixture
def model() -> MaskRCNN:
    """Another small detector with 3 classes, of other values."""
    return make_model(seed=1)


@pytest.fixture
def five_classes() -> MaskRCNN:
    return make_model(5, seed=1)


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    return SMALL
