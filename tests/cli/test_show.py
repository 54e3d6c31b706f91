"""Progress on a terminal and elsewhere, and what Ctrl-C does."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from raymrcnn.cli.show import ProgressLine, duration, print_table, stop_on_signals


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration_shows_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def line_on(terminal: bool, every_s: float = 1000.0) -> tuple[ProgressLine, io.StringIO]:
    out = io.StringIO()
    progress = ProgressLine(every_s=every_s)
    progress._console = Console(file=out, force_terminal=terminal, width=40)
    return progress, out


def test_a_terminal_sees_one_line_renewed_and_cut_to_its_width() -> None:
    progress, out = line_on(terminal=True)
    progress.show("one")
    progress.show("two " * 20)
    progress.note("[bold] stays as it is")
    progress.show("three")
    progress.close()
    progress.close()
    first, second, third, *rest = out.getvalue().split("\r\x1b[2K")
    assert first == ""
    assert second == "one"
    assert third.splitlines()[0] == ("two " * 20)[:39]
    assert third.splitlines()[1] == "[bold] stays as it is"
    assert rest == ["three\n"]


def test_a_log_gets_a_line_now_and_then_and_always_the_last() -> None:
    progress, out = line_on(terminal=False)
    for step in range(5):
        progress.show(f"step {step}")
    progress.show("step 5", last=True)
    progress.close()
    assert out.getvalue() == "step 0\nstep 5\n"
    progress, out = line_on(terminal=False, every_s=0.0)
    for step in range(3):
        progress.show(f"step {step}")
    assert out.getvalue().count("\n") == 3


def test_a_quiet_line_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    progress = ProgressLine(quiet=True)
    progress.note("a")
    progress.show("b", last=True)
    progress.close()
    assert capfd.readouterr() == ("", "")


def test_columns_of_numbers_stand_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["name", "AP"], ["cat", "0.5"], ["[red]dog", "-"], ["c", "12.25"]], "Scores")
    text = capsys.readouterr().out
    assert "│ cat      │   0.5 │" in text
    assert "│ [red]dog │     - │" in text
    assert "│ c        │ 12.25 │" in text
    assert "Scores" in text


def test_the_first_interrupt_asks_and_the_second_ends() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    progress, out = line_on(terminal=False)
    with stop_on_signals(progress) as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        assert stop.event.is_set()
        assert "this step is finished and saved first" in out.getvalue()
        os.kill(os.getpid(), signal.SIGTERM)  # of a scheduler that insists: it is under way
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_termination_asks_like_an_interrupt() -> None:
    progress, _ = line_on(terminal=False)
    with stop_on_signals(progress) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
