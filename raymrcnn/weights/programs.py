"""Whose tensors these are, told from their names, and their names here.

One table a program, each pattern for whole names. A name that no pattern knows is kept as it is,
and the strict load lists it; a name that has no use here is dropped with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from raymrcnn.weights.detectron2 import (
    from_detectron2,
    is_detectron2,
    is_detectron2_resnet,
    resnet_from_detectron2,
)
from raymrcnn.weights.names import (
    BOX_DELTAS,
    CLASS_LOGITS,
    ROWS_OF_A_CLASS,
    canonical_state,
    is_classifier,
)
from raymrcnn.weights.naming import Rule, num_rows, renamed

Sheet = Literal["torchvision", "detectron", "detectron2"]
SHEETS: tuple[Sheet, ...] = get_args(Sheet)


@dataclass(frozen=True, kw_only=True)
class Named:
    """Tensors under the names used here, and what is known of where they come from."""

    program: str  # for people
    state: dict[str, Tensor]
    # Sheets of conventions that the weights are at home in; the first is the program's own.
    conventions: tuple[Sheet, ...]
    norm_eps: float | None = None  # of its frozen batch norms; None: the conventions' own
    is_backbone: bool = False  # an ImageNet network alone
    dropped: dict[str, str] = field(default_factory=dict)  # names without a use here, and why


def recognise(raw: Mapping[str, Tensor], background: Mapping[str, Tensor] | None = None) -> Named:
    """Tensors of any known program under the names used here, each program's in its own way.

    What is of no known program comes out as it is, as torchvision's. `background` holds rows that
    detectron2 has no place for, by the names used here.

    Raises:
        WeightError: the file was made under numbers that no sheet of conventions has.
    """
    wrapped = bool(raw) and all(name.startswith("module.") for name in raw)
    state = {name.removeprefix("module.") if wrapped else name: t for name, t in raw.items()}
    names = set(state)
    if {"conv1_w", "res_conv1_bn_s"} <= names:
        return _caffe2(state)
    if any(name.startswith(("backbone.body.stem.", "roi_heads.box.predictor.")) for name in names):
        return _maskrcnn_benchmark(state)
    if is_detectron2(names):
        return _detectron2(state, background or {})
    if is_detectron2_resnet(names):
        return _detectron2_backbone(state)
    state = canonical_state(state)
    return Named(
        program="torchvision",
        state=state,
        conventions=("torchvision",),
        is_backbone=is_classifier(state),
    )


# ---- maskrcnn-benchmark: names by module, modeling/ in facebookresearch/maskrcnn-benchmark@57eec25

_BENCHMARK: tuple[Rule, ...] = (
    (r"backbone\.body\.stem\.(conv1|bn1)\.(\w+)", r"backbone.body.\1.\2"),
    (r"backbone\.body\.layer(\d)\.(\d+)\.(\w+(?:\.\d)?)\.(\w+)", r"backbone.body.layer\1.\2.\3.\4"),
    (
        r"backbone\.fpn\.fpn_inner(\d)\.(weight|bias)",
        lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 1}.0.{m[2]}",
    ),
    (
        r"backbone\.fpn\.fpn_layer(\d)\.(weight|bias)",
        lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 1}.0.{m[2]}",
    ),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"rpn\.head\.(cls_logits|bbox_pred)\.(weight|bias)", r"rpn.head.\1.\2"),
    (
        r"roi_heads\.box\.feature_extractor\.(fc6|fc7)\.(weight|bias)",
        r"roi_heads.box_head.\1.\2",
    ),
    (
        r"roi_heads\.box\.predictor\.(cls_score|bbox_pred)\.(weight|bias)",
        r"roi_heads.box_predictor.\1.\2",
    ),
    (
        r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.(weight|bias)",
        lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}",
    ),
    (
        r"roi_heads\.mask\.predictor\.(conv5_mask|mask_fcn_logits)\.(weight|bias)",
        r"roi_heads.mask_predictor.\1.\2",
    ),
)


def _maskrcnn_benchmark(state: Mapping[str, Tensor]) -> Named:
    found, dropped = renamed(
        state,
        _BENCHMARK,
        {r"rpn\.anchor_generator\.cell_anchors\.\d": "anchors follow from the configuration"},
    )
    found, unread = _one_box_for_all(found)
    return Named(
        program="maskrcnn-benchmark",
        state=found,
        conventions=("detectron",),
        dropped={**dropped, **unread},
    )


def _one_box_for_all(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Boxes of all classes at once without the background's rows, which nothing learns or reads.

    Source: roi_heads/box_head/loss.py and inference.py (CLS_AGNOSTIC_BBOX_REG), Detectron's
    roi_data/fast_rcnn.py: two classes, the background and all objects.
    """
    rows = ROWS_OF_A_CLASS[BOX_DELTAS]
    kept, unread = dict(state), {}
    for kind in ("weight", "bias"):
        name = f"{BOX_DELTAS}.{kind}"
        if num_rows(state, CLASS_LOGITS) > 2 and num_rows(state, name) == 2 * rows:
            kept[name] = state[name][rows:]
            unread[f"{name}[:{rows}]"] = "the background's rows, which nothing reads"
    return kept, unread


