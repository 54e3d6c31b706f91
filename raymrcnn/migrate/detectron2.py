"""detectron2's YAML keys. Its Python (lazy) configs are programs, and are not read.

Source: detectron2/config/defaults.py at 02b5c4e for names and defaults.
"""

from __future__ import annotations

from raymrcnn.migrate.detectron2_keys import DEFAULTS, FIXED, GIVEN, IDLE, RESNEXT_STD, STD
from raymrcnn.migrate.steps import (
    merge_sizes,
    resnet,
    schedule,
    stages,
    test_time_views,
    weights,
)
from raymrcnn.migrate.translation import Program, Reading, equal

_DEPTHS = (18, 50, 101)
_NORMS = {"FrozenBN": "frozen", "GN": "group", "BN": "batch"}


def _others(read: Reading) -> None:
    _network(read)
    norm = _norm(read)
    resnet(
        read,
        "MODEL.RESNETS.DEPTH",
        read.value("MODEL.RESNETS.DEPTH"),
        groups="MODEL.RESNETS.NUM_GROUPS",
        width="MODEL.RESNETS.WIDTH_PER_GROUP",
        stride="MODEL.RESNETS.STRIDE_IN_1X1",
    )
    resnext = read.fields["model.backbone"].startswith("resnext")
    read.same("MODEL.PIXEL_STD", RESNEXT_STD if resnext else STD, GIVEN)
    small = read.value("MODEL.RESNETS.DEPTH") == 18
    read.same(
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if small else 256, "the ResNets are torchvision's"
    )
    stages(read, "MODEL.BACKBONE.FREEZE_AT", norm)
    weights(read, "MODEL.WEIGHTS", norm)
    _anchors(read)
    _box_head(read, norm)
    _mask_head(read, norm)
    merge_sizes(read)
    _data(read)
    schedule(read)
    _solver(read, norm)
    test_time_views(
        read, enabled="TEST.AUG.ENABLED", flip="TEST.AUG.FLIP", sides="TEST.AUG.MIN_SIZES"
    )


def _network(read: Reading) -> None:
    """Refuse what is no Mask R-CNN with a pyramid."""
    for key, ours, what in (
        ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "another network"),
        ("MODEL.KEYPOINT_ON", False, "keypoints are not trained"),
        ("MODEL.MASK_ON", True, "a detector without masks"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "the backbone is a ResNet with FPN"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "the heads are those of Mask R-CNN"),
    ):
        if not equal(read.value(key), ours):
            read.refuse(key, what)
        read.part(key, "the same here")
    if read.value("MODEL.RESNETS.DEPTH") not in _DEPTHS:
        read.refuse("MODEL.RESNETS.DEPTH", f"the ResNets have {', '.join(map(str, _DEPTHS))}")


def _norm(read: Reading) -> str:
    key = "MODEL.RESNETS.NORM"
    said = read.value(key)
    norm = _NORMS.get(str(said), "batch" if said == "SyncBN" else "frozen")
    if said in _NORMS:
        read.keep(key, "model.norm", norm)
    else:
        read.lose(key, f"the norms are {', '.join(_NORMS)}; model.norm={norm} is taken")
        read.fields["model.norm"] = norm
    read.same("MODEL.FPN.NORM", "" if norm == "frozen" else said, f"model.norm={norm} decides it")
    return norm


def _anchors(read: Reading) -> None:
    key = "MODEL.ANCHOR_GENERATOR.SIZES"
    sizes = read.value(key)
    if isinstance(sizes, list) and all(isinstance(s, list) and len(s) == 1 for s in sizes):
        read.keep(key, "model.anchor_sizes", [size[0] for size in sizes])
    else:
        read.lose(key, "each level has one size of anchors")
    key = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
    ratios = read.value(key)
    if isinstance(ratios, list) and ratios and all(r == ratios[0] for r in ratios):
        read.keep(key, "model.aspect_ratios", ratios[0])
    else:
        read.lose(key, "all levels have the same ratios")
    key = "MODEL.RPN.CONV_DIMS"
    widths = read.numbers(key)
    if all(width in (-1, read.value("MODEL.FPN.OUT_CHANNELS")) for width in widths):
        read.keep(key, "model.rpn_convs", len(widths))
    else:
        read.lose(key, "the convolutions of the proposal head have model.fpn_channels")


def _box_head(read: Reading, norm: str) -> None:
    convs, linear = "MODEL.ROI_BOX_HEAD.NUM_CONV", "MODEL.ROI_BOX_HEAD.NUM_FC"
    read.keep(convs, "model.box_head_convs", read.value(convs))
    wanted = 1 if read.number(convs) else 2
    read.same(linear, wanted, f"with {convs} {read.value(convs)} it is {wanted}")
    width = "MODEL.ROI_BOX_HEAD.CONV_DIM"
    if read.number(convs):
        read.same(
            width,
            read.value("MODEL.FPN.OUT_CHANNELS"),
            "the convolutions of the box head have model.fpn_channels",
        )
    else:
        read.part(width, "of convolutions that the box head has not")
    has_norm = norm != "frozen" and bool(read.number(convs))
    read.same(
        "MODEL.ROI_BOX_HEAD.NORM",
        read.value("MODEL.RESNETS.NORM") if has_norm else "",
        f"model.norm={norm} decides it",
    )


