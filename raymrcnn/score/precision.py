"""Average precision from records, for any weights of the images, fast enough for a bootstrap.

An image of weight 2 counts as if it were there twice, one of weight 0 as if it were not. Only
detections that found something can change the height of the precision curve at the recall that it
reaches, so only those are looked at, all thresholds and categories in one row of numbers.
This module refuses to match and to draw weights.
"""

from __future__ import annotations

import numpy as np

from raymrcnn.score.matching import AREAS, THRESHOLDS, Floats, Ints, Records

_RECALLS = np.linspace(0.0, 1.0, 101)  # as pycocotools makes them: 0.57 is 0.5700000000000001
_NUM_T = len(THRESHOLDS)


class PrecisionTable:
    """The records of one run, sorted once, for one range of object sizes.

    Args:
        records: sorted by image, as `Records.join` leaves them.
        num_categories: of all.
        area: one of `AREAS`.
        image_ids: sorted; images to give weights for. Every image of the records is among them.
    """

    def __init__(self, records: Records, num_categories: int, area: str, image_ids: Ints) -> None:
        first = AREAS.index(area) * _NUM_T
        order = np.lexsort((-records.score, records.category))  # stable: by image among equals
        category = records.category[order].astype(np.int64)
        self._image = np.searchsorted(image_ids, records.image[order])
        counted = (records.object_areas >> AREAS.index(area)) & 1 == 1
        self._object_image = np.searchsorted(image_ids, records.object_image[counted])
        self._object_category = records.object_category[counted].astype(np.int64)
        self._num_categories = num_categories
        starts = np.searchsorted(category, np.arange(num_categories + 1))

        hit, ignored = records.hit[order], records.ignored[order]
        places, groups, skipped, skipped_groups = [], [], [], []
        for t in range(_NUM_T):
            found = np.flatnonzero(hit >> (first + t) & 1)
            out = np.flatnonzero(ignored >> (first + t) & 1)
            places.append(found)
            groups.append(t * num_categories + category[found])
            skipped.append(out)
            skipped_groups.append(t * num_categories + category[out])
        num = max(len(category), 1)
        self._place = np.concatenate(places)
        self._group = np.concatenate(groups)
        self._skipped = np.concatenate(skipped)
        # Ignored detections of the same group that stand before each one that found something.
        key = np.concatenate(skipped_groups) * num + self._skipped
        self._skipped_first = np.searchsorted(key, self._group * num)
        self._skipped_before = np.searchsorted(key, self._group * num + self._place)
        self._start = starts[self._group % num_categories]
        self._first = np.searchsorted(self._group, self._group)
        self._is_first = self._first == np.arange(len(self._group))
        self._lift = 2.0 * (_NUM_T * num_categories - self._group)

    def average_precision(self, weights: Floats) -> Floats:
        """AP of each threshold and category, [10, num_categories]; NaN where there is no object.

        Args:
            weights: [num_images], whole numbers, in the order of `image_ids`.
        """
        of_object = weights[self._object_image]
        objects = np.bincount(self._object_category, of_object, self._num_categories)
        known = objects > 0
        of_group = np.tile(np.where(known, objects, 1.0), _NUM_T)
        share = self._share(*self._curve(weights, of_group))
        found = np.bincount(self._group, share, _NUM_T * self._num_categories)
        table: Floats = found.reshape(_NUM_T, -1) / len(_RECALLS)
        table[:, ~known] = np.nan
        return table

    def _curve(self, weights: Floats, of_group: Floats) -> tuple[Floats, Floats]:
        weight = weights[self._image]
        total = np.concatenate(([0.0], np.cumsum(weight)))
        out = np.concatenate(([0.0], np.cumsum(weight[self._skipped])))
        true = np.concatenate(([0.0], np.cumsum(weight[self._place])))
        true = true[1:] - true[self._first]
        seen = total[self._place + 1] - total[self._start]
        seen -= out[self._skipped_before] - out[self._skipped_first]
        return true / np.maximum(seen, 1.0), true / of_group[self._group]

    def _share(self, precision: Floats, recall: Floats) -> Floats:
        """The part that each place of the curve has in the sum over 101 recalls."""
        # The highest precision from here on, within the group: groups are lifted apart.
        highest = np.maximum.accumulate((precision + self._lift)[::-1])[::-1] - self._lift
        nearest = np.rint(recall * 100).astype(np.int64)
        reached = nearest + (_RECALLS[nearest] <= recall)
        before = np.roll(reached, 1)
        before[self._is_first] = 0
        share: Floats = highest * (reached - before)
        return share


def summary(table: Floats) -> dict[str, float]:
    """AP, AP50 and AP75 over all categories, of [10, num_categories]; NaN where there are none."""
    chosen = {"AP": table, "AP50": table[:1], "AP75": table[5:6]}
    return {name: _mean(values) for name, values in chosen.items()}


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
