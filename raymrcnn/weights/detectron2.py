"""detectron2's names and ours, both ways: norms inside their convolutions, background last.

Source: modeling/ in facebookresearch/detectron2@02b5c4e. Also its heads with more convolutions and
with norms (RPN.CONV_DIMS, ROI_BOX_HEAD.NUM_CONV and NORM, FPN.NORM), which torchvision's Mask R-CNN
v2 has. What a file says of pixels is checked, as weights are worth nothing under other ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from raymrcnn.errors import WeightError
from raymrcnn.weights.names import CLASS_SCORES, ROWS_OF_A_CLASS
from raymrcnn.weights.naming import Rule, num_rows, renamed

_STATE = "weight|bias|running_mean|running_var|num_batches_tracked"
_KIND = rf"(weight|bias|norm\.(?:{_STATE}))"  # of a convolution that may have a norm

_RES: tuple[Rule, ...] = (
    (rf"stem\.conv1\.norm\.({_STATE})", r"backbone.body.bn1.\1"),
    (r"stem\.conv1\.weight", r"backbone.body.conv1.weight"),
    (
        rf"res(\d)\.(\d+)\.conv(\d)\.norm\.({_STATE})",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}.{m[4]}",
    ),
    (
        r"res(\d)\.(\d+)\.conv(\d)\.weight",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}.weight",
    ),
    (
        rf"res(\d)\.(\d+)\.shortcut\.norm\.({_STATE})",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.downsample.1.{m[3]}",
    ),
    (
        r"res(\d)\.(\d+)\.shortcut\.weight",
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.downsample.0.weight",
    ),
)
_RES_BACK: tuple[Rule, ...] = (
    (rf"backbone\.body\.bn1\.({_STATE})", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (r"backbone\.body\.conv1\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (
        rf"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)\.({_STATE})",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.{m[4]}",
    ),
    (
        r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)\.weight",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.weight",
    ),
    (
        rf"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.({_STATE})",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut.norm.{m[3]}",
    ),
    (
        r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.weight",
        lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.shortcut.weight",
    ),
)
_FPN = {"lateral": "inner", "output": "layer"}
_FPN_BACK = {ours: theirs for theirs, ours in _FPN.items()}
_LAYERS = (  # of one name for one tensor, theirs and ours
    ("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
    ("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
    ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.cls_score"),
    ("roi_heads.box_predictor.bbox_pred", "roi_heads.box_predictor.bbox_pred"),
    ("roi_heads.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask"),
    ("roi_heads.mask_head.predictor", "roi_heads.mask_predictor.mask_fcn_logits"),
)
_USELESS = {
    r"proposal_generator\.anchor_generator\.cell_anchors\.\d": "anchors follow from configuration",
    r"pixel_(mean|std)": "they follow from the configuration",
    r".*\.num_batches_tracked": "nothing reads how many batches a norm has seen",
}
# What pixel_mean and pixel_std of a file may be: as in the sheet, by whether it is a ResNeXt.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = {False: (1.0, 1.0, 1.0), True: (57.375, 57.12, 58.395)}


def is_detectron2(names: set[str]) -> bool:
    """Whether these are the names of one of its detectors."""
    return any(name.startswith("backbone.bottom_up.") for name in names)


def is_detectron2_resnet(names: set[str]) -> bool:
    """Whether these are the names of one of its ImageNet networks that were torchvision's."""
    return {"stem.conv1.weight", "res2.0.conv1.weight"} <= names


