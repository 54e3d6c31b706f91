"""The predictor gives torchvision's detections, as categories and run lengths."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.ops.misc import FrozenBatchNorm2d

from raymrcnn.model.fusion import Affine
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.model.predictor import Predictor
from raymrcnn.structures import Detections, ImageRef

Picture = Callable[[int, int, int], Tensor]
Expected = tuple[list[Tensor], list[dict[str, Tensor]]]
CPU = torch.device("cpu")
CATEGORIES = (10, 20, 30, 40, 50)


def refs(number: int) -> list[ImageRef]:
    return [ImageRef(image_id=i, file_name=f"{i}.jpg", uri=f"/x/{i}.jpg") for i in range(number)]


def assert_alike(a: Detections, b: Detections, box_px: float, score: float) -> None:
    """The same detections, whatever the order of near-equal scores."""
    overlap = box_iou(torch.from_numpy(a.boxes), torch.from_numpy(b.boxes)).numpy()
    overlap = overlap * (a.category_ids[:, None] == b.category_ids[None])
    best = overlap.argmax(axis=1)
    assert len(a.scores) == len(b.scores)
    assert sorted(best) == list(range(len(b.scores)))
    assert np.abs(a.boxes - b.boxes[best]).max() < box_px
    assert np.abs(a.scores - b.scores[best]).max() < score


def test_detections_equal_torchvisions(ours: MaskRCNN, expected: Expected) -> None:
    images, outputs = expected
    found = Predictor(ours, CATEGORIES, CPU).predict(images, refs(2))
    for image, theirs, mine in zip(images, outputs, found, strict=True):
        assert (mine.height, mine.width) == tuple(image.shape[-2:])
        assert len(mine.scores) > 10
        np.testing.assert_array_equal(mine.category_ids, theirs["labels"].numpy() * 10)
        np.testing.assert_allclose(mine.scores, theirs["scores"].numpy(), atol=1e-6)
        np.testing.assert_allclose(mine.boxes, theirs["boxes"].numpy(), atol=1e-3)
        bitmaps = (theirs["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
        encoded = coco_mask.encode(np.asfortranarray(bitmaps))
        assert mine.rles == [one["counts"].decode() for one in encoded]


def test_folded_norms_change_results_by_rounding_alone(quick: MaskRCNN, picture: Picture) -> None:
    images = [picture(240, 320, 0)]
    exact = Predictor(quick, CATEGORIES, CPU, max_detections=30)
    folded = Predictor(quick, CATEGORIES, CPU, max_detections=30, fold=True)
    assert not any(isinstance(m, FrozenBatchNorm2d | Affine) for m in folded._model.modules())
    a, b = exact.predict(images, refs(1))[0], folded.predict(images, refs(1))[0]
    # These weights, noise, double a rounding error in each block; trained ones damp it.
    assert_alike(a, b, box_px=0.05, score=2e-3)


def test_one_image_and_a_batch_agree(quick: MaskRCNN, picture: Picture) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, max_detections=30)
    images = [picture(200, width, seed) for seed, width in enumerate((300, 295, 300))]
    assert {predictor.padded_size(200, width) for width in (300, 295)} == {(192, 288)}
    together = predictor.predict(images, refs(3))
    alone = [predictor.predict([image], refs(1))[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert len(a.scores) > 0
        assert_alike(a, b, box_px=0.01, score=1e-3)


@pytest.mark.parametrize("size", [(240, 320), (333, 201), (1, 900), (64, 64)])
def test_padded_size_is_that_of_the_batch(
    quick: MaskRCNN, picture: Picture, size: tuple[int, int]
) -> None:
    batch, _ = quick.transform([picture(*size, 0)])
    predictor = Predictor(quick, CATEGORIES, CPU)
    assert predictor.padded_size(*size) == tuple(batch.tensors.shape[-2:])


def test_best_comes_first_and_boxes_lie_inside(quick: MaskRCNN, picture: Picture) -> None:
    found = Predictor(quick, CATEGORIES, CPU, max_detections=30).predict(
        [picture(333, 201, 1)], refs(1)
    )[0]
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.min() >= 0
    assert found.boxes[:, 2].max() <= 201 and found.boxes[:, 3].max() <= 333
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.category_ids.dtype == np.int64


def test_a_label_without_category_is_dropped(quick: MaskRCNN, picture: Picture) -> None:
    image = picture(240, 320, 0)
    whole = Predictor(quick, CATEGORIES, CPU, max_detections=30).predict([image], refs(1))[0]
    gap = int(whole.category_ids[0])
    with_gap = [None if i == gap else i for i in CATEGORIES]
    found = Predictor(quick, with_gap, CPU, max_detections=30).predict([image], refs(1))[0]
    kept = whole.category_ids != gap
    np.testing.assert_array_equal(found.category_ids, whole.category_ids[kept])
    np.testing.assert_array_equal(found.boxes, whole.boxes[kept])
    assert found.rles == [rle for rle, k in zip(whole.rles, kept, strict=True) if k]


def test_the_given_model_is_not_changed(quick: MaskRCNN, picture: Picture) -> None:
    quick.train()
    before = {k: v.clone() for k, v in quick.state_dict().items()}
    Predictor(quick, CATEGORIES, CPU, torch.bfloat16, score_threshold=0.9)
    assert quick.training
    assert quick.roi_heads.score_thresh == 0.05
    assert all(torch.equal(before[k], v) for k, v in quick.state_dict().items())


def test_limits_are_those_given(quick: MaskRCNN, picture: Picture) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, score_threshold=0.1, max_detections=4)
    found = predictor.predict([picture(240, 320, 0)], refs(1))[0]
    assert len(found.scores) == 4
    assert (found.scores > 0.1).all()


def test_no_images_and_no_detections_are_answers(quick: MaskRCNN, picture: Picture) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, score_threshold=0.9999)
    assert predictor.predict([], []) == []
    found = predictor.predict([picture(64, 80, 0)], refs(1))[0]
    assert found.boxes.shape == (0, 4)
    assert found.rles == []


def test_results_leave_the_device_in_one_copy(
    quick: MaskRCNN, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, max_detections=30)
    copies = []
    original = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda t: (copies.append(t.shape), original(t))[1])
    predictor.forward([picture(120, 160, 0), picture(120, 160, 1)])
    assert len(copies) == 1


def test_masks_can_be_pasted_in_another_thread(quick: MaskRCNN, picture: Picture) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, max_detections=30)
    raw = predictor.forward([picture(120, 160, 0)])
    results: list[Detections] = []
    thread = threading.Thread(target=lambda: results.extend(predictor.finish(raw, refs(1))))
    thread.start()
    thread.join()
    expected = predictor.finish(raw, refs(1))
    assert results[0].rles == expected[0].rles


def test_low_precision_leaves_boxes_in_float32(quick: MaskRCNN, picture: Picture) -> None:
    predictor = Predictor(quick, CATEGORIES, CPU, torch.bfloat16)
    assert predictor._model.backbone.body.conv1.weight.dtype is torch.bfloat16
    found = predictor.predict([picture(240, 320, 0)], refs(1))[0]
    assert len(found.scores) > 0
    coarse = torch.from_numpy(found.boxes).bfloat16().float().numpy()
    inner = (found.boxes > 40) & (found.boxes < 230)
    assert (coarse != found.boxes)[inner].mean() > 0.9
