"""Mask R-CNN: images and targets in, losses or detections out; and its builder.

The network pastes no mask and knows no category, file or config: it gives 28 x 28 mask
probabilities and labels 1 to num_classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from raymrcnn.config import ModelConfig
from raymrcnn.model.anchors import PyramidAnchors
from raymrcnn.model.backbone import (
    LIVE_NORMS,
    STAGES,
    STRIDES,
    TOP_STRIDE,
    FrozenNorm,
    PyramidBackbone,
    build_backbone,
    is_resnext,
)
from raymrcnn.model.boxes import WideBoxCoder, scale_factors, to_last_pixels
from raymrcnn.model.conventions import CONVENTIONS, Conventions
from raymrcnn.model.heads import (
    BoxAndMaskHeads,
    BoxPredictor,
    MaskPredictor,
    ProposalHead,
)
from raymrcnn.model.losses import LOSSES, NUM_COUNTS, LossSums, divided
from raymrcnn.model.pooling import PyramidPool
from raymrcnn.model.proposals import ProposalNetwork
from raymrcnn.model.suppression import image_numbers, with_area
from raymrcnn.model.transform import ImageTransform
from raymrcnn.structures import BatchPlan, Target

__all__ = ["LOSSES", "MaskRCNN", "RawDetections", "build_mask_rcnn", "trainable_summary"]


@dataclass(frozen=True, kw_only=True)
class RawDetections:
    """What the network found in one image, best score first, on the device of the model."""

    # [n, 4] float32 XYXY, pixels of the original image; x2 and y2 as the conventions have them.
    boxes: Tensor
    scores: Tensor  # [n] float32, 0 to 1
    labels: Tensor  # [n] int64, 1 to num_classes
    mask_probs: Tensor  # [n, 28, 28] float32, 0 to 1, spanning the box


class MaskRCNN(nn.Module):
    """Mask R-CNN of ready parts, under torchvision's names, so its state dicts fit.

    Args:
        transform: images to a padded batch.
        backbone: batch to pyramid levels.
        rpn: levels to proposals, with losses in training.
        roi_heads: levels and proposals to boxes and masks, with losses in training.
        conventions: of the program whose numbers these parts give.
    """

    def __init__(
        self,
        transform: ImageTransform,
        backbone: PyramidBackbone,
        rpn: ProposalNetwork,
        roi_heads: BoxAndMaskHeads,
        conventions: Conventions,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.conventions = conventions

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        plan: BatchPlan | None = None,
    ) -> LossSums | list[RawDetections]:
        """`loss_sums` in training, `detect` in eval; what DistributedDataParallel wraps."""
        if self.training:
            assert targets is not None, "training needs targets"
            return self.loss_sums(images, targets, plan)
        return self.detect(images)

    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Target], plan: BatchPlan | None = None
    ) -> dict[str, Tensor]:
        """The five losses of `LOSSES` of a whole batch; see `loss_sums`."""
        found = self.loss_sums(images, targets, plan)
        return dict(zip(LOSSES, divided(*found).unbind(), strict=True))

    def loss_sums(
        self, images: Sequence[Tensor], targets: Sequence[Target], plan: BatchPlan | None = None
    ) -> LossSums:
        """Sums and counts of the losses of a share of a batch, with a graph to every parameter.

        So also for images without objects, and for no images at all: each rank of a parallel run
        makes the same collective calls whatever its share of the batch.

        Args:
            images: [3, H, W] each, RGB, uint8 or float in 0 to 1, on the model's device.
            targets: what is in them, in their pixels; boxes must have positive sides.
            plan: seeds and sizes; None: seeds are the ids of the images, and they are the batch.
        """
        assert self.training, "losses are computed in training mode"
        if not images:
            return self._zero_sums()
        batch, annotations, seeds = self._prepared(images, targets, plan)
        features = self.backbone(batch.tensors)
        proposals, rpn_sums, num_anchors = self.rpn.losses(batch, features, annotations, seeds)
        roi_sums, roi_counts = self.roi_heads.losses(
            features, proposals, batch.image_sizes, annotations
        )
        counts = torch.cat((num_anchors[None].to(roi_counts.dtype), roi_counts))
        return LossSums(torch.cat((rpn_sums, roi_sums)), counts)

    def sample_counts(
        self, images: Sequence[Tensor], targets: Sequence[Target], plan: BatchPlan | None = None
    ) -> Tensor:
        """The counts alone of `loss_sums`, float32 [3]; the heads of the boxes are not run."""
        if not images:
            return next(self.parameters()).new_zeros(NUM_COUNTS)
        batch, annotations, seeds = self._prepared(images, targets, plan)
        features = self.backbone(batch.tensors)
        proposals, _, num_anchors = self.rpn.losses(batch, features, annotations, seeds)
        _, _, labels = self.roi_heads.sampled_rois(proposals, annotations)
        sampled = torch.cat(labels)
        counts = sampled.new_tensor([len(sampled)]), (sampled > 0).sum()[None]
        return torch.cat((num_anchors[None], *counts)).float()

    def _prepared(
        self, images: Sequence[Tensor], targets: Sequence[Target], plan: BatchPlan | None
    ) -> tuple[ImageList, list[dict[str, Any]], Sequence[int]]:
        extra = self.conventions.extra_width
        annotations = [
            {
                "boxes": to_last_pixels(t.boxes, extra),
                "labels": t.labels,
                "masks": t.masks if t.outlines is None else t.outlines,
            }
            for t in targets
        ]
        batch, annotations = self.transform.for_training(list(images), annotations, plan)
        return batch, annotations, plan.seeds if plan else [t.image_id for t in targets]

    def detect(self, images: Sequence[Tensor]) -> list[RawDetections]:
        """Detections of each image, masks not pasted.

        Args:
            images: [3, H, W] each, RGB, uint8 or float in 0 to 1, on the model's device.
        """
        assert not self.training, "detections are computed in eval mode"
        if not images:
            return []
        with torch.no_grad():
            batch, _ = self.transform(list(images))
            features = self.backbone(batch.tensors)
            proposals, _ = self.rpn(batch, features)
            found = self.roi_heads.detections(features, proposals, batch.image_sizes)
            originals = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
            return self._scaled_back(*found, batch.image_sizes, originals)

    def _scaled_back(
        self,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Tensor,
        resized: Sequence[tuple[int, int]],
        originals: Sequence[tuple[int, int]],
    ) -> list[RawDetections]:
        """Detections in the pixels of the original images."""
        counts = [len(of) for of in boxes]
        image = image_numbers(counts, masks.device)
        every = torch.cat(list(boxes)) * scale_factors(resized, originals).to(masks.device)[image]
        columns = [every, torch.cat(list(scores)), torch.cat(list(labels)), masks]
        if self.conventions.drop_empty:
            rows = torch.arange(len(every), device=masks.device)
            kept, counts = with_area(rows, every, counts)
            columns = [column[kept] for column in columns]
        split = [column.split_with_sizes(counts) for column in columns]
        return [
            RawDetections(boxes=box, scores=score, labels=label, mask_probs=mask)
            for box, score, label, mask in zip(*split, strict=True)
        ]

    def limit_detections(self, score_threshold: float, max_detections: int) -> None:
        """Keep detections that score above the threshold, and of an image the best so many."""
        self.roi_heads.score_thresh = score_threshold
        self.roi_heads.detections_per_img = max_detections

    def _zero_sums(self) -> LossSums:
        parts = [p.sum() for p in self.parameters() if p.requires_grad]
        zero = torch.stack(parts).sum() * 0.0
        return LossSums(zero.expand(len(LOSSES)), zero.detach().expand(NUM_COUNTS))


def build_mask_rcnn(
    config: ModelConfig,
    num_classes: int,
    short_side: int,
    long_side: int,
    *,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
) -> MaskRCNN:
    """A Mask R-CNN with random weights, in training mode, on the CPU.

    Args:
        config: the architecture.
        num_classes: classes of objects; background is not counted.
        short_side: pixels that images are scaled to,
        long_side: unless the long side reaches this first.
        score_threshold: a detection scores above; None: the conventions' own, as below.
        nms_threshold: a detection that overlaps a better one of its class by more is dropped.
        max_detections: kept of an image.
    """
    sheet = CONVENTIONS[config.conventions]
    eps = sheet.frozen_norm_eps if config.frozen_norm_eps is None else config.frozen_norm_eps
    backbone = build_backbone(
        config.backbone,
        norm=config.norm,
        frozen_norm_eps=eps,
        stride_in_1x1=sheet.stride_in_1x1,
        top_down=sheet.top_down,
        trainable_stages=config.trainable_stages,
        fpn_channels=config.fpn_channels,
    )
    std = sheet.resnext_image_std if is_resnext(config.backbone) else sheet.image_std
    backbone.checkpoint_activations = config.checkpoint_activations
    limits = {
        "score_thresh": sheet.score_threshold if score_threshold is None else score_threshold,
        "nms_thresh": sheet.nms_iou if nms_threshold is None else nms_threshold,
        "detections_per_img": sheet.max_detections if max_detections is None else max_detections,
    }
    return MaskRCNN(
        ImageTransform(short_side, long_side, sheet, std),
        backbone,
        _build_rpn(config, sheet),
        _build_roi_heads(config, sheet, num_classes, limits),
        sheet,
    )


def _build_rpn(config: ModelConfig, sheet: Conventions) -> ProposalNetwork:
    strides = (*STRIDES, TOP_STRIDE)
    anchors = PyramidAnchors(config.anchor_sizes, config.aspect_ratios, strides, sheet)
    head = ProposalHead(config.fpn_channels, len(config.aspect_ratios), config.rpn_convs)
    rpn = ProposalNetwork(
        anchors,
        head,
        sheet.rpn_fg_iou,
        sheet.rpn_bg_iou,
        config.rpn_samples_per_image,
        sheet.rpn_positive_fraction,
        {"training": config.rpn_pre_nms_train, "testing": config.rpn_pre_nms_test},
        {"training": config.rpn_post_nms_train, "testing": config.rpn_post_nms_test},
        sheet.rpn_nms_iou,
        sheet.rpn_score_threshold,
        extra_width=sheet.extra_width,
        drops_equal=sheet.nms_drops_equal,
        ranks_logits=sheet.rpn_ranks_logits,
        ignores_crossing=sheet.rpn_ignores_crossing,
        top_n_per_batch=sheet.rpn_top_n_per_batch,
        loss_over_quota=sheet.rpn_loss_over_quota,
        box_beta=sheet.rpn_box_beta,
    )
    rpn.box_coder = WideBoxCoder(sheet.rpn_box_weights, sheet.max_log_size_delta, sheet.extra_width)
    rpn.min_size = sheet.rpn_min_box_side
    return rpn


def _build_roi_heads(
    config: ModelConfig, sheet: Conventions, num_classes: int, limits: dict[str, Any]
) -> BoxAndMaskHeads:
    channels, mask_channels = config.fpn_channels, config.mask_head_channels
    shared = config.shared_heads(num_classes)
    heads = BoxAndMaskHeads(
        min_box_side=sheet.min_box_side,
        extra_width=sheet.extra_width,
        drops_equal=sheet.nms_drops_equal,
        box_beta=sheet.box_beta,
        mask_target_aligned=sheet.mask_target_aligned,
        mask_target_threshold=sheet.mask_target_threshold,
        box_roi_pool=_build_pool(sheet, sheet.box_pool_size),
        box_head=_build_box_head(config, sheet.box_pool_size),
        box_predictor=BoxPredictor(config.box_head_channels, num_classes + 1, "boxes" in shared),
        fg_iou_thresh=sheet.box_fg_iou,
        bg_iou_thresh=sheet.box_bg_iou,
        batch_size_per_image=config.box_samples_per_image,
        positive_fraction=sheet.box_positive_fraction,
        bbox_reg_weights=sheet.box_weights,
        mask_roi_pool=_build_pool(sheet, sheet.mask_pool_size),
        mask_head=MaskRCNNHeads(
            channels,
            (mask_channels,) * sheet.mask_head_convs,
            1,
            norm_layer=LIVE_NORMS.get(config.norm),
        ),
        mask_predictor=MaskPredictor(
            mask_channels, mask_channels, num_classes + 1, "masks" in shared
        ),
        **limits,
    )
    heads.box_coder = WideBoxCoder(sheet.box_weights, sheet.max_log_size_delta, sheet.extra_width)
    _initialise(heads, sheet)
    return heads


@torch.no_grad()
def _initialise(heads: BoxAndMaskHeads, sheet: Conventions) -> None:
    """Other first weights than torchvision's parts have."""
    if sheet.box_init == "caffe2":
        for layer in heads.box_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)  # Caffe2's XavierFill
                nn.init.zeros_(layer.bias)
        predictor = heads.box_predictor
        for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
    if sheet.mask_logits_std is not None:
        last = heads.mask_predictor.mask_fcn_logits
        nn.init.normal_(last.weight, std=sheet.mask_logits_std)
        nn.init.zeros_(last.bias)


