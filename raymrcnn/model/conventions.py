"""Convention sheets: the numbers in which Mask R-CNN programs differ, each a named field.

Weights trained under one sheet give their accuracy only under that sheet. A field stands here if
the model reads it; what all sheets share is not repeated. No code chooses by a sheet's name.

Sources. torchvision 0.26, relative to torchvision/: [fr] models/detection/faster_rcnn.py, [mr]
models/detection/mask_rcnn.py, [rpn] models/detection/rpn.py, [roi] models/detection/roi_heads.py,
[u] models/detection/_utils.py, [t] models/detection/transform.py, [a]
models/detection/anchor_utils.py, [p] ops/poolers.py, [m] ops/misc.py, [b] ops/boxes.py.
maskrcnn-benchmark 57eec25, relative to maskrcnn_benchmark/: [d] config/defaults.py, otherwise the
path; its recipe is configs/e2e_mask_rcnn_R_101_FPN_1x.yaml. detectron2 02b5c4e, relative to
detectron2/: [d] config/defaults.py, [y] configs/Base-RCNN-FPN.yaml, otherwise the path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Numbers3 = tuple[float, float, float]
Weights4 = tuple[float, float, float, float]

_ANY_SIDE = 2.0**-126  # the smallest normal float32: every box with an area is as wide


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """One program's numbers. Lengths in pixels of the resized image unless said otherwise."""

    # Input: (channels / pixel_scale - image_mean) / image_std, zero padding to a multiple.
    channel_order: Literal["RGB", "BGR"]  # what the first convolution expects
    pixel_scale: float  # 0-to-255 values are divided by this
    image_mean: Numbers3  # in channel_order, after pixel_scale
    image_std: Numbers3
    resnext_image_std: Numbers3  # instead of image_std where the backbone is a ResNeXt
    size_divisible: int
    size_rule: Literal["floor", "short_first", "nearest"]  # see resize.py, SIZE_RULES
    # "float": bilinear on normalised values, no smoothing; "pillow": Pillow's bilinear on bytes.
    resize_filter: Literal["float", "pillow"]

    # Backbone.
    frozen_norm_eps: float  # added to the variance of a frozen batch norm
    stride_in_1x1: bool  # a ResNet halves in the first 1x1 convolution; a ResNeXt never does
    top_down: Literal["nearest", "bilinear"]  # how FPN enlarges the level above

    # Boxes. 1: x2 and y2 are the last pixels that belong to a box, so its width is x2 - x1 + 1;
    # 0: they are where it ends.
    extra_width: float
    nms_drops_equal: bool  # a box that overlaps a better one by exactly the threshold is dropped

    # Region proposals. IoU thresholds are between 0 and 1.
    anchor_rounding: Literal["corners", "cell", "none"]  # see anchors.py
    anchor_centre: float  # where in its cell an anchor stands: 0 the corner, 0.5 the middle
    anchor_stride_from_grid: bool  # padded size // cells of the level, instead of a power of two
    rpn_fg_iou: float  # an anchor at or above is an object
    rpn_bg_iou: float  # an anchor below is background; between the two it is ignored
    rpn_positive_fraction: float  # of the sampled anchors
    rpn_ignores_crossing: bool  # anchors that cross the edge of the image are not learnt from
    rpn_top_n_per_batch: bool  # in training the best proposals of all images together are kept
    rpn_loss_over_quota: bool  # losses are divided by anchors to sample, not by anchors sampled
    rpn_box_beta: float  # where smooth L1 turns from square to straight; 0: L1
    rpn_nms_iou: float  # a box that overlaps a better one by more is dropped
    rpn_score_threshold: float  # of the sigmoid of the objectness
    # Proposals are ranked by the logits themselves; their sigmoid is 1 for all that are above 17.
    rpn_ranks_logits: bool
    rpn_box_weights: Weights4  # multiply the x, y, width, height deltas
    rpn_min_box_side: float  # a proposal must be as wide and as high, extra_width counted

    # Boxes of the second stage.
    box_fg_iou: float
    box_bg_iou: float
    box_positive_fraction: float
    box_beta: float
    box_weights: Weights4
    max_log_size_delta: float  # decoded width and height grow by at most the exp of this
    score_threshold: float  # a detection must score above
    nms_iou: float
    max_detections: int  # an image
    min_box_side: float  # asked for before the suppression
    drop_empty: bool  # boxes without area are dropped from the best, when scaled back

    # Pooling.
    box_pool_size: int  # cells a side
    mask_pool_size: int
    roi_sampling_ratio: int  # samples a side in each cell; 0 or less: adapted to the box
    roi_aligned: bool  # whether box coordinates are moved by half a pixel first
    canonical_box_side: float  # a box of this side is pooled from level `canonical_level`
    canonical_level: int
    level_eps: float  # added before the level is rounded down
    level_eps_in_log: bool  # added to the ratio of sides, before its logarithm

    # Masks.
    mask_head_convs: int
    mask_paste: Literal["stretched", "sampled"]  # see paste.py
    # What the mask of an object is in a box, for training: RoIAlign of its bitmap, and if there is
    # a threshold, 1 where it is reached. By default both other programs fill outlines in the box
    # instead: `data.mask_targets` in a recipe.
    mask_target_aligned: bool
    mask_target_threshold: float | None

    # Fresh heads. "torch": linear layers as torch makes them; "caffe2": uniform by fan-in, without
    # bias, and those of classes and deltas normal with deviations of 0.01 and 0.001.
    box_init: Literal["torch", "caffe2"]
    mask_logits_std: float | None  # of normal weights of the last layer; None: by fan-out


