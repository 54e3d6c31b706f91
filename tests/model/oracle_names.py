"""Names of other programs' tensors under ours, written a second time, apart from the product's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

BENCHMARK = (
    (r"^module\.", ""),
    (r"^backbone\.body\.stem\.", "backbone.body."),
    (r"^backbone\.fpn\.fpn_inner(\d)", r"backbone.fpn.inner_blocks.\1.0"),
    (r"^backbone\.fpn\.fpn_layer(\d)", r"backbone.fpn.layer_blocks.\1.0"),
    (r"^rpn\.head\.conv\.", "rpn.head.conv.0.0."),
    (r"^roi_heads\.box\.feature_extractor", "roi_heads.box_head"),
    (r"^roi_heads\.box\.predictor", "roi_heads.box_predictor"),
    (r"^roi_heads\.mask\.feature_extractor\.mask_fcn(\d)", r"roi_heads.mask_head.\1.0"),
    (r"^roi_heads\.mask\.predictor", "roi_heads.mask_predictor"),
)
DETECTRON2 = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm", "backbone.body.bn1"),
    (r"^backbone\.bottom_up\.stem\.", "backbone.body."),
    (r"^backbone\.bottom_up\.res(\d)", r"backbone.body.layer\1"),
    (r"\.conv(\d)\.norm", r".bn\1"),
    (r"\.shortcut\.norm", ".downsample.1"),
    (r"\.shortcut", ".downsample.0"),
    (r"^backbone\.fpn_lateral(\d)", r"backbone.fpn.inner_blocks.\1.0"),
    (r"^backbone\.fpn_output(\d)", r"backbone.fpn.layer_blocks.\1.0"),
    (r"^proposal_generator\.rpn_head\.conv", "rpn.head.conv.0.0"),
    (r"^proposal_generator\.rpn_head\.objectness_logits", "rpn.head.cls_logits"),
    (r"^proposal_generator\.rpn_head\.anchor_deltas", "rpn.head.bbox_pred"),
    (r"box_head\.fc1", "box_head.fc6"),
    (r"box_head\.fc2", "box_head.fc7"),
    (r"mask_head\.mask_fcn(\d)", r"mask_head.\1.0"),
    (r"mask_head\.deconv", "mask_predictor.conv5_mask"),
    (r"mask_head\.predictor", "mask_predictor.mask_fcn_logits"),
)
# What the programs count from: taken from the number that follows one of these.
FIRST = {
    "maskrcnn_benchmark": {"inner_blocks": 1, "layer_blocks": 1, "mask_head": 1},
    "detectron2": {"body.layer": 1, "inner_blocks": 2, "layer_blocks": 2, "mask_head": 1},
}


def ours(program: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of the programs, for a network of ours with as many classes."""
    rules = BENCHMARK if program == "maskrcnn_benchmark" else DETECTRON2
    found = {}
    for name, tensor in state.items():
        if "cell_anchors" in name:
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        for place, first in FIRST[program].items():
            name = re.sub(
                rf"(\b{place}\.?)(\d)",
                lambda m, first=first: f"{m[1]}{int(m[2]) - first}",
                name,
                count=1,
            )
        found[name] = tensor
    return _background_first(found) if program == "detectron2" else found


def _background_first(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's background is the last class, and has neither deltas nor a mask."""
    for kind in ("weight", "bias"):
        logits = f"roi_heads.box_predictor.cls_score.{kind}"
        state[logits] = state[logits].roll(1, 0)
        for name, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
            tensor = state[f"roi_heads.{name}.{kind}"]
            nothing = torch.zeros_like(tensor[:rows])
            state[f"roi_heads.{name}.{kind}"] = torch.cat((nothing, tensor))
    return state
