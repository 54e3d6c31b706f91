"""What Ray raises, in one line: the error of ours inside it, or the last that it says itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from raymrcnn.errors import RaymrcnnError, RunError


def told_error(error: BaseException | None) -> RaymrcnnError | None:
    """The error of ours that Ray wrapped, however deep, in whichever of its ways."""
    from ray.exceptions import RayError

    # What a task raised comes back as a class made of its own and of Ray's: still a wrapper.
    if error is None or (isinstance(error, RaymrcnnError) and not isinstance(error, RayError)):
        return error
    # None of these but `cause` is public.
    wrapped = [getattr(error, name, None) for name in ("cause", "_base_exc", "controller_failure")]
    for inner in (*wrapped, error.__cause__):
        if isinstance(inner, BaseException) and inner is not error:
            found = told_error(inner)
            if found is not None:
                return found
    return None


def last_line(error: BaseException) -> str:
    """What an error ends with: of a traceback as text, what was raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextlib.contextmanager
def ray_errors(failed: str, todo: str) -> Iterator[None]:
    """Make one line of what Ray raises.

    Args:
        failed: what it means, as "scoring failed", where Ray wrapped no error of ours.
        todo: what to do then.

    Raises:
        RaymrcnnError: of ours, as it was raised in a task or an actor.
        RunError: anything else.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        told = told_error(error)
        raise told or RunError(f"{failed}: {last_line(error)}", todo=todo) from error
