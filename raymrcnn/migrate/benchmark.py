"""maskrcnn-benchmark's keys, also those of Cambricon's fork of it.

Source: maskrcnn_benchmark/config/defaults.py at 57eec25 for names and defaults.
"""

from __future__ import annotations

from typing import Any

from raymrcnn.migrate.steps import (
    jitter,
    merge_sizes,
    resnet,
    schedule,
    stages,
    test_time_views,
    weights,
)
from raymrcnn.migrate.translation import Program, Reading, equal

_STRIDES = [4, 8, 16, 32, 64]
_SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
_BODIES = {"R-50-FPN": 50, "R-101-FPN": 101}
_GROUP_NORM = {"BottleneckWithGN": True, "BottleneckWithFixedBatchNorm": False}

DEFAULTS: dict[str, Any] = {
    "MODEL.RPN_ONLY": False,
    "MODEL.MASK_ON": False,
    "MODEL.RETINANET_ON": False,
    "MODEL.KEYPOINT_ON": False,
    "MODEL.DEVICE": "cuda",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.WEIGHT": "",
    "INPUT.MIN_SIZE_TRAIN": [800],
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "INPUT.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.TO_BGR255": True,
    "INPUT.BRIGHTNESS": 0.0,
    "INPUT.CONTRAST": 0.0,
    "INPUT.SATURATION": 0.0,
    "INPUT.HUE": 0.0,
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.5,
    "INPUT.VERTICAL_FLIP_PROB_TRAIN": 0.0,
    "DATASETS.TRAIN": [],
    "DATASETS.TEST": [],
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.SIZE_DIVISIBILITY": 0,
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "MODEL.BACKBONE.CONV_BODY": "R-50-C4",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 2,
    "MODEL.FPN.USE_GN": False,
    "MODEL.FPN.USE_RELU": False,
    "MODEL.GROUP_NORM.DIM_PER_GP": -1,
    "MODEL.GROUP_NORM.NUM_GROUPS": 32,
    "MODEL.GROUP_NORM.EPSILON": 1e-5,
    "MODEL.RPN.USE_FPN": False,
    "MODEL.RPN.ANCHOR_SIZES": [32, 64, 128, 256, 512],
    "MODEL.RPN.ANCHOR_STRIDE": [16],
    "MODEL.RPN.ASPECT_RATIOS": [0.5, 1.0, 2.0],
    "MODEL.RPN.STRADDLE_THRESH": 0,
    "MODEL.RPN.FG_IOU_THRESHOLD": 0.7,
    "MODEL.RPN.BG_IOU_THRESHOLD": 0.3,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.MIN_SIZE": 0,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 2000,
    "MODEL.RPN.FPN_POST_NMS_PER_BATCH": True,
    "MODEL.RPN.RPN_HEAD": "SingleConvRPNHead",
    "MODEL.ROI_HEADS.USE_FPN": False,
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": 0.5,
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": 0.5,
    "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.05,
    "MODEL.ROI_HEADS.NMS": 0.5,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 100,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": [1 / 16],
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 81,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.USE_GN": False,
    "MODEL.ROI_BOX_HEAD.DILATION": 1,
    "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM": 256,
    "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS": 4,
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.PREDICTOR": "MaskRCNNC4Predictor",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": [1 / 16],
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": [256, 256, 256, 256],
    "MODEL.ROI_MASK_HEAD.RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": True,
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD": 0.5,
    "MODEL.ROI_MASK_HEAD.DILATION": 1,
    "MODEL.ROI_MASK_HEAD.USE_GN": False,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithFixedBatchNorm",
    "MODEL.RESNETS.STEM_FUNC": "StemWithFixedBatchNorm",
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 1024,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STAGE_WITH_DCN": [False] * 4,
    "SOLVER.MAX_ITER": 40000,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.BIAS_LR_FACTOR": 2,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 0.0005,
    "SOLVER.WEIGHT_DECAY_BIAS": 0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.STEPS": [30000],
    "SOLVER.WARMUP_FACTOR": 1 / 3,
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.CHECKPOINT_PERIOD": 2500,
    "SOLVER.TEST_PERIOD": 0,
    "SOLVER.IMS_PER_BATCH": 16,
    "TEST.IMS_PER_BATCH": 8,
    "TEST.MAX_ITER": -1,
    "TEST.DETECTIONS_PER_IMG": 100,
    "TEST.BBOX_AUG.ENABLED": False,
    "TEST.BBOX_AUG.H_FLIP": False,
    "TEST.BBOX_AUG.SCALES": [],
    "OUTPUT_DIR": ".",
    "PATHS_CATALOG": "",
    "DTYPE": "float32",
    "AMP_VERBOSE": False,
}