TORCHVISION = Conventions(
    channel_order="RGB",  # references/detection and ToTensor: PIL's own order
    pixel_scale=255.0,  # transforms/functional.py, to_tensor: div(255)
    image_mean=(0.485, 0.456, 0.406),  # [fr] FasterRCNN.__init__
    image_std=(0.229, 0.224, 0.225),  # [fr] FasterRCNN.__init__
    resnext_image_std=(0.229, 0.224, 0.225),  # the same
    size_divisible=32,  # [t] GeneralizedRCNNTransform.__init__
    size_rule="floor",  # [t] _resize_image_and_masks: interpolate by a scale_factor
    resize_filter="float",  # [t] _resize_image_and_masks, after normalize
    frozen_norm_eps=1e-5,  # [m] FrozenBatchNorm2d; the published COCO_V1 file needs 0, see weights
    stride_in_1x1=False,  # models/resnet.py, Bottleneck: "ResNet V1.5"
    top_down="nearest",  # ops/feature_pyramid_network.py, forward
    extra_width=0.0,  # [b] box_area
    nms_drops_equal=False,  # csrc/ops/cpu/nms_kernel.cpp: ovr > iou_threshold
    anchor_rounding="corners",  # [a] generate_anchors
    anchor_centre=0.0,  # [a] grid_anchors
    anchor_stride_from_grid=True,  # [a] forward
    rpn_fg_iou=0.7,  # [fr] rpn_fg_iou_thresh
    rpn_bg_iou=0.3,  # [fr] rpn_bg_iou_thresh
    rpn_positive_fraction=0.5,  # [fr] rpn_positive_fraction
    rpn_ignores_crossing=False,  # [rpn] assign_targets_to_anchors looks at no edge
    rpn_top_n_per_batch=False,  # [rpn] filter_proposals
    rpn_loss_over_quota=False,  # [rpn] compute_loss
    rpn_box_beta=1 / 9,  # [rpn] compute_loss
    rpn_nms_iou=0.7,  # [fr] rpn_nms_thresh
    rpn_score_threshold=0.0,  # [fr] rpn_score_thresh
    rpn_ranks_logits=False,  # [rpn] filter_proposals
    rpn_box_weights=(1.0, 1.0, 1.0, 1.0),  # [rpn] RegionProposalNetwork.__init__
    rpn_min_box_side=1e-3,  # [rpn] min_size
    box_fg_iou=0.5,  # [fr] box_fg_iou_thresh
    box_bg_iou=0.5,  # [fr] box_bg_iou_thresh
    box_positive_fraction=0.25,  # [fr] box_positive_fraction
    box_beta=1 / 9,  # [roi] fastrcnn_loss
    box_weights=(10.0, 10.0, 5.0, 5.0),  # [roi] bbox_reg_weights
    max_log_size_delta=math.log(1000.0 / 16),  # [u] BoxCoder
    score_threshold=0.05,  # [fr] box_score_thresh; strictly above: [roi] postprocess_detections
    nms_iou=0.5,  # [fr] box_nms_thresh
    max_detections=100,  # [fr] box_detections_per_img
    min_box_side=1e-2,  # [roi] postprocess_detections
    drop_empty=False,  # [t] postprocess
    box_pool_size=7,  # [fr] box_roi_pool
    mask_pool_size=14,  # [mr] mask_roi_pool
    roi_sampling_ratio=2,  # [fr], [mr]
    roi_aligned=False,  # [p] _multiscale_roi_align leaves roi_align's default
    canonical_box_side=224.0,  # [p] MultiScaleRoIAlign
    canonical_level=4,  # [p] MultiScaleRoIAlign
    level_eps=1e-6,  # [p] LevelMapper
    level_eps_in_log=False,  # [p] LevelMapper.__call__
    mask_head_convs=4,  # [mr] mask_layers
    mask_paste="stretched",  # [roi] paste_mask_in_image
    mask_target_aligned=False,  # [roi] project_masks_on_boxes
    mask_target_threshold=None,  # [roi] maskrcnn_loss
    box_init="torch",  # [fr] TwoMLPHead, FastRCNNPredictor
    mask_logits_std=None,  # [mr] MaskRCNNPredictor
)

