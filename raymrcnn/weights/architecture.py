"""Which network a bare state dict belongs to, told from names and shapes.

What tensors cannot tell (anchor sizes, thresholds, image size) is taken to be the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from raymrcnn.config import ModelConfig
from raymrcnn.errors import WeightError
from raymrcnn.weights.names import (
    BODY,
    BOX_DELTAS,
    CLASS_LOGITS,
    MASK_LOGITS,
    ROWS_OF_A_CLASS,
    canonical_state,
    is_classifier,
)
from raymrcnn.weights.naming import num_rows

Backbone = Literal["resnet18", "resnet50", "resnet101", "resnext101_32x8d"]

# Blocks of the four stages, whether a block has a third convolution, and how many channels the
# second one of the first block sees: fewer than there are where they are grouped.
_BACKBONES: dict[tuple[tuple[int, ...], bool, int], Backbone] = {
    ((2, 2, 2, 2), False, 64): "resnet18",
    ((3, 4, 6, 3), True, 64): "resnet50",
    ((3, 4, 23, 3), True, 64): "resnet101",
    ((3, 4, 23, 3), True, 8): "resnext101_32x8d",
}
_NEEDED = (
    CLASS_LOGITS,
    f"{BODY}bn1.weight",
    "backbone.fpn.inner_blocks.0.0.weight",
    "rpn.head.cls_logits.weight",
    "roi_heads.mask_head.0.0.weight",
)


def infer_architecture(state: Mapping[str, Tensor]) -> tuple[ModelConfig, int]:
    """The config and the number of classes (without background) of a detector's state dict.

    Raises:
        WeightError: not a Mask R-CNN, or one that cannot be built here.
    """
    state = canonical_state(state)
    if is_classifier(state):
        raise WeightError(
            "holds an ImageNet classifier, not a detector",
            todo="train from it, or give the weights of a Mask R-CNN",
        )
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise WeightError(
            f"is not a Mask R-CNN of a known program: no {missing[0]}",
            todo="give one of torchvision, maskrcnn-benchmark, Detectron, detectron2 or raymrcnn",
        )
    num_anchors = num_rows(state, "rpn.head.cls_logits.weight")
    if num_anchors != len(ModelConfig().aspect_ratios):
        raise WeightError(
            f"has {num_anchors} anchors a cell, whose shapes the file does not tell",
            todo="give the run folder, which does",
        )
    norm = _norm(state)
    box_head_convs = _count(state, r"roi_heads\.box_head\.(\d)\.0\.weight")
    last = f"roi_heads.box_head.{box_head_convs + 1}.weight"  # a flattening layer lies between
    box_channels = num_rows(state, last if box_head_convs else "roi_heads.box_head.fc6.weight")
    if not box_channels:
        raise WeightError("is not a Mask R-CNN that can be built here: its box head is another")
    num_classes = num_rows(state, CLASS_LOGITS) - 1
    if num_classes < 1:
        raise WeightError("has no class beside the background")
    config = ModelConfig(
        backbone=_backbone(state),
        norm=norm,
        init="scratch" if norm == "group" else "imagenet",
        trainable_stages=5 if norm == "group" else 3,
        fpn_channels=num_rows(state, "backbone.fpn.inner_blocks.0.0.weight"),
        rpn_convs=_count(state, r"rpn\.head\.conv\.(\d)\.0\.weight"),
        box_head_convs=box_head_convs,
        box_head_channels=box_channels,
        mask_head_channels=num_rows(state, "roi_heads.mask_head.0.0.weight"),
        class_agnostic_boxes=_is_class_agnostic(state, BOX_DELTAS, num_classes),
        class_agnostic_masks=_is_class_agnostic(state, MASK_LOGITS, num_classes),
    )
    return config, num_classes


def _is_class_agnostic(state: Mapping[str, Tensor], layer: str, num_classes: int) -> bool:
    """Whether a layer has the rows of one class for all of several classes."""
    return num_classes > 1 and num_rows(state, f"{layer}.weight") == ROWS_OF_A_CLASS[layer]


def _norm(state: Mapping[str, Tensor]) -> Literal["frozen", "group", "batch"]:
    if f"{BODY}bn1.running_mean" not in state:
        return "group"
    # Only norms that learn stand in the pyramid as well.
    return "batch" if "backbone.fpn.inner_blocks.0.1.running_mean" in state else "frozen"


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _backbone(state: Mapping[str, Tensor]) -> Backbone:
    blocks: dict[int, set[int]] = {}
    for name in state:
        found = re.match(rf"^{re.escape(BODY)}layer(\d)\.(\d{{1,4}})\.", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    second = state.get(f"{BODY}layer1.0.conv2.weight")
    width = second.shape[1] if second is not None and second.ndim == 4 else 0
    backbone = _BACKBONES.get((counts, f"{BODY}layer1.0.conv3.weight" in state, width))
    if backbone is None:
        raise WeightError(
            f"has a backbone with {counts} blocks, which is none of "
            f"{', '.join(_BACKBONES.values())}"
        )
    return backbone
