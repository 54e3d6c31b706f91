"""What ended the workers of a run, or its cluster, in one line each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import ray

from raymrcnn.device.failures.on_ray import last_line, told_error
from raymrcnn.errors import RaymrcnnError, RunError


class WorkerError(RunError):
    """A worker ended and did not say why; perhaps its card did that."""


@contextlib.contextmanager
def cluster_errors() -> Iterator[None]:
    """Make one line of what Ray raises in the driver.

    Raises:
        RunError: the cluster is lost.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the cluster is lost ({(str(error).strip().splitlines() or [''])[0][:160]})",
            todo="run the same command again, on one that lives, to go on",
        ) from error


def explained(error: BaseException) -> RaymrcnnError:
    """One line for what Ray Train raised."""
    workers = getattr(error, "worker_failures", {})
    # Of several workers one tells what went wrong, and the others that they lost a peer.
    for failure in (*workers.values(), error):
        told = told_error(failure)
        if told is not None:
            return told
    for rank, failure in sorted(workers.items()):
        return WorkerError(
            f"worker {rank} failed: {last_line(failure)}",
            todo=f"run the same command again to go on; Ray's logs: {_log_folder()}",
        )
    return RunError(
        f"Ray Train failed: {last_line(error)}",
        todo=f"run the same command again to go on; Ray's logs: {_log_folder()}",
    )


def _log_folder() -> str:
    return os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
