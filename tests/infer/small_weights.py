"""A network small enough for tests, untrained: it finds some tens of objects in any image."""

from __future__ import annotations

from pathlib import Path

import torch

from raymrcnn.config import ModelConfig, override
from raymrcnn.data.synthetic import CATEGORIES
from raymrcnn.model.maskrcnn import MaskRCNN, build_mask_rcnn
from raymrcnn.model.predictor import Predictor
from raymrcnn.recipes import tiny
from raymrcnn.structures import Category, ModelInfo
from raymrcnn.train.checkpoint import save_checkpoint

torch.set_num_threads(1)

SMALL = override(
    tiny(),
    [
        "model.fpn_channels=16",
        "model.box_head_channels=32",
        "model.mask_head_channels=16",
        "model.rpn_pre_nms_test=40",
        "model.rpn_post_nms_test=12",
        "data.short_side=64",
        "data.long_side=96",
    ],
)
CATEGORY_IDS = tuple(CATEGORIES)


def small_model(seed: int = 0, config: ModelConfig = SMALL.model) -> MaskRCNN:
    torch.manual_seed(seed)
    sides = SMALL.data.short_side, SMALL.data.long_side
    return build_mask_rcnn(config, len(CATEGORY_IDS), *sides).eval()


def small_predictor(seed: int = 0) -> Predictor:
    return Predictor(small_model(seed), CATEGORY_IDS, torch.device("cpu"), max_detections=20)


def write_run(run: Path, seed: int = 0) -> Path:
    """Write a checkpoint, the only thing of a run that inference reads."""
    info = ModelInfo(
        model=SMALL.to_json()["model"],
        categories=tuple(Category(id=k, name=name) for k, name in CATEGORIES.items()),
        short_side=SMALL.data.short_side,
        long_side=SMALL.data.long_side,
    )
    save_checkpoint(run, 1, small_model(seed).state_dict(), {}, info, keep=1)
    return run
