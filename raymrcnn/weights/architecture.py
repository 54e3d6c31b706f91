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
from raymrcnn.weights.names import BODY, CLASS_LOGITS, canonical_state, is_classifier

Backbone = Literal["resnet18", "resnet50", "resnet101"]

# Blocks of the four stages, and whether a block has a third convolution.
_BACKBONES: dict[tuple[tuple[int, ...], bool], Backbone] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
_NEEDED = (
    CLASS_LOGITS,
    f"{BODY}bn1.weight",
    "backbone.fpn.inner_blocks.0.0.weight",
    "rpn.head.cls_logits.weight",
    "roi_heads.box_head.fc6.weight",
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
    if "backbone.fpn.inner_blocks.0.1.running_mean" in state:
        raise WeightError(
            "holds torchvision's Mask R-CNN v2, whose norms and heads raymrcnn cannot build",
            todo="use MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
        )
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        raise WeightError(
            f"is not a Mask R-CNN with torchvision's names: no {missing[0]}",
            todo="give a torchvision Mask R-CNN, or a run folder of raymrcnn",
        )
    if len(state["rpn.head.cls_logits.weight"]) != len(ModelConfig().aspect_ratios):
        raise WeightError(
            f"has {len(state['rpn.head.cls_logits.weight'])} anchors a cell, whose shapes the file "
            "does not tell",
            todo="give the run folder, which does",
        )
    group = f"{BODY}bn1.running_mean" not in state
    config = ModelConfig(
        backbone=_backbone(state),
        norm="group" if group else "frozen",
        init="scratch" if group else "imagenet",
        trainable_stages=5 if group else 3,
        fpn_channels=len(state["backbone.fpn.inner_blocks.0.0.weight"]),
        box_head_channels=len(state["roi_heads.box_head.fc6.weight"]),
        mask_head_channels=len(state["roi_heads.mask_head.0.0.weight"]),
    )
    return config, len(state[CLASS_LOGITS]) - 1


def _backbone(state: Mapping[str, Tensor]) -> Backbone:
    blocks: dict[int, set[int]] = {}
    for name in state:
        found = re.match(rf"^{re.escape(BODY)}layer(\d)\.(\d+)\.", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    backbone = _BACKBONES.get((counts, f"{BODY}layer1.0.conv3.weight" in state))
    if backbone is None:
        raise WeightError(
            f"has a backbone with {counts} blocks, which is none of "
            f"{', '.join(_BACKBONES.values())}"
        )
    return backbone
