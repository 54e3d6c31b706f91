"""A sheet is right if it says what its program does."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from torch import nn
from torchvision.models.detection import _utils, faster_rcnn, roi_heads
from torchvision.ops import roi_align
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.ops.poolers import LevelMapper

from raymrcnn.config import ModelConfig
from raymrcnn.model import conventions
from raymrcnn.model.conventions import CONVENTIONS, TORCHVISION


def default(function: object, name: str) -> object:
    return inspect.signature(function).parameters[name].default


def test_torchvision_sheet_is_what_torchvision_does(reference: nn.Module) -> None:
    sheet = TORCHVISION
    rpn, heads, transform = reference.rpn, reference.roi_heads, reference.transform
    assert tuple(transform.image_mean) == sheet.image_mean
    assert tuple(transform.image_std) == sheet.image_std
    assert transform.size_divisible == sheet.size_divisible
    assert rpn.proposal_matcher.high_threshold == sheet.rpn_fg_iou
    assert rpn.proposal_matcher.low_threshold == sheet.rpn_bg_iou
    assert rpn.fg_bg_sampler.positive_fraction == sheet.rpn_positive_fraction
    assert rpn.nms_thresh == sheet.rpn_nms_iou
    assert rpn.score_thresh == sheet.rpn_score_threshold
    assert rpn.box_coder.weights == sheet.rpn_box_weights
    assert rpn.min_size == sheet.rpn_min_box_side
    assert heads.proposal_matcher.high_threshold == sheet.box_fg_iou
    assert heads.proposal_matcher.low_threshold == sheet.box_bg_iou
    assert heads.fg_bg_sampler.positive_fraction == sheet.box_positive_fraction
    assert heads.box_coder.weights == sheet.box_weights
    assert heads.box_coder.bbox_xform_clip == sheet.max_log_size_delta
    assert heads.score_thresh == sheet.score_threshold
    assert heads.nms_thresh == sheet.nms_iou
    assert heads.detections_per_img == sheet.max_detections
    assert heads.box_roi_pool.output_size == (sheet.box_pool_size,) * 2
    assert heads.mask_roi_pool.output_size == (sheet.mask_pool_size,) * 2
    assert heads.box_roi_pool.sampling_ratio == sheet.roi_sampling_ratio
    assert len(heads.mask_head) == sheet.mask_head_convs


def test_every_field_is_read_by_the_model() -> None:
    folder = Path(conventions.__file__).parent
    text = "".join(p.read_text() for p in folder.glob("*.py") if p.name != "conventions.py")
    unread = [
        field.name
        for field in dataclasses.fields(TORCHVISION)
        if f"sheet.{field.name}" not in text and f"conventions.{field.name}" not in text
    ]
    assert unread == []


def test_no_code_chooses_by_the_name_of_a_sheet() -> None:
    package = Path(conventions.__file__).parents[1]
    for path in package.rglob("*.py"):
        assert not re.search(r"conventions\s*(==|!=|in|not in)\s", path.read_text()), path


def test_constants_inside_torchvisions_functions_are_on_the_sheet() -> None:
    assert default(FrozenBatchNorm2d, "eps") == TORCHVISION.frozen_norm_eps
    assert default(roi_align, "aligned") == TORCHVISION.roi_aligned
    assert default(LevelMapper, "canonical_scale") == TORCHVISION.canonical_box_side
    assert default(LevelMapper, "canonical_level") == TORCHVISION.canonical_level
    assert default(LevelMapper, "eps") == TORCHVISION.level_eps
    assert default(_utils.BoxCoder, "bbox_xform_clip") == TORCHVISION.max_log_size_delta
    assert "min_size=1e-2" in inspect.getsource(roi_heads.RoIHeads.postprocess_detections)
    assert default(faster_rcnn.FasterRCNN, "box_nms_thresh") == TORCHVISION.nms_iou


def test_defaults_of_a_config_are_torchvisions() -> None:
    config, model = ModelConfig(), faster_rcnn.FasterRCNN
    assert config.rpn_pre_nms_train == default(model, "rpn_pre_nms_top_n_train")
    assert config.rpn_post_nms_test == default(model, "rpn_post_nms_top_n_test")
    assert config.rpn_samples_per_image == default(model, "rpn_batch_size_per_image")
    assert config.box_samples_per_image == default(model, "box_batch_size_per_image")
    assert config.conventions in CONVENTIONS
