"""Weights into another program's file, and what that program would do with them in another way.

The tensors go over bit for bit. Numbers that are no tensors (which channel comes first, where a
block halves) do not: they are the other program's configuration, and what differs is told.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from raymrcnn.config import ModelConfig
from raymrcnn.errors import WeightError
from raymrcnn.infer.inspect import inspect_weights
from raymrcnn.model.backbone import is_resnext
from raymrcnn.model.conventions import CONVENTIONS, Conventions
from raymrcnn.structures import ModelInfo
from raymrcnn.weights.export import require_target, write_converted
from raymrcnn.weights.files import sha256_of
from raymrcnn.weights.programs import Sheet
from raymrcnn.weights.records import BackboneInfo
from raymrcnn.weights.source import ModelSource, load_model_source, load_source

# What a prediction depends on; the other fields of a sheet are about training.
_OF_PREDICTION = (
    "channel_order", "pixel_scale", "image_mean", "image_std", "size_rule", "resize_filter",
    "frozen_norm_eps", "stride_in_1x1", "top_down", "extra_width", "nms_drops_equal",
    "anchor_rounding", "anchor_centre", "anchor_stride_from_grid", "rpn_ranks_logits",
    "rpn_box_weights", "box_weights", "min_box_side", "roi_sampling_ratio", "roi_aligned",
    "mask_paste",
)  # fmt: skip
# How a user of the other program sets it.
_SET_BY = {
    "torchvision": {
        "image_mean": "MaskRCNN(image_mean=...)",
        "image_std": "MaskRCNN(image_std=...)",
        "channel_order": "images.flip(0) before the call",
        "pixel_scale": "image_mean and image_std, divided by 255",
        "frozen_norm_eps": "torchvision.models.detection._utils.overwrite_eps",
        "stride_in_1x1": "the stride of each Bottleneck's conv1 and conv2",
        "roi_sampling_ratio": "MaskRCNN(box_roi_pool=..., mask_roi_pool=...)",
        "anchor_sizes": "MaskRCNN(rpn_anchor_generator=...)",
        "aspect_ratios": "MaskRCNN(rpn_anchor_generator=...)",
        "rpn_pre_nms_test": "MaskRCNN(rpn_pre_nms_top_n_test=...)",
        "rpn_post_nms_test": "MaskRCNN(rpn_post_nms_top_n_test=...)",
        "short_side": "MaskRCNN(min_size=...)",
        "long_side": "MaskRCNN(max_size=...)",
    },
    "detectron2": {
        "image_mean": "MODEL.PIXEL_MEAN",
        "image_std": "MODEL.PIXEL_STD",
        "channel_order": "INPUT.FORMAT",
        "pixel_scale": "MODEL.PIXEL_MEAN and PIXEL_STD, times 255",
        "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
        "roi_sampling_ratio": "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO, and of the mask head",
        "roi_aligned": "MODEL.ROI_BOX_HEAD.POOLER_TYPE (ROIAlign), and of the mask head",
        "anchor_centre": "MODEL.ANCHOR_GENERATOR.OFFSET",
        "anchor_sizes": "MODEL.ANCHOR_GENERATOR.SIZES",
        "aspect_ratios": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        "rpn_pre_nms_test": "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "rpn_post_nms_test": "MODEL.RPN.POST_NMS_TOPK_TEST",
        "short_side": "INPUT.MIN_SIZE_TEST",
        "long_side": "INPUT.MAX_SIZE_TEST",
    },
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A number that the other program has otherwise."""

    name: str  # of the field of the sheet or of the recipe's section `model`
    weights: str  # that the weights are at home with
    program: str  # that the other program has by default
    set_by: str  # how it is set there; "": it cannot be


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written."""

    source: str
    path: str
    target: str
    kind: str  # "detector" or "backbone"
    num_tensors: int
    sha256: str  # of the new file
    differences: tuple[Difference, ...]
    load_with: str  # a line of the other program's code or configuration

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dictionary."""
        return asdict(self)