DETECTRON = Conventions(  # maskrcnn-benchmark, and with it Caffe2's Detectron and Cambricon's fork
    channel_order="BGR",  # [d] INPUT.TO_BGR255
    pixel_scale=1.0,  # [d] INPUT.TO_BGR255
    image_mean=(102.9801, 115.9465, 122.7717),  # [d] INPUT.PIXEL_MEAN
    image_std=(1.0, 1.0, 1.0),  # [d] INPUT.PIXEL_STD
    resnext_image_std=(1.0, 1.0, 1.0),  # configs/e2e_mask_rcnn_X_101_32x8d_FPN_1x.yaml: unchanged
    size_divisible=32,  # the recipe, DATALOADER.SIZE_DIVISIBILITY; Cambricon's fork: 16
    size_rule="short_first",  # data/transforms/transforms.py, Resize.get_size
    resize_filter="pillow",  # data/transforms/transforms.py, Resize: on the opened image
    frozen_norm_eps=0.0,  # layers/batch_norm.py, FrozenBatchNorm2d.forward
    stride_in_1x1=True,  # [d] RESNETS.STRIDE_IN_1X1; X_101_32x8d_FPN_1x.yaml: False
    top_down="nearest",  # modeling/backbone/fpn.py, FPN.forward; Cambricon's fork: bilinear
    extra_width=1.0,  # structures/bounding_box.py, TO_REMOVE
    nms_drops_equal=True,  # csrc/cpu/nms_cpu.cpp: ovr >= threshold; csrc/cuda/nms.cu: >
    anchor_rounding="cell",  # modeling/rpn/anchor_generator.py, _ratio_enum
    anchor_centre=0.5,  # modeling/rpn/anchor_generator.py, _whctrs
    anchor_stride_from_grid=False,  # the recipe, RPN.ANCHOR_STRIDE
    rpn_fg_iou=0.7,  # [d] RPN.FG_IOU_THRESHOLD
    rpn_bg_iou=0.3,  # [d] RPN.BG_IOU_THRESHOLD
    rpn_positive_fraction=0.5,  # [d] RPN.POSITIVE_FRACTION
    rpn_ignores_crossing=True,  # [d] RPN.STRADDLE_THRESH: 0; AnchorGenerator.add_visibility_to
    rpn_top_n_per_batch=True,  # [d] RPN.FPN_POST_NMS_PER_BATCH
    rpn_loss_over_quota=False,  # modeling/rpn/loss.py, RPNLossComputation.__call__
    rpn_box_beta=1 / 9,  # modeling/rpn/loss.py, RPNLossComputation.__call__
    rpn_nms_iou=0.7,  # [d] RPN.NMS_THRESH
    rpn_score_threshold=0.0,  # modeling/rpn/inference.py has none
    rpn_ranks_logits=False,  # modeling/rpn/inference.py, forward_for_single_feature_map
    rpn_box_weights=(1.0, 1.0, 1.0, 1.0),  # modeling/rpn/rpn.py, RPNModule.__init__
    rpn_min_box_side=0.0,  # [d] RPN.MIN_SIZE
    box_fg_iou=0.5,  # [d] ROI_HEADS.FG_IOU_THRESHOLD
    box_bg_iou=0.5,  # [d] ROI_HEADS.BG_IOU_THRESHOLD
    box_positive_fraction=0.25,  # [d] ROI_HEADS.POSITIVE_FRACTION
    box_beta=1.0,  # modeling/roi_heads/box_head/loss.py, FastRCNNLossComputation.__call__
    box_weights=(10.0, 10.0, 5.0, 5.0),  # [d] ROI_HEADS.BBOX_REG_WEIGHTS
    max_log_size_delta=math.log(1000.0 / 16),  # modeling/box_coder.py
    score_threshold=0.05,  # [d] ROI_HEADS.SCORE_THRESH; strictly above: box_head/inference.py
    nms_iou=0.5,  # [d] ROI_HEADS.NMS
    max_detections=100,  # [d] ROI_HEADS.DETECTIONS_PER_IMG
    min_box_side=0.0,  # box_head/inference.py, clip_to_image(remove_empty=False)
    drop_empty=False,  # the same
    box_pool_size=7,  # the recipe, ROI_BOX_HEAD.POOLER_RESOLUTION
    mask_pool_size=14,  # the recipe, ROI_MASK_HEAD.POOLER_RESOLUTION
    roi_sampling_ratio=2,  # the recipe, POOLER_SAMPLING_RATIO of both heads
    roi_aligned=False,  # csrc/cpu/ROIAlign_cpu.cpp
    canonical_box_side=224.0,  # modeling/poolers.py, LevelMapper
    canonical_level=4,  # modeling/poolers.py, LevelMapper
    level_eps=1e-6,  # modeling/poolers.py, LevelMapper
    level_eps_in_log=True,  # modeling/poolers.py, LevelMapper.__call__
    mask_head_convs=4,  # [d] ROI_MASK_HEAD.CONV_LAYERS
    mask_paste="stretched",  # modeling/roi_heads/mask_head/inference.py, Masker
    mask_target_aligned=True,  # structures/segmentation_mask.py, PolygonInstance.crop: no shift
    mask_target_threshold=0.5,  # mask_head/loss.py, project_masks_on_boxes: 0 or 1
    box_init="caffe2",  # modeling/make_layers.py, make_fc; box_head/roi_box_predictors.py
    mask_logits_std=None,  # mask_head/roi_mask_predictors.py, MaskRCNNC4Predictor
)

