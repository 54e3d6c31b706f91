"""The board names what hangs, and nothing else."""

from __future__ import annotations

import pytest

from raymrcnn.errors import RunError
from raymrcnn.train.board import SILENT_S, Beat, Board


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def beat(rank: int, step: int | None) -> Beat:
    return Beat(rank=rank, host=f"h{rank}", node=f"n{rank}", pid=100 + rank, step=step)


def beats(board: Board, time: Time, seconds: int, steps: dict[int, int | None]) -> None:
    for _ in range(seconds):
        time.now += 1.0
        for rank, step in steps.items():
            board.beat(beat(rank, step))


def test_a_process_that_is_silent_is_named(time: Time) -> None:
    board = Board(time)
    board.begin(3)
    beats(board, time, 5, {0: 3, 1: 3, 2: 3})
    beats(board, time, 8, {0: 4, 2: 4})  # and wait for 1
    assert board.hung(10) == []
    beats(board, time, 8, {0: 4, 2: 4})
    assert [b.rank for b in board.hung(10)] == [1]
    assert board.hung(10) == [], "told once"


def test_the_one_that_is_behind_is_named(time: Time) -> None:
    board = Board(time)
    board.begin(2)
    beats(board, time, 30, {0: 4, 1: 3})
    assert [b.rank for b in board.hung(20)] == [1]


def test_all_are_named_where_all_stand_at_one_step(time: Time) -> None:
    board = Board(time)
    board.begin(2)
    beats(board, time, 30, {0: 4, 1: 4})
    assert [b.rank for b in board.hung(20)] == [0, 1]
    assert SILENT_S < 20


def test_slow_first_steps_and_other_work_are_not_watched(time: Time) -> None:
    board = Board(time)
    board.begin(2)
    beats(board, time, 1000, {0: None, 1: None})
    beats(board, time, 1000, {0: 1})
    assert board.hung(10) == [], "of worker 1 no step is known"
    beats(board, time, 1000, {0: None, 1: 1})
    assert board.hung(10) == [], "worker 0 saves"
    beats(board, time, 5, {0: 1, 1: 1})
    assert board.hung(10) == [], "the time begins again"


def test_a_run_that_moves_is_left_alone(time: Time) -> None:
    board = Board(time)
    board.begin(1)
    for step in range(1, 100):
        beats(board, time, 9, {0: step})
        assert board.hung(10) == []


def test_a_new_group_is_told_of_what_no_group_mends(time: Time) -> None:
    board = Board(time)
    assert board.begin(2) is None
    beats(board, time, 5, {0: 3, 1: 3})
    board.fail(RunError("first"))
    board.fail(RunError("second"))
    error = board.begin(1)
    assert str(error) == "first"
    time.now += 100
    assert board.hung(10) == [], "beats of the group before do not count"
    assert board.workers() == 1