def from_detectron2(
    state: Mapping[str, Tensor], background: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A detector under the names used here, and the names that were left out with their reasons.

    Args:
        state: under detectron2's names.
        background: the background's own rows by the names used here; without them they are zeros,
            and are never looked at.

    Raises:
        WeightError: it was made with other pixels than detectron2's recipes have.
    """
    _require_known_pixels(state)
    num_convs = sum(re.fullmatch(r"roi_heads\.box_head\.conv\d\.weight", n) is not None
                    for n in state)  # fmt: skip
    linear: tuple[Rule, ...] = (
        (r"roi_heads\.box_head\.fc1\.(weight|bias)", r"roi_heads.box_head.fc6.\1"),
        (r"roi_heads\.box_head\.fc2\.(weight|bias)", r"roi_heads.box_head.fc7.\1"),
    )
    if num_convs:  # a flattening layer, without tensors, lies between
        place = rf"roi_heads.box_head.{num_convs + 1}.\1"
        linear = ((r"roi_heads\.box_head\.fc1\.(weight|bias)", place),)
    rules: tuple[Rule, ...] = (
        *((rf"backbone\.bottom_up\.{pattern}", name) for pattern, name in _RES),
        (
            rf"backbone\.fpn_(lateral|output)([2-5])\.{_KIND}",
            lambda m: f"backbone.fpn.{_FPN[m[1]]}_blocks.{int(m[2]) - 2}.{_inside(m[3])}",
        ),
        (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
        (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(\w+)", r"rpn.head.conv.\1.0.\2"),
        (
            rf"roi_heads\.box_head\.conv(\d)\.{_KIND}",
            lambda m: f"roi_heads.box_head.{int(m[1]) - 1}.{_inside(m[2])}",
        ),
        *linear,
        (
            rf"roi_heads\.mask_head\.mask_fcn(\d)\.{_KIND}",
            lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.{_inside(m[2])}",
        ),
        *((rf"{re.escape(theirs)}\.(weight|bias)", rf"{ours}.\1") for theirs, ours in _LAYERS),
    )
    found, dropped = renamed(state, rules, _USELESS)
    return _background_first(found, background), dropped


def resnet_from_detectron2(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An ImageNet network of it under the names used here, and what was left out."""
    classes = {r"stem\.fc\.(weight|bias)|linear\.(weight|bias)": "the ImageNet classes"}
    return renamed(state, _RES, {**_USELESS, **classes})


def to_detectron2(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A detector under detectron2's names, and the background's rows that it has no place for.

    Args:
        state: a whole detector, under the names used here.
    """
    several = "rpn.head.conv.1.0.weight" in state
    rules: tuple[Rule, ...] = (
        *_RES_BACK,
        (
            rf"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.([01])\.({_STATE})",
            lambda m: f"backbone.fpn_{_FPN_BACK[m[1]]}{int(m[2]) + 2}.{_outside(m[3], m[4])}",
        ),
        (
            r"rpn\.head\.conv\.(\d)\.0\.(weight|bias)",
            r"proposal_generator.rpn_head.conv." + (r"conv\1.\2" if several else r"\2"),
        ),
        (
            rf"roi_heads\.box_head\.(\d)\.([01])\.({_STATE})",
            lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.{_outside(m[2], m[3])}",
        ),
        (r"roi_heads\.box_head\.(?:fc6|\d)\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
        (r"roi_heads\.box_head\.fc7\.(weight|bias)", r"roi_heads.box_head.fc2.\1"),
        (
            rf"roi_heads\.mask_head\.(\d)\.([01])\.({_STATE})",
            lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.{_outside(m[2], m[3])}",
        ),
        *((rf"{re.escape(ours)}\.(weight|bias)", rf"{theirs}.\1") for theirs, ours in _LAYERS),
    )
    moved, background = _background_last(state)
    found, _ = renamed(moved, rules, {r".*\.num_batches_tracked": "nothing reads it"})
    return found, background


def _inside(kind: str) -> str:
    """A convolution's "weight" is "0.weight" here, its "norm.weight" is "1.weight"."""
    return f"1.{kind.removeprefix('norm.')}" if kind.startswith("norm.") else f"0.{kind}"


def _outside(place: str, kind: str) -> str:
    """The other way round."""
    return f"norm.{kind}" if place == "1" else kind


def _background_first(
    state: Mapping[str, Tensor], background: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """detectron2's background is the last class, and has neither boxes nor masks."""
    moved = dict(state)
    num_classes = num_rows(state, f"{CLASS_SCORES}.weight") - 1
    for kind in ("weight", "bias"):
        logits = f"{CLASS_SCORES}.{kind}"
        if num_rows(moved, logits):
            moved[logits] = moved[logits].roll(1, 0)
        for layer, rows in ROWS_OF_A_CLASS.items():
            name = f"{layer}.{kind}"
            # Unless one class's rows are for all of several.
            if num_rows(moved, name) == rows * num_classes > 0:
                own = background.get(name)
                if own is None or own.shape != moved[name][:rows].shape:
                    own = torch.zeros_like(moved[name][:rows])
                moved[name] = torch.cat((own.to(moved[name].dtype), moved[name]))
    return moved


def _background_last(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    moved, background = dict(state), {}
    for kind in ("weight", "bias"):
        moved[f"{CLASS_SCORES}.{kind}"] = state[f"{CLASS_SCORES}.{kind}"].roll(-1, 0)
        for layer, rows in ROWS_OF_A_CLASS.items():
            name = f"{layer}.{kind}"
            if num_rows(state, name) > rows:
                background[name], moved[name] = state[name][:rows], state[name][rows:]
    return moved, background


def _require_known_pixels(state: Mapping[str, Tensor]) -> None:
    second = state.get("backbone.bottom_up.res2.0.conv2.weight")
    # A ResNeXt's groups of channels: its second convolutions see fewer than there are.
    grouped = second is not None and second.ndim == 4 and second.shape[1] < 64
    known = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD[grouped]}
    for name, expected in known.items():
        if name not in state:
            continue
        here = state[name].detach().double().flatten()
        there = torch.tensor(expected, dtype=torch.double)
        if here.shape != there.shape or not torch.allclose(here, there, rtol=0, atol=2e-3):
            raise WeightError(
                f"was made with {name} {[round(v, 3) for v in here[:4].tolist()]} instead of "
                f"{list(expected)}",
                todo="only weights of detectron2's own recipes give their accuracy here",
            )
