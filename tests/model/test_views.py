"""Test-time augmentation: views of an image, merged, are what one view of it would want to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms

from raymrcnn.model.maskrcnn import MaskRCNN, RawDetections
from raymrcnn.model.predictor import Predictor
from raymrcnn.model.views import View, ViewedDetector, views_of
from raymrcnn.structures import ImageRef

Picture = Callable[[int, int, int], Tensor]


def assert_same(some: RawDetections, others: RawDetections, tolerance: float = 0.0) -> None:
    for name in ("boxes", "scores", "labels", "mask_probs"):
        torch.testing.assert_close(
            getattr(some, name), getattr(others, name), rtol=0, atol=tolerance
        )


@pytest.fixture
def images(picture: Picture) -> list[Tensor]:
    return [picture(96, 128, 0), picture(128, 96, 1)]


def test_views_are_scales_times_mirrors() -> None:
    assert views_of((), False) == ()
    assert views_of((), True) == (View(), View(mirrored=True))
    assert views_of((64, 80), False) == (View(short_side=64), View(short_side=80))
    assert views_of((64,), True) == (View(short_side=64), View(short_side=64, mirrored=True))


def test_one_plain_view_is_the_network_itself(quick: MaskRCNN, images: list[Tensor]) -> None:
    plain = quick.detect(images)
    with torch.no_grad():
        viewed = ViewedDetector(quick, [View()]).detect(images)
        twice = ViewedDetector(quick, [View(), View()]).detect(images)
    for one, other, both in zip(plain, viewed, twice, strict=True):
        assert len(one.scores) > 3
        assert_same(one, other)
        assert_same(one, both, 1e-6)  # each box is found twice and kept once


def test_mirrored_images_get_mirrored_detections(quick: MaskRCNN, images: list[Tensor]) -> None:
    detector = ViewedDetector(quick, views_of((), True))
    with torch.no_grad():
        plain = detector.detect(images)
        mirrored = detector.detect([image.flip(-1) for image in images])
    for one, other, image in zip(plain, mirrored, images, strict=True):
        x1, y1, x2, y2 = other.boxes.unbind(1)
        back = torch.stack((image.shape[-1] - x2, y1, image.shape[-1] - x1, y2), dim=1)
        assert len(one.scores) == len(other.scores) > 3
        # Scores that are as good as equal may change places.
        match = (one.boxes[:, None] - back[None]).abs().amax(-1).argmin(1)
        torch.testing.assert_close(one.boxes, back[match], rtol=0, atol=0.01)
        torch.testing.assert_close(one.scores, other.scores[match], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            one.mask_probs, other.mask_probs[match].flip(-1), rtol=0, atol=1e-3
        )


def by_the_book(model: MaskRCNN, image: Tensor, views: tuple[View, ...]) -> RawDetections:
    """A view at a time, as detectron2 has it: detect without masks, merge, then masks, averaged."""
    size = int(image.shape[-2]), int(image.shape[-1])
    heads, own, most = model.roi_heads, model.transform.min_size, model.transform.max_size
    boxes, scores, labels, seen = [], [], [], []
    for view in views:
        if view.short_side:
            model.transform.min_size = (view.short_side,)
            model.transform.max_size = round(most * view.short_side / own[0])
        shown = image.flip(-1) if view.mirrored else image
        (found,) = model.detect([shown])
        batch, _ = model.transform([shown])
        model.transform.min_size, model.transform.max_size = own, most
        box = found.boxes.clone()
        if view.mirrored:
            box[:, [0, 2]] = size[1] - box[:, [2, 0]]
        boxes.append(box)
        scores.append(found.scores)
        labels.append(found.labels)
        seen.append((view, batch, model.backbone(batch.tensors)))
    every, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    best = batched_nms(every, score, label, heads.nms_thresh)[: heads.detections_per_img]
    every, score, label = every[best], score[best], label[best]
    masks = []
    for view, batch, features in seen:
        box = every.clone()
        if view.mirrored:
            box[:, [0, 2]] = size[1] - box[:, [2, 0]]
        box = resize_boxes(box, size, batch.image_sizes[0])
        logits = heads.mask_predictor(
            heads.mask_head(heads.mask_roi_pool(features, [box], batch.image_sizes))
        )
        mask = maskrcnn_inference(logits, [label])[0][:, 0]
        masks.append(mask.flip(-1) if view.mirrored else mask)
    return RawDetections(
        boxes=every, scores=score, labels=label, mask_probs=torch.stack(masks).mean(0)
    )


def test_scales_and_mirrors_are_merged_as_in_the_book(
    quick: MaskRCNN, images: list[Tensor]
) -> None:
    own = quick.transform.min_size[0]
    views = views_of((own * 3 // 4, own), True)
    with torch.no_grad():
        detector = ViewedDetector(quick, views)
        for image in images:
            (found,) = detector.detect([image])
            expected = by_the_book(quick, image, views)
            assert len(found.scores) > 3
            assert_same(found, expected, 1e-5)


def test_a_batch_in_views_gives_each_image_what_it_gets_alone(
    quick: MaskRCNN, picture: Picture
) -> None:
    images = [picture(96, 128, seed) for seed in range(3)]
    options = {"views": views_of((64, 80), True), "max_detections": 8}
    predictor = Predictor(quick, (1, 2, 3, 4, 5), torch.device("cpu"), **options)
    refs = [ImageRef(image_id=k, file_name="", uri="") for k in range(3)]
    together = predictor.predict(images, refs)
    for image, ref, one in zip(images, refs, together, strict=True):
        (alone,) = predictor.predict([image], [ref])
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)
    assert predictor.forward([]) == []
    assert len(predictor.padded_size(96, 128)) == 8  # images share a batch where all views agree
    nothing = Predictor(
        quick, (1, 2, 3, 4, 5), torch.device("cpu"), score_threshold=0.999, views=(View(),)
    )
    assert len(nothing.predict(images[:1], refs[:1])[0].scores) == 0
