"""How results look on a terminal: tables, progress lines, and the way to stop."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer


def print_json(document: Any) -> None:
    """One JSON document on the standard output."""
    typer.echo(json.dumps(document, indent=2))


def print_table(rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table of text; the first row is its header, columns of numbers stand right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    if title:
        typer.echo(title)  # not the table's own, which would be wrapped to its width
    table = Table()
    for k, name in enumerate(header):
        numeric = all(_is_number(row[k]) for row in body) and bool(body)
        # What a row is called is never cut: it may be needed again.
        table.add_column(name, justify="right" if numeric else "left", no_wrap=k == 0)
    for row in body:
        table.add_row(*(Text(cell) for cell in row))  # names are no markup
    Console().print(table)


def print_scores(scores: Any) -> None:
    """The COCO numbers, and the AP of each category where there are few."""
    from raymrcnn.score.table import category_table, format_table

    numbers = format_table(scores)
    lvis = any(row[0] == "AR300" for row in numbers)
    print_table(numbers, "LVIS scores" if lvis else "COCO scores")
    print_notes(scores.skipped, scores.notes)
    categories = category_table(scores)
    if 1 < len(categories) <= 21:
        print_table(categories, "By category")


def print_notes(skipped: Sequence[int], notes: Sequence[str]) -> None:
    """What was left out of scores and what else is to be known of them, a line each."""
    if skipped:
        first = ", ".join(map(str, skipped[:10]))
        more = ", ..." if len(skipped) > 10 else ""
        typer.echo(
            f"{len(skipped)} annotations without a usable mask were left out of the mask "
            f"scores: {first}{more}"
        )
    for note in notes:
        typer.echo(f"note: {note}")


def print_detail(scores: Any) -> None:
    """Kinds of errors, calibration, and the categories that are confused."""
    from raymrcnn.score.table import TITLES, calibration_table, confusion_table, error_table

    print_table(error_table(scores), "What AP50 would gain without each kind of error")
    for kind, found in scores.detail.items():
        confused = confusion_table(scores, kind)
        if len(confused) > 1:
            print_table(confused, f"Categories taken for one another, {TITLES[kind]} IoU 0.5")
        ece = found["calibration"]["ece"]
        typer.echo(f"Calibration of {TITLES[kind]} scores: expected error {ece:.3f}")
    print_table(calibration_table(scores), "How many detections of a score are right")


VERBOSE = "RAYMRCNN_VERBOSE"  # also for what this process starts
_quiet = False


def be_quiet(quiet: bool) -> None:
    """Whether progress lines made from here on print nothing: `--quiet`."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _quiet


def be_verbose(verbose: bool) -> None:
    """Whether errors come with where they arose, and Ray's messages are let through."""
    if verbose:
        os.environ[VERBOSE] = "1"
    else:
        os.environ.pop(VERBOSE, None)


def is_verbose() -> bool:
    """Whether `--verbose` was given."""
    return bool(os.environ.get(VERBOSE))


class ProgressLine:
    """One line that is renewed in place on a terminal, and printed now and then elsewhere.

    Args:
        quiet: print nothing.
        every_s: seconds between lines where the output is no terminal.
    """

    def __init__(self, quiet: bool = False, every_s: float = 10.0) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet or _quiet)
        self._every_s = 0.0 if is_verbose() else every_s
        self._printed = -math.inf
        self._open = False
        self._lock = threading.Lock()

    def show(self, line: str, *, last: bool = False) -> None:
        """Show the newest state."""
        with self._lock:
            self._show(line, last=last)

    def _show(self, line: str, *, last: bool) -> None:
        if self._console.quiet:
            return
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            width = max(20, self._console.width - 1)
            self._console.file.write("\r\x1b[2K" + line[:width])
            self._console.file.flush()
            self._open = True
        elif last or time.monotonic() - self._printed >= self._every_s:
            self._printed = time.monotonic()
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def working(self, what: str, after_s: float = 1.0) -> Iterator[Callable[[str], None]]:
        """Say what is done and for how long, not before `after_s`; gives what changes the words."""
        ended, began = threading.Event(), time.monotonic()

        def renew() -> None:
            if ended.wait(after_s - 1.0):
                return
            while not ended.wait(1.0):
                self.show(f"{what}, {duration(time.monotonic() - began)}")

        def say(newer: str) -> None:
            nonlocal what
            what = newer

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield say
        finally:
            ended.set()
            thread.join()
            self.close()

    def note(self, line: str) -> None:
        """Print a line that stays."""
        self.close()
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the line as it is and go to the next."""
        if self._open:
            self._console.file.write("\n")
            self._open = False


@dataclass
class StopFlag:
    """Set by the first Ctrl-C or SIGTERM; the second Ctrl-C ends at once."""

    event: threading.Event

    @property
    def asked(self) -> bool:
        """Whether the user wants to stop."""
        return self.event.is_set()


@contextlib.contextmanager
def stop_on_signals(progress: ProgressLine) -> Iterator[StopFlag]:
    """Turn the first interrupt into a wish to save and stop."""
    flag = StopFlag(threading.Event())

    def on_signal(number: int, frame: object) -> None:
        if flag.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.event.set()
        progress.note("stopping: this step is finished and saved first (Ctrl-C again: at once)")

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the largest two that matter."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("+-").replace(".", "", 1).isdigit()