# ---- detectron2


def _detectron2(state: Mapping[str, Tensor], background: Mapping[str, Tensor]) -> Named:
    found, dropped = from_detectron2(state, background)
    return Named(
        program="detectron2",
        state=found,
        conventions=("detectron2",),
        dropped=dropped,
    )


def _detectron2_backbone(state: Mapping[str, Tensor]) -> Named:
    """Its ImageNet networks that were torchvision's: RGB, and striding in the 3x3."""
    found, dropped = resnet_from_detectron2(state)
    return Named(
        program="torchvision, by detectron2",
        state=found,
        conventions=("torchvision",),
        is_backbone=True,
        dropped=dropped,
    )


# ---- Caffe2 and Detectron. Source: maskrcnn_benchmark/utils/c2_model_loading.py; Detectron's
# modeling/ResNet.py, FPN.py.

_BLOCK = {"1": "downsample.0", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_BLOCK_NORM = {"1": "downsample.1", "2a": "bn1", "2b": "bn2", "2c": "bn3"}
_KIND = {"w": "weight", "b": "bias", "s": "weight"}
_LEVELS = {"2": 0, "3": 1, "4": 2, "5": 3}
_CAFFE2: tuple[Rule, ...] = (
    (r"conv1_w", "backbone.body.conv1.weight"),
    (r"res_conv1_bn_([sb])", lambda m: f"backbone.body.bn1.{_KIND[m[1]]}"),
    (
        r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_w",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.{_BLOCK[m[3]]}.weight",
    ),
    (
        r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_bn_([sb])",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.{_BLOCK_NORM[m[3]]}.{_KIND[m[4]]}",
    ),
    (
        r"fpn_inner_res([2-4])_\d+_sum_lateral_([wb])",
        lambda m: f"backbone.fpn.inner_blocks.{_LEVELS[m[1]]}.0.{_KIND[m[2]]}",
    ),
    (r"fpn_inner_res5_\d+_sum_([wb])", lambda m: f"backbone.fpn.inner_blocks.3.0.{_KIND[m[1]]}"),
    (
        r"fpn_res([2-5])_\d+_sum_([wb])",
        lambda m: f"backbone.fpn.layer_blocks.{_LEVELS[m[1]]}.0.{_KIND[m[2]]}",
    ),
    (r"conv_rpn_fpn2_([wb])", lambda m: f"rpn.head.conv.0.0.{_KIND[m[1]]}"),
    (r"rpn_cls_logits_fpn2_([wb])", lambda m: f"rpn.head.cls_logits.{_KIND[m[1]]}"),
    (r"rpn_bbox_pred_fpn2_([wb])", lambda m: f"rpn.head.bbox_pred.{_KIND[m[1]]}"),
    (r"(fc6|fc7)_([wb])", lambda m: f"roi_heads.box_head.{m[1]}.{_KIND[m[2]]}"),
    (
        r"(cls_score|bbox_pred)_([wb])",
        lambda m: f"roi_heads.box_predictor.{m[1]}.{_KIND[m[2]]}",
    ),
    (
        r"_\[mask\]_fcn(\d)_([wb])",
        lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{_KIND[m[2]]}",
    ),
    (
        r"(conv5_mask|mask_fcn_logits)_([wb])",
        lambda m: f"roi_heads.mask_predictor.{m[1]}.{_KIND[m[2]]}",
    ),
)
_CAFFE2_DROPPED = {
    r".*_momentum": "momentum of the training that made it",
    r"conv1_b|res_conv1_bn_b_momentum": "a bias that the norm behind it takes the place of",
    r"(fc1000|pred)_[wb]": "the ImageNet classes",
    r"lr|weight_order|model_iter": "the state of the training that made it",
}


def _caffe2(state: Mapping[str, Tensor]) -> Named:
    found, dropped = renamed(state, _CAFFE2, _CAFFE2_DROPPED)
    for name in [n for n in found if re.fullmatch(r".*(bn\d|downsample\.1)\.weight", n)]:
        norm = name.removesuffix("weight")  # statistics are folded into scale and shift
        found[f"{norm}running_mean"] = torch.zeros_like(found[name])
        found[f"{norm}running_var"] = torch.ones_like(found[name])
    found, unread = _one_box_for_all(found)
    detector = CLASS_LOGITS in found
    return Named(
        program="Detectron" if detector else "Caffe2",
        state=found,
        # detectron2 trains from the same files, under its own numbers.
        conventions=("detectron",) if detector else ("detectron", "detectron2"),
        norm_eps=0.0,
        is_backbone=not detector,
        dropped={**dropped, **unread},
    )