_POOLED = "boxes are pooled from levels of strides 4 to 32"
_GIVEN = "a convention of the program, which the network has fixed"


def _others(read: Reading) -> None:
    _network(read)
    norm = _norm(read)
    resnet(
        read,
        "MODEL.BACKBONE.CONV_BODY",
        _BODIES[read.value("MODEL.BACKBONE.CONV_BODY")],
        groups="MODEL.RESNETS.NUM_GROUPS",
        width="MODEL.RESNETS.WIDTH_PER_GROUP",
        stride="MODEL.RESNETS.STRIDE_IN_1X1",
    )
    stages(read, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", norm)
    weights(read, "MODEL.WEIGHT", norm)
    _heads(read, norm)
    _proposals(read)
    merge_sizes(read)
    jitter(read)
    schedule(read)
    read.fields["data.mask_targets"] = "outline"
    key = "DTYPE"
    kinds = ("float32", "float16")
    if read.value(key) in kinds:
        read.keep(key, "optim.precision", read.value(key))
    else:
        read.lose(key, f"is not {' or '.join(kinds)}; see optim.precision")
    test_time_views(
        read,
        enabled="TEST.BBOX_AUG.ENABLED",
        flip="TEST.BBOX_AUG.H_FLIP",
        sides="TEST.BBOX_AUG.SCALES",
    )


def _network(read: Reading) -> None:
    """Refuse what is no Mask R-CNN with a pyramid."""
    for key, what in (
        ("MODEL.RPN_ONLY", "proposals alone"),
        ("MODEL.RETINANET_ON", "RetinaNet"),
        ("MODEL.KEYPOINT_ON", "keypoints are not trained"),
    ):
        if read.value(key):
            read.refuse(key, what)
        read.part(key, "the same here")
    if read.value("MODEL.MASK_ON") is not True:
        read.refuse("MODEL.MASK_ON", "a detector without masks")
    read.part("MODEL.MASK_ON", "the same here")
    key = "MODEL.BACKBONE.CONV_BODY"
    if not isinstance(read.value(key), str) or read.value(key) not in _BODIES:
        read.refuse(key, f"the backbones are {', '.join(_BODIES)}")


def _norm(read: Reading) -> str:
    key = "MODEL.RESNETS.TRANS_FUNC"
    grouped = _GROUP_NORM.get(str(read.value(key)))
    if grouped is None:
        read.lose(key, "the blocks have frozen batch norm or group norm")
    norm = "group" if grouped else "frozen"
    if grouped is not None:
        read.keep(key, "model.norm", norm)
    read.same(
        "MODEL.RESNETS.STEM_FUNC",
        "StemWithGN" if grouped else "StemWithFixedBatchNorm",
        f"model.norm={norm} has that of the blocks in the stem too",
    )
    for key in ("MODEL.FPN.USE_GN", "MODEL.ROI_MASK_HEAD.USE_GN"):
        read.same(key, bool(grouped), f"model.norm={norm} decides it")
    return norm


def _heads(read: Reading, norm: str) -> None:
    key = "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR"
    convs = {"FPN2MLPFeatureExtractor": 0, "FPNXconv1fcFeatureExtractor": 1}
    kind = convs.get(str(read.value(key)))
    stacked = "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS"
    if kind:
        read.keep(stacked, "model.box_head_convs", read.value(stacked))
        read.part(key, "model.box_head_convs says it")
        read.same(
            "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM",
            read.value("MODEL.RESNETS.BACKBONE_OUT_CHANNELS"),
            "the convolutions of the box head have model.fpn_channels",
        )
    else:
        if kind is None:
            read.lose(key, f"the box heads are {' and '.join(convs)}")
        else:
            read.keep(key, "model.box_head_convs", 0)
        read.part(stacked, "of another box head than the file chooses")
        read.part("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", "of another box head than the file chooses")
    read.same(
        "MODEL.ROI_BOX_HEAD.USE_GN",
        norm == "group" and bool(kind),
        "the convolutions of the box head have model.norm, its linear layers none",
    )
    key = "MODEL.ROI_MASK_HEAD.CONV_LAYERS"
    layers = read.numbers(key)
    if len(layers) == 4 and len(set(layers)) == 1:
        read.keep(key, "model.mask_head_channels", layers[0])
    else:
        read.lose(key, "the mask head has four convolutions of one width")


def _proposals(read: Reading) -> None:
    """Proposals after the suppression: here one number, of all levels."""
    for kind in ("TRAIN", "TEST"):
        key, level = f"MODEL.RPN.FPN_POST_NMS_TOP_N_{kind}", f"MODEL.RPN.POST_NMS_TOP_N_{kind}"
        read.keep(key, f"model.rpn_post_nms_{kind.lower()}", read.value(key))
        if read.number(level) >= min(
            read.number(key), read.number(f"MODEL.RPN.PRE_NMS_TOP_N_{kind}")
        ):
            read.part(level, f"no less than {key}, so it takes nothing away")
        else:
            read.lose(level, "there is no limit for a single level")
    key = "MODEL.RPN.ANCHOR_STRIDE"
    strides = read.numbers(key)
    if equal(strides, _STRIDES):
        read.part(key, "the same here")
    else:
        read.lose(key, "anchors stand on levels of strides 4 to 64")


BENCHMARK = Program(
    name="maskrcnn-benchmark",
    conventions="detectron",
    defaults=DEFAULTS,
    fields={
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "model.fpn_channels",
        "MODEL.RPN.ANCHOR_SIZES": "model.anchor_sizes",
        "MODEL.RPN.ASPECT_RATIOS": "model.aspect_ratios",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "model.rpn_samples_per_image",
        "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": "model.rpn_pre_nms_train",
        "MODEL.RPN.PRE_NMS_TOP_N_TEST": "model.rpn_pre_nms_test",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "model.box_samples_per_image",
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": "model.box_head_channels",
        "MODEL.CLS_AGNOSTIC_BBOX_REG": "model.class_agnostic_boxes",
        "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": "data.flip_prob",
        "DATALOADER.NUM_WORKERS": "data.loader_workers",
        "DATALOADER.ASPECT_RATIO_GROUPING": "data.group_by_aspect",
        "SOLVER.BIAS_LR_FACTOR": "optim.bias_lr_factor",
        "SOLVER.TEST_PERIOD": "validate.every",
        "SOLVER.WEIGHT_DECAY_BIAS": "optim.bias_weight_decay",
    },
    fixed={
        "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "the network is Mask R-CNN"),
        "INPUT.PIXEL_MEAN": ([102.9801, 115.9465, 122.7717], _GIVEN),
        "INPUT.PIXEL_STD": ([1.0, 1.0, 1.0], _GIVEN),
        "INPUT.TO_BGR255": (True, _GIVEN),
        "INPUT.VERTICAL_FLIP_PROB_TRAIN": (0.0, "images are mirrored left and right alone"),
        "DATALOADER.SIZE_DIVISIBILITY": (32, "images are padded to multiples of 32"),
        "MODEL.FPN.USE_RELU": (False, "the pyramid has no ReLU"),
        "MODEL.GROUP_NORM.DIM_PER_GP": (-1, "group norm has 32 groups"),
        "MODEL.GROUP_NORM.NUM_GROUPS": (32, "group norm has 32 groups"),
        "MODEL.GROUP_NORM.EPSILON": (1e-5, "the epsilon of group norm is 1e-5"),
        "MODEL.RPN.USE_FPN": (True, "proposals come from the levels of a pyramid"),
        "MODEL.RPN.STRADDLE_THRESH": (0, _GIVEN),
        "MODEL.RPN.FG_IOU_THRESHOLD": (0.7, _GIVEN),
        "MODEL.RPN.BG_IOU_THRESHOLD": (0.3, _GIVEN),
        "MODEL.RPN.POSITIVE_FRACTION": (0.5, _GIVEN),
        "MODEL.RPN.NMS_THRESH": (0.7, _GIVEN),
        "MODEL.RPN.MIN_SIZE": (0, _GIVEN),
        "MODEL.RPN.FPN_POST_NMS_PER_BATCH": (True, _GIVEN),
        "MODEL.RPN.RPN_HEAD": ("SingleConvRPNHead", "the proposal head has 3x3 convolutions"),
        "MODEL.ROI_HEADS.USE_FPN": (True, _POOLED),
        "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": (0.5, _GIVEN),
        "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": (0.5, _GIVEN),
        "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": ([10.0, 10.0, 5.0, 5.0], _GIVEN),
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0.25, _GIVEN),
        "MODEL.ROI_HEADS.NMS": (0.5, _GIVEN),
        "MODEL.ROI_BOX_HEAD.PREDICTOR": ("FPNPredictor", "the predictor is that of FPN"),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (7, "boxes are pooled to 7x7"),
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (2, _GIVEN),
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": (_SCALES, _POOLED),
        "MODEL.ROI_BOX_HEAD.DILATION": (1, "no convolution of a head is dilated"),
        "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": (
            "MaskRCNNFPNFeatureExtractor",
            "the mask head has four convolutions of its own",
        ),
        "MODEL.ROI_MASK_HEAD.PREDICTOR": ("MaskRCNNC4Predictor", "masks are enlarged once"),
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": (14, "masks are pooled to 14x14"),
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": (2, _GIVEN),
        "MODEL.ROI_MASK_HEAD.POOLER_SCALES": (_SCALES, _POOLED),
        "MODEL.ROI_MASK_HEAD.RESOLUTION": (28, "masks are 28x28"),
        "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": (False, "the heads share nothing"),
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD": (0.5, "masks are cut at 0.5"),
        "MODEL.ROI_MASK_HEAD.DILATION": (1, "no convolution of a head is dilated"),
        "MODEL.RESNETS.RES5_DILATION": (1, "no convolution of the backbone is dilated"),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": (256, "the ResNets are those of torchvision"),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": (64, "the ResNets are those of torchvision"),
        "MODEL.RESNETS.STAGE_WITH_DCN": ([False] * 4, "there are no deformable convolutions"),
        "SOLVER.WARMUP_METHOD": ("linear", "the warm-up is linear"),
    },
    options={
        "MODEL.ROI_HEADS.SCORE_THRESH": "infer --score-threshold {value}",
        "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": "infer --max-detections {value}",
        "TEST.DETECTIONS_PER_IMG": "infer --max-detections {value}",
        "TEST.IMS_PER_BATCH": "infer --batch-size, images a card: {value} are those of all cards",
        "TEST.MAX_ITER": "infer --limit, in images",
        "MODEL.DEVICE": "train --device",
        "DATASETS.TRAIN": "train --data DIR; another split: --set data.train_split=NAME",
        "DATASETS.TEST": "infer --data DIR --split NAME",
        "OUTPUT_DIR": "train --out {value}",
    },
    idle={
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "the data set says it",
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": "masks are always pasted into the image",
        "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": "of no mask head with convolutions",
        "MODEL.ROI_KEYPOINT_HEAD.": "of a network without keypoints",
        "MODEL.RETINANET.": "of another network",
        "MODEL.FBNET.": "of another backbone",
        "MODEL.RESNETS.WITH_MODULATED_DCN": "of deformable convolutions",
        "MODEL.RESNETS.DEFORMABLE_GROUPS": "of deformable convolutions",
        "TEST.BBOX_AUG.": "infer --tta has what is like it",
        "TEST.EXPECTED_RESULTS": "of the other program's own tests",
        "PATHS_CATALOG": "of the other program's folders",
        "AMP_VERBOSE": "of the other program's output",
    },
    others=_others,
)