def _mask_head(read: Reading, norm: str) -> None:
    key = "MODEL.ROI_MASK_HEAD.CONV_DIM"
    read.keep(key, "model.mask_head_channels", read.value(key))
    read.same(
        "MODEL.ROI_MASK_HEAD.NORM",
        "" if norm == "frozen" else read.value("MODEL.RESNETS.NORM"),
        f"model.norm={norm} decides it",
    )


def _data(read: Reading) -> None:
    key = "INPUT.RANDOM_FLIP"
    chance = {"horizontal": 0.5, "none": 0.0}.get(str(read.value(key)))
    if chance is None:
        read.lose(key, "images are mirrored left and right alone; data.flip_prob=0 is taken")
        read.fields["data.flip_prob"] = 0.0
    else:
        read.keep(key, "data.flip_prob", chance)
    key = "INPUT.MASK_FORMAT"
    targets = {"polygon": "outline", "bitmask": "bitmap"}.get(str(read.value(key)))
    if targets is None:
        read.lose(key, "is neither polygon nor bitmask")
    else:
        read.keep(key, "data.mask_targets", targets)
    key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
    read.keep(key, "data.keep_empty_images", read.value(key) is not True)
    key, threshold = "DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"
    sampler = read.value(key)
    if sampler == "RepeatFactorTrainingSampler":
        read.keep(threshold, "data.repeat_threshold", read.value(threshold))
        read.part(key, "data.repeat_threshold says it")
    elif sampler == "TrainingSampler":
        read.part(key, "the same here")
        read.part(threshold, "of a sampler that the file does not choose")
    else:
        read.lose(key, "images come in random order, or more often by data.repeat_threshold")


def _solver(read: Reading, norm: str) -> None:
    key = "SOLVER.WEIGHT_DECAY_BIAS"
    decay = read.value(key)
    read.keep(
        key,
        "optim.bias_weight_decay",
        read.value("SOLVER.WEIGHT_DECAY") if decay is None else decay,
    )
    key = "SOLVER.WEIGHT_DECAY_NORM"
    if norm == "frozen":
        read.part(key, "frozen norms are not trained")
    else:
        read.same(
            key, read.value("SOLVER.WEIGHT_DECAY"), "norms decay as optim.weight_decay and bias say"
        )
    on, kind = "SOLVER.CLIP_GRADIENTS.ENABLED", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"
    limit = "SOLVER.CLIP_GRADIENTS.CLIP_VALUE"
    if read.value(on) is not True:
        for key in (on, kind, limit, "SOLVER.CLIP_GRADIENTS.NORM_TYPE"):
            read.part(key, "off")
    elif read.value(kind) == "full_model" and read.number("SOLVER.CLIP_GRADIENTS.NORM_TYPE") == 2:
        read.keep(limit, "optim.clip_grad_norm", read.value(limit))
        for key in (on, kind, "SOLVER.CLIP_GRADIENTS.NORM_TYPE"):
            read.part(key, "optim.clip_grad_norm says it")
    else:
        for key in (on, kind, limit, "SOLVER.CLIP_GRADIENTS.NORM_TYPE"):
            if key in read.given or key == on:
                read.lose(key, "optim.clip_grad_norm clips the norm of all gradients together")
    key = "SOLVER.AMP.ENABLED"
    read.keep(key, "optim.precision", "float16" if read.value(key) is True else "float32")
    key = "SEED"
    if read.number(key) < 0:
        read.part(key, "a run has a seed here; 0 is taken")
    else:
        read.keep(key, "seed", read.value(key))


DETECTRON2 = Program(
    name="detectron2",
    conventions="detectron2",
    defaults=DEFAULTS,
    fields={
        "MODEL.FPN.OUT_CHANNELS": "model.fpn_channels",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "model.rpn_samples_per_image",
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "model.rpn_pre_nms_train",
        "MODEL.RPN.PRE_NMS_TOPK_TEST": "model.rpn_pre_nms_test",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": "model.rpn_post_nms_train",
        "MODEL.RPN.POST_NMS_TOPK_TEST": "model.rpn_post_nms_test",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "model.box_samples_per_image",
        "MODEL.ROI_BOX_HEAD.FC_DIM": "model.box_head_channels",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": "model.class_agnostic_boxes",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": "model.class_agnostic_masks",
        "DATALOADER.NUM_WORKERS": "data.loader_workers",
        "DATALOADER.ASPECT_RATIO_GROUPING": "data.group_by_aspect",
        "SOLVER.BIAS_LR_FACTOR": "optim.bias_lr_factor",
        "TEST.EVAL_PERIOD": "validate.every",
    },
    fixed=FIXED,
    options={
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "infer --score-threshold {value}",
        "TEST.DETECTIONS_PER_IMAGE": "infer --max-detections {value}",
        "MODEL.DEVICE": "train --device",
        "DATASETS.TRAIN": "train --data DIR; another split: --set data.train_split=NAME",
        "DATASETS.TEST": "infer --data DIR --split NAME",
        "OUTPUT_DIR": "train --out {value}",
    },
    idle=IDLE,
    others=_others,
)