DETECTRON2 = Conventions(
    channel_order="BGR",  # [d] INPUT.FORMAT
    pixel_scale=1.0,  # modeling/meta_arch/rcnn.py, preprocess_image: 0 to 255
    image_mean=(103.530, 116.280, 123.675),  # [d] MODEL.PIXEL_MEAN
    image_std=(1.0, 1.0, 1.0),  # [d] MODEL.PIXEL_STD
    resnext_image_std=(57.375, 57.120, 58.395),  # configs/.../mask_rcnn_X_101_32x8d_FPN_3x.yaml
    size_divisible=32,  # modeling/backbone/fpn.py, FPN.size_divisibility
    size_rule="nearest",  # data/transforms/augmentation_impl.py, ResizeShortestEdge
    resize_filter="pillow",  # data/transforms/transform.py, ResizeTransform
    frozen_norm_eps=1e-5,  # layers/batch_norm.py, FrozenBatchNorm2d
    stride_in_1x1=True,  # [d] RESNETS.STRIDE_IN_1X1; mask_rcnn_X_101_32x8d_FPN_3x.yaml: False
    top_down="nearest",  # modeling/backbone/fpn.py, FPN.forward
    extra_width=0.0,  # structures/boxes.py, Boxes.area
    nms_drops_equal=False,  # layers/nms.py: torchvision's
    anchor_rounding="none",  # modeling/anchor_generator.py, generate_cell_anchors
    anchor_centre=0.0,  # [d] ANCHOR_GENERATOR.OFFSET
    anchor_stride_from_grid=False,  # modeling/anchor_generator.py, _grid_anchors
    rpn_fg_iou=0.7,  # [d] RPN.IOU_THRESHOLDS
    rpn_bg_iou=0.3,  # [d] RPN.IOU_THRESHOLDS
    rpn_positive_fraction=0.5,  # [d] RPN.POSITIVE_FRACTION
    rpn_ignores_crossing=False,  # [d] RPN.BOUNDARY_THRESH: -1
    rpn_top_n_per_batch=False,  # modeling/proposal_generator/proposal_utils.py
    rpn_loss_over_quota=True,  # modeling/proposal_generator/rpn.py, losses: normalizer
    rpn_box_beta=0.0,  # [d] RPN.SMOOTH_L1_BETA
    rpn_nms_iou=0.7,  # [d] RPN.NMS_THRESH
    rpn_score_threshold=0.0,  # modeling/proposal_generator/proposal_utils.py has none
    rpn_ranks_logits=True,  # modeling/proposal_generator/proposal_utils.py
    rpn_box_weights=(1.0, 1.0, 1.0, 1.0),  # [d] RPN.BBOX_REG_WEIGHTS
    rpn_min_box_side=_ANY_SIDE,  # [d] PROPOSAL_GENERATOR.MIN_SIZE: 0; Boxes.nonempty: more
    box_fg_iou=0.5,  # [d] ROI_HEADS.IOU_THRESHOLDS
    box_bg_iou=0.5,  # [d] ROI_HEADS.IOU_THRESHOLDS
    box_positive_fraction=0.25,  # [d] ROI_HEADS.POSITIVE_FRACTION
    box_beta=0.0,  # [d] ROI_BOX_HEAD.SMOOTH_L1_BETA
    box_weights=(10.0, 10.0, 5.0, 5.0),  # [d] ROI_BOX_HEAD.BBOX_REG_WEIGHTS
    max_log_size_delta=math.log(1000.0 / 16),  # modeling/box_regression.py
    score_threshold=0.05,  # [d] ROI_HEADS.SCORE_THRESH_TEST; strictly above: fast_rcnn.py
    nms_iou=0.5,  # [d] ROI_HEADS.NMS_THRESH_TEST
    max_detections=100,  # [d] TEST.DETECTIONS_PER_IMAGE
    min_box_side=0.0,  # modeling/roi_heads/fast_rcnn.py, fast_rcnn_inference_single_image
    drop_empty=True,  # modeling/postprocessing.py, detector_postprocess
    box_pool_size=7,  # [y] ROI_BOX_HEAD.POOLER_RESOLUTION
    mask_pool_size=14,  # [y] ROI_MASK_HEAD.POOLER_RESOLUTION
    roi_sampling_ratio=0,  # [d] POOLER_SAMPLING_RATIO of both heads
    roi_aligned=True,  # [d] POOLER_TYPE: ROIAlignV2
    canonical_box_side=224.0,  # modeling/poolers.py, ROIPooler
    canonical_level=4,  # modeling/poolers.py, ROIPooler
    level_eps=1e-8,  # modeling/poolers.py, assign_boxes_to_levels
    level_eps_in_log=True,  # modeling/poolers.py, assign_boxes_to_levels
    mask_head_convs=4,  # [y] ROI_MASK_HEAD.NUM_CONV
    mask_paste="sampled",  # layers/mask_ops.py, _do_paste_mask
    mask_target_aligned=True,  # structures/masks.py, BitMasks.crop_and_resize
    mask_target_threshold=0.5,  # structures/masks.py, BitMasks.crop_and_resize
    box_init="caffe2",  # modeling/roi_heads/box_head.py; FastRCNNOutputLayers in fast_rcnn.py
    mask_logits_std=0.001,  # modeling/roi_heads/mask_head.py, MaskRCNNConvUpsampleHead
)

CONVENTIONS = {"torchvision": TORCHVISION, "detectron": DETECTRON, "detectron2": DETECTRON2}
