"""Convention sheets: the numbers in which Mask R-CNN programs differ, each a named field.

Weights trained under one sheet give their accuracy only under that sheet. A field stands here if
the model reads it; what all sheets share is not repeated. No code chooses by a sheet's name.

Sources, relative to torchvision/ 0.26: [fr] models/detection/faster_rcnn.py, [mr]
models/detection/mask_rcnn.py, [rpn] models/detection/rpn.py, [roi] models/detection/roi_heads.py,
[u] models/detection/_utils.py, [t] models/detection/transform.py, [p] ops/poolers.py, [m]
ops/misc.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Weights4 = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """One program's numbers. Lengths in pixels of the resized image unless said otherwise."""

    # Input: (channels / pixel_scale - image_mean) / image_std, zero padding to a multiple.
    channel_order: str  # "RGB" or "BGR": what the first convolution expects
    pixel_scale: float  # 0-to-255 values are divided by this
    image_mean: tuple[float, float, float]  # in channel_order, after pixel_scale
    image_std: tuple[float, float, float]
    size_divisible: int

    # Backbone.
    frozen_norm_eps: float  # added to the variance of a frozen batch norm

    # Region proposals. IoU thresholds are between 0 and 1.
    rpn_fg_iou: float  # an anchor at or above is an object
    rpn_bg_iou: float  # an anchor below is background; between the two it is ignored
    rpn_positive_fraction: float  # of the sampled anchors
    rpn_nms_iou: float  # a box that overlaps a better one by more is dropped
    rpn_score_threshold: float  # of the sigmoid of the objectness
    rpn_box_weights: Weights4  # multiply the x, y, width, height deltas
    rpn_min_box_side: float

    # Boxes.
    box_fg_iou: float
    box_bg_iou: float
    box_positive_fraction: float
    box_weights: Weights4
    max_log_size_delta: float  # decoded width and height grow by at most the exp of this
    score_threshold: float  # a detection must score above
    nms_iou: float
    max_detections: int  # an image
    min_box_side: float

    # Pooling.
    box_pool_size: int  # cells a side
    mask_pool_size: int
    roi_sampling_ratio: int  # samples a side in each cell; 0 or less: adapted to the box
    roi_aligned: bool  # whether box coordinates are moved by half a pixel first
    canonical_box_side: float  # a box of this side is pooled from level `canonical_level`
    canonical_level: int
    level_eps: float  # added before the level is rounded down

    # Mask head.
    mask_head_convs: int


TORCHVISION = Conventions(
    channel_order="RGB",  # references/detection and ToTensor: PIL's own order
    pixel_scale=255.0,  # transforms/functional.py, to_tensor: div(255)
    image_mean=(0.485, 0.456, 0.406),  # [fr] FasterRCNN.__init__
    image_std=(0.229, 0.224, 0.225),  # [fr] FasterRCNN.__init__
    size_divisible=32,  # [t] GeneralizedRCNNTransform.__init__
    frozen_norm_eps=1e-5,  # [m] FrozenBatchNorm2d; the published COCO_V1 file needs 0, see weights
    rpn_fg_iou=0.7,  # [fr] rpn_fg_iou_thresh
    rpn_bg_iou=0.3,  # [fr] rpn_bg_iou_thresh
    rpn_positive_fraction=0.5,  # [fr] rpn_positive_fraction
    rpn_nms_iou=0.7,  # [fr] rpn_nms_thresh
    rpn_score_threshold=0.0,  # [fr] rpn_score_thresh
    rpn_box_weights=(1.0, 1.0, 1.0, 1.0),  # [rpn] RegionProposalNetwork.__init__
    rpn_min_box_side=1e-3,  # [rpn] min_size
    box_fg_iou=0.5,  # [fr] box_fg_iou_thresh
    box_bg_iou=0.5,  # [fr] box_bg_iou_thresh
    box_positive_fraction=0.25,  # [fr] box_positive_fraction
    box_weights=(10.0, 10.0, 5.0, 5.0),  # [roi] bbox_reg_weights
    max_log_size_delta=math.log(1000.0 / 16),  # [u] BoxCoder
    score_threshold=0.05,  # [fr] box_score_thresh; strictly above: [roi] postprocess_detections
    nms_iou=0.5,  # [fr] box_nms_thresh
    max_detections=100,  # [fr] box_detections_per_img
    min_box_side=1e-2,  # [roi] postprocess_detections
    box_pool_size=7,  # [fr] box_roi_pool
    mask_pool_size=14,  # [mr] mask_roi_pool
    roi_sampling_ratio=2,  # [fr], [mr]
    roi_aligned=False,  # [p] _multiscale_roi_align leaves roi_align's default
    canonical_box_side=224.0,  # [p] MultiScaleRoIAlign
    canonical_level=4,  # [p] MultiScaleRoIAlign
    level_eps=1e-6,  # [p] LevelMapper
    mask_head_convs=4,  # [mr] mask_layers
)

CONVENTIONS = {"torchvision": TORCHVISION}
