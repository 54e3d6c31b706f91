"""All images of a batch at once: the boxes of one by one, and few questions to the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raymrcnn.model import suppression
from raymrcnn.model.maskrcnn import MaskRCNN
from raymrcnn.model.predictor import HostDetections, Predictor
from raymrcnn.model.suppression import all_at_once, best_of_images
from raymrcnn.model.views import views_of

Picture = Callable[[int, int, int], Tensor]
# Each makes the host wait for the device: it has to know the size of the result, or an answer.
ASKING_OPERATORS = ("nonzero", "masked_select", "equal", "unique", "bincount", "nms", "item")
ASKING_METHODS = ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")


def whole_boxes(number: int, seed: int) -> Tensor:
    """Boxes around a few places, at whole pixels, so that moving them rounds nothing."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 400, (8, 2), generator=draw)
    first = places[torch.randint(0, 8, (number,), generator=draw)]
    first = first + torch.randint(0, 12, (number, 2), generator=draw)
    sides = torch.randint(20, 40, (number, 2), generator=draw)
    return torch.cat((first, first + sides), dim=1).float()


@pytest.mark.parametrize("counts", [[300, 0, 7, 1], [1500, 1300], [0, 0]])
@pytest.mark.parametrize(("extra_width", "drops_equal"), [(0.0, False), (1.0, True)])
def test_all_at_once_keeps_the_boxes_that_one_by_one_keeps(
    counts: list[int], extra_width: float, drops_equal: bool
) -> None:
    number = sum(counts)
    draw = torch.Generator().manual_seed(number)
    boxes = whole_boxes(number, number)
    scores = (torch.rand(number, generator=draw) * 200).round() / 200  # with ties
    groups = torch.randint(0, 5, (number,), generator=draw)
    images = suppression.image_numbers(counts, boxes.device)
    given = (boxes, scores, groups, images, len(counts), 0.5, 40)
    rule: dict[str, Any] = {"extra_width": extra_width, "drops_equal": drops_equal}
    kept, numbers = best_of_images(*given, **rule)
    found, of_each = all_at_once(*given, **rule)
    assert of_each == numbers
    assert found.tolist() == kept.tolist()
    assert all(0 < n <= 40 for n, of in zip(numbers, counts, strict=True) if of)


def test_a_chain_of_boxes_is_followed_to_its_end() -> None:
    # Each overlaps the next alone: the first is kept, so the second goes, so the third is kept.
    starts = torch.arange(40) * 4.0
    boxes = torch.stack((starts, starts * 0, starts + 10, starts * 0 + 10), dim=1)
    zeros = torch.zeros(40, dtype=torch.int64)
    kept, _ = all_at_once(
        boxes, -starts, zeros, zeros, 1, 0.4, 99, extra_width=0.0, drops_equal=False
    )
    assert kept.tolist() == list(range(0, 40, 2))


def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_one_by_one", all_at_once)


def bits(found: HostDetections) -> list[Any]:
    return [
        column.numpy().tobytes()
        for column in (found.boxes, found.scores, found.labels, found.mask_probs)
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_the_predictor_finds_the_same_bits_either_way(
    quick: MaskRCNN, picture: Picture, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    predictor = Predictor(quick, range(1, 6), torch.device("cpu"), views=views_of((), flip))
    images = [picture(120, 160, 0), picture(120, 160, 1), picture(118, 160, 2)]
    one_by_one = predictor.forward(images)
    as_on_a_card(monkeypatch)
    at_once = predictor.forward(images)
    assert all(len(one.scores) > 3 for one in one_by_one)
    assert list(map(bits, at_once)) == list(map(bits, one_by_one))


class Watch(TorchDispatchMode):
    """Counts operators, and those for which the host has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.all[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        """How often the host had to know a number that is on the device."""
        return sum(n for name, n in self.all.items() if name in ASKING_OPERATORS)


@pytest.mark.parametrize("flip", [False, True])
def test_the_device_is_asked_no_oftener_for_more_images(
    quick: MaskRCNN, picture: Picture, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    as_on_a_card(monkeypatch)
    predictor = Predictor(quick, range(1, 6), torch.device("cpu"), views=views_of((), flip))
    asked = 0

    def counting(name: str) -> Any:
        real = getattr(Tensor, name)

        def asking(self: Tensor, *given: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return real(self, *given, **options)

        return asking

    for name in ASKING_METHODS:
        monkeypatch.setattr(Tensor, name, counting(name))
    seen = []
    for number in (1, 4):
        asked, watch = 0, Watch()
        with watch:
            # The same picture, as the rounds of the suppression depend on what is in it.
            predictor._detector.detect([picture(96, 128, 0)] * number)
        seen.append((asked, watch.waits(), sum(watch.all.values())))
    assert seen[0][0] and seen[0][1]
    assert seen[1][:2] == seen[0][:2]
    # What is done an image at a time is to scale it to its size, and its boxes to each view's.
    assert (seen[1][2] - seen[0][2]) / 3 <= (85 if flip else 12)