def convert_weights(source: str, target: str, out: Path, overwrite: bool = False) -> Converted:
    """Write weights as another program reads them.

    Args:
        source: see `raymrcnn.weights.load_source`.
        target: safetensors (for raymrcnn), torchvision or detectron2.
        out: the file.
        overwrite: whether it may be there already.

    Raises:
        WeightError: not weights, not whole, or of a kind that the program has no file for.
        ConfigError, OutputError: see `raymrcnn.weights.export`.
    """
    require_target(target, out, overwrite)
    kind = inspect_weights(source).kind
    if kind == "detector":
        found = load_model_source(source)
        info = ModelInfo(
            model=asdict(found.config),
            categories=found.categories,
            short_side=found.short_side,
            long_side=found.long_side,
        )
        state, where = found.state, found.description
        shared = found.config.shared_heads(len(found.categories))
        if target == "torchvision" and shared:
            raise WeightError(
                f"has {' and '.join(shared)} of all classes at once, which "
                "torchvision's heads cannot have",
                where=where,
                todo="--to detectron2, or --to safetensors",
            )
        differences = () if target == "safetensors" else _differences(found, target)
        write_converted(state, info, target, out)
        load_with = _load_with(found, target)
    else:
        backbone = load_source(source)
        state, where = backbone.state, backbone.description
        if target != "safetensors":
            raise WeightError(
                f"is an ImageNet network alone, and {target} has a file for whole detectors",
                where=where,
                todo="--to safetensors, or give a detector",
            )
        about = BackboneInfo(
            program=backbone.program, conventions=backbone.conventions, norm_eps=backbone.norm_eps
        )
        write_converted(state, about, target, out)
        differences, load_with = (), "raymrcnn train --weights"
    return Converted(
        source=where,
        path=str(out),
        target=target,
        kind=kind,
        num_tensors=len(state),
        sha256=sha256_of(out),
        differences=differences,
        load_with=load_with,
    )


def _differences(found: ModelSource, target: str) -> tuple[Difference, ...]:
    """What predictions depend on and the other program has otherwise."""
    other = ModelConfig(conventions=cast("Sheet", target), backbone=found.config.backbone)
    own, theirs = _sheet(found.config), _sheet(other)
    pairs = [(name, getattr(own, name), getattr(theirs, name)) for name in _OF_PREDICTION]
    plain = ModelConfig()
    for name in ("anchor_sizes", "aspect_ratios", "rpn_pre_nms_test", "rpn_post_nms_test"):
        pairs.append((name, getattr(found.config, name), getattr(plain, name)))
    pairs += [("short_side", found.short_side, 800), ("long_side", found.long_side, 1333)]
    return tuple(
        Difference(
            name=name,
            weights=_shown(here),
            program=_shown(there),
            set_by=_SET_BY[target].get(name, ""),
        )
        for name, here, there in pairs
        if here != there
    )


def _sheet(config: ModelConfig) -> Conventions:
    """The numbers that a network of this config has."""
    sheet = CONVENTIONS[config.conventions]
    if config.frozen_norm_eps is not None:
        sheet = replace(sheet, frozen_norm_eps=config.frozen_norm_eps)
    if config.norm != "frozen":  # norms that learn have torch's own eps in every program
        sheet = replace(sheet, frozen_norm_eps=1e-5)
    if is_resnext(config.backbone):
        sheet = replace(sheet, image_std=sheet.resnext_image_std, stride_in_1x1=False)
    elif config.backbone == "resnet18":  # its blocks have no 1x1
        sheet = replace(sheet, stride_in_1x1=False)
    return sheet


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _load_with(found: ModelSource, target: str) -> str:
    """How the other program builds the network that takes the file whole."""
    config, num_classes = found.config, len(found.categories)
    if target == "safetensors":
        return "raymrcnn infer --weights"
    v1 = (config.rpn_convs, config.box_head_convs) == (1, 0)
    v2 = (config.rpn_convs, config.box_head_convs) == (2, 4) and config.norm == "batch"
    sizes = (config.fpn_channels, config.box_head_channels, config.mask_head_channels)
    plain = sizes == (256, 1024, 256) and len(config.aspect_ratios) == 3
    if target == "torchvision":
        if plain and config.backbone == "resnet50" and (v2 or (v1 and config.norm == "frozen")):
            name = "maskrcnn_resnet50_fpn_v2" if v2 else "maskrcnn_resnet50_fpn"
            return f"{name}(weights=None, weights_backbone=None, num_classes={num_classes + 1})"
        if plain and v1 and config.norm == "frozen":
            return (
                f"MaskRCNN(resnet_fpn_backbone(backbone_name={config.backbone!r}, weights=None), "
                f"num_classes={num_classes + 1})"
            )
        return "a MaskRCNN of torchvision's parts with these sizes"
    keys = {
        "boxes": " MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True",
        "masks": " MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True",
    }
    agnostic = "".join(keys[what] for what in config.shared_heads(num_classes))
    return f"MODEL.ROI_HEADS.NUM_CLASSES {num_classes}{agnostic}" + (
        "" if plain and v1 and config.norm == "frozen" else ", and these sizes and norms of heads"
    )