def _build_box_head(config: ModelConfig, pool_size: int) -> nn.Module:
    channels = config.fpn_channels
    head: nn.Module
    if config.box_head_convs == 0:
        head = TwoMLPHead(channels * pool_size**2, config.box_head_channels)
    else:
        head = FastRCNNConvFCHead(
            (channels, pool_size, pool_size),
            [channels] * config.box_head_convs,
            [config.box_head_channels],
            norm_layer=LIVE_NORMS.get(config.norm),
        )
    return head


def _build_pool(sheet: Conventions, output_size: int) -> PyramidPool:
    return PyramidPool(
        STRIDES,
        output_size,
        sampling_ratio=sheet.roi_sampling_ratio,
        aligned=sheet.roi_aligned,
        canonical_side=sheet.canonical_box_side,
        canonical_level=sheet.canonical_level,
        level_eps=sheet.level_eps,
        level_eps_in_log=sheet.level_eps_in_log,
        extra_width=sheet.extra_width,
    )


def trainable_summary(model: MaskRCNN) -> dict[str, Any]:
    """What takes part in training, ready for `run.json`.

    Returns:
        `parameters` and `trainable` (numbers of values), `frozen_stages` (names of backbone stages
        whose parameters take no gradient) and `frozen_norms` (number of layers with fixed
        statistics).
    """
    body = model.backbone.body
    parameters = list(model.parameters())
    frozen = [
        stage
        for stage in STAGES
        if not any(p.requires_grad for p in body.get_submodule(stage).parameters())
    ]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "frozen_stages": frozen,
        "frozen_norms": sum(isinstance(m, FrozenNorm) for m in model.modules()),
    }
