"""Detections go into rows and come out as they went, and in COCO's words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymrcnn.errors import DataError
from raymrcnn.masks import bitmap_to_rle, rle_to_bitmap
from raymrcnn.rows import (
    FAILURE_SCHEMA,
    RESULT_SCHEMA,
    coco_results,
    failures_table,
    iter_detections,
    results_table,
)
from raymrcnn.structures import Category, Detections, Failure, ImageRef, ModelInfo

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# All of Unicode but the halves of pairs, which no file can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def made_up_detections(draw: st.DrawFn) -> Detections:
    n = draw(st.sampled_from([0, 0, 1, 2, 5]))
    numbers = st.lists(FLOATS, min_size=n, max_size=n)
    return Detections(
        image_id=draw(st.integers(0, 2**63 - 1)),
        file_name=draw(TEXT),
        width=draw(st.integers(1, 2**31 - 1)),
        height=draw(st.integers(1, 2**31 - 1)),
        boxes=np.array(draw(st.lists(FLOATS, min_size=4 * n, max_size=4 * n)), np.float32).reshape(
            n, 4
        ),
        scores=np.array(draw(numbers), np.float32),
        category_ids=np.array(
            draw(st.lists(st.integers(0, 2**63 - 1), min_size=n, max_size=n)), np.int64
        ),
        rles=draw(st.lists(TEXT, min_size=n, max_size=n)),
    )


def assert_same(one: Detections, other: Detections) -> None:
    for name in ("image_id", "file_name", "width", "height", "rles"):
        assert getattr(one, name) == getattr(other, name), name
    for name, dtype, shape in (
        ("boxes", np.float32, (len(one.rles), 4)),
        ("scores", np.float32, (len(one.rles),)),
        ("category_ids", np.int64, (len(one.rles),)),
    ):
        a: npt.NDArray[np.generic] = getattr(one, name)
        b: npt.NDArray[np.generic] = getattr(other, name)
        assert b.dtype == dtype, name
        assert b.shape == shape, name
        assert a.tobytes() == b.tobytes(), name


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(made_up_detections(), max_size=6))
def test_rows_come_out_as_they_went_in(rows: list[Detections]) -> None:
    table = results_table(rows)
    assert table.schema == RESULT_SCHEMA
    table.validate(full=True)
    again = list(iter_detections(table))
    assert len(again) == len(rows)
    for one, other in zip(rows, again, strict=True):
        assert_same(one, other)


def image(number: int, num_detections: int) -> Detections:
    rng = np.random.default_rng(number)
    corners = np.sort(rng.uniform(0, 60, (num_detections, 2, 2)), axis=1)
    bitmap = np.zeros((48, 64), np.uint8)
    bitmap[4:9, 3:17] = 1
    return Detections(
        image_id=number,
        file_name=f"{number}.jpg",
        width=64,
        height=48,
        boxes=corners.reshape(-1, 4).astype(np.float32),
        scores=np.sort(rng.random(num_detections)).astype(np.float32)[::-1].copy(),
        category_ids=rng.integers(1, 90, num_detections),
        rles=[bitmap_to_rle(bitmap)] * num_detections,
    )


ROWS = [image(k, n) for k, n in enumerate([0, 3, 0, 100, 1, 0, 1000, 0])]


def test_rows_survive_a_file_and_any_cut_of_it(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(results_table(ROWS), path, row_group_size=3)
    table = pq.read_table(path)
    assert table.schema.equals(RESULT_SCHEMA)
    for start in range(len(ROWS) + 1):
        for stop in range(start, len(ROWS) + 1):
            cut = list(iter_detections(table.slice(start, stop - start)))
            assert [one.image_id for one in cut] == list(range(start, stop))
            for one, other in zip(ROWS[start:stop], cut, strict=True):
                assert_same(one, other)


def test_no_rows_are_a_table_too() -> None:
    assert results_table([]).schema == RESULT_SCHEMA
    assert list(iter_detections(results_table([]))) == []
    assert failures_table([]).schema == FAILURE_SCHEMA


def test_failures_keep_their_reasons_and_their_order() -> None:
    rows = [Failure(image_id=k, file_name=f"ü{k}.jpg", error="cut short") for k in (7, 3, 5)]
    table = failures_table(rows)
    assert table.schema == FAILURE_SCHEMA
    assert [Failure(**row) for row in table.to_pylist()] == rows


@pytest.mark.parametrize("name", RESULT_SCHEMA.names)
def test_a_table_without_a_column_is_refused_by_name(name: str) -> None:
    table = results_table(ROWS).drop_columns([name])
    with pytest.raises(DataError, match=f"x.parquet: no column '{name}'"):
        list(iter_detections(table, "x.parquet"))


def test_other_columns_do_not_matter() -> None:
    table = results_table(ROWS).append_column("more", pa.array(range(len(ROWS))))
    assert [one.image_id for one in iter_detections(table)] == [one.image_id for one in ROWS]


def test_coco_results_are_boxes_by_their_size_and_masks_that_decode() -> None:
    entries = coco_results(ROWS[1])
    assert len(entries) == 3
    for k, entry in enumerate(json.loads(json.dumps(entries))):
        x1, y1, x2, y2 = ROWS[1].boxes[k].astype(np.float64)
        assert entry["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert entry["score"] == float(ROWS[1].scores[k])
        assert entry["category_id"] == ROWS[1].category_ids[k]
        assert entry["image_id"] == 1
        assert entry["segmentation"]["size"] == [48, 64]  # height first
        mask = rle_to_bitmap(entry["segmentation"]["counts"], *entry["segmentation"]["size"])
        assert mask[4:9, 3:17].all()
        assert mask.sum() == 5 * 14
    assert coco_results(ROWS[0]) == []


def test_records_hold_what_they_are_given_and_cannot_be_changed() -> None:
    ref = ImageRef(image_id=1, file_name="a.jpg", uri="/a.jpg")
    assert (ref.width, ref.height) == (0, 0)  # no annotations
    info = ModelInfo(categories=(Category(id=2, name="cat"), None))
    assert (info.short_side, info.long_side) == (800, 1333)
    for record, name in ((ref, "uri"), (info, "short_side"), (ROWS[0], "width")):
        with pytest.raises(AttributeError):
            setattr(record, name, 5)


def test_columns_of_other_types_are_read_where_they_hold_the_same() -> None:
    wide = [
        ("image_id", pa.int32()), ("file_name", pa.large_string()), ("width", pa.int64()),
        ("height", pa.int64()), ("boxes", pa.list_(pa.list_(pa.float64()))),
        ("scores", pa.list_(pa.float64())), ("category_ids", pa.large_list(pa.int32())),
        ("rles", pa.large_list(pa.large_string())),
    ]  # fmt: skip
    again = list(
        iter_detections(pa.Table.from_pylist(results_table(ROWS).to_pylist(), pa.schema(wide)))
    )
    for one, other in zip(ROWS, again, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": None}, "row 11: 'image_id' lacks a value"),
        ({"width": None}, "image 1: 'width' lacks a value"),
        ({"boxes": None}, "image 1: 'boxes' lacks a value"),
        ({"boxes": [[0, 0, 1, 1], None, [0, 0, 1, 1]]}, "image 1: 'boxes' lacks a value"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1, None], [0] * 4]}, "image 1: 'boxes' lacks a value"),
        ({"rles": ["0", None, "0"]}, "image 1: 'rles' lacks a value"),
        ({"scores": [0.5]}, "image 1: 3 boxes and 1 scores"),
        ({"category_ids": [1] * 4}, "image 1: 3 boxes and 4 category_ids"),
        ({"rles": []}, "image 1: 3 boxes and 0 rles"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1], [0] * 4]}, "image 1, column 'boxes' is no list"),
        ({"width": 2**40}, "image 1, column 'width' is no int32"),
        ({"file_name": b"\xff"}, "image 1, column 'file_name' is no string"),
    ],
)
def test_a_row_that_is_not_whole_is_refused_by_name(change: dict[str, object], said: str) -> None:
    rows = results_table(ROWS[:3]).to_pylist()
    rows[1].update(change)
    loose = {
        "boxes": pa.list_(pa.list_(pa.float32())), "width": pa.int64(), "file_name": pa.binary()
    }  # fmt: skip
    kinds = [(f.name, loose.get(f.name, f.type)) for f in RESULT_SCHEMA]
    rows = [{**row, "file_name": as_bytes(row["file_name"])} for row in rows]
    table = pa.Table.from_pylist(rows, pa.schema(kinds))
    with pytest.raises(DataError) as caught:
        list(iter_detections(table, "x.parquet", 10))
    assert str(caught.value).startswith(f"x.parquet: {said}")
    assert "\n" not in str(caught.value)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def test_a_column_of_another_kind_is_refused_by_name() -> None:
    table = results_table(ROWS)
    table = table.set_column(5, "scores", pa.array(["high"] * len(ROWS)))
    with pytest.raises(DataError, match="x.parquet: column 'scores' is no list"):
        list(iter_detections(table, "x.parquet"))
    twice = results_table(ROWS).append_column("width", pa.array([1] * len(ROWS)))
    with pytest.raises(DataError, match="more than one column 'width'"):
        list(iter_detections(twice, "x.parquet"))
