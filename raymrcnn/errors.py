"""The errors that a user can meet, each with what happened, where, and what to do next.

Every kind is picklable (they travel between Ray processes) and carries the exit code that the
command line ends with: 2 where the command line, the configuration or the input is wrong, 1 where
a run failed. Broken invariants of our own are `assert`s, not these.
"""

from __future__ import annotations


class RaymrcnnError(Exception):
    """Base of all errors that are shown to a user as one line, without a traceback.

    Args:
        what: what is wrong, as a sentence without its full stop.
        where: file, field, id or host; put in front of the sentence.
        todo: what to do next; put behind the sentence.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line}; {todo}" if todo else line)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.todo)


def _rebuild(kind: type[RaymrcnnError], what: str, where: str, todo: str) -> RaymrcnnError:
    return kind(what, where=where, todo=todo)


class ConfigError(RaymrcnnError):
    """A recipe, a field or an option is wrong, or two of them contradict each other."""


class DataError(RaymrcnnError):
    """A data set, an annotation file or an image is missing or malformed."""


class WeightError(RaymrcnnError):
    """A weight file is missing, malformed, hostile, or of another architecture."""


class DeviceError(RaymrcnnError):
    """A device is absent, or cannot do what was asked of it."""


class ClusterError(RaymrcnnError):
    """A Ray cluster cannot be reached or lacks what the run needs."""


class OutputError(RaymrcnnError):
    """An output folder cannot be written, is full, or belongs to another run."""


class RunError(RaymrcnnError):
    """A run that was set up correctly failed on its way."""

    exit_code = 1


class FetchError(RunError):
    """A file could not be brought from the web, or is another than was published."""
