"""Send a command to a cluster's job server, show what it prints, end with its exit code.

Ray's own client speaks to the server, with the token that Ray finds for it. Does not upload
anything: data, weights and output are what the cluster sees under the names that were given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raymrcnn.device.on_ray import QUIET, no_answer_error, quiet_loggers
from raymrcnn.errors import RunError
from raymrcnn.submit.entry import REQUEST, request_text

# Ray's default is 3 s between SIGTERM and SIGKILL: too short to save a checkpoint.
STOP_WAIT_S = 180
POLL_S = 1.0
RECONNECTS = 10  # of the log, whose connection may be cut while the job goes on
# What Ray itself writes into the log of each job.
_OF_RAY = re.compile(r"(.*\sINFO job_manager\.py:.*|Running entrypoint for job .*)\n")
ENTRY = "python -m raymrcnn.submit.entry"


def submit(
    address: str,
    words: list[str],
    *,
    on_text: Callable[[str], None],
    on_start: Callable[[str], None],
    detach: bool = False,
) -> int:
    """Run `raymrcnn WORDS` on the head of a cluster.

    Ctrl-C and SIGTERM are passed on: the job is asked to stop, saves, and is followed to its end.

    Args:
        address: http(s)://HEAD:8265.
        words: of the command line, without the program and without --cluster.
        on_text: called with what the job prints, in pieces.
        on_start: called with the job's id, once it is accepted.
        detach: return then.

    Returns:
        The job's exit code; 0 after detaching.

    Raises:
        ClusterError: nothing answers, or the server refuses.
        RunError: the job was lost.
    """
    client = _client(address)
    with _server_errors(address):
        job = client.submit_job(
            entrypoint=ENTRY,
            runtime_env={
                "env_vars": {
                    REQUEST: request_text(words, os.getcwd()),
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                    "PYTHONUNBUFFERED": "1",
                }
            },
            metadata={"command": shlex.join(["raymrcnn", *words])},  # to be read, never run
        )
    on_start(job)
    if detach:
        return 0
    with _passed_on(lambda: client.stop_job(job)) as stopped:
        _follow_log(client, job, on_text)
        return _exit_code(client, job, bool(stopped))


def _client(address: str) -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Ray lets these override the address that it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )
    from ray.job_submission import JobSubmissionClient

    quiet_loggers()
    for name in ("dashboard.modules.job.sdk", "_private.authentication.authentication_token_setup"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    # As `ray job submit` does: a token that is there is shown to the server.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with _server_errors(address):
        return JobSubmissionClient(address)


@contextmanager
def _server_errors(address: str) -> Iterator[None]:
    """One line for what Ray's client raises, which is of many kinds."""
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise no_answer_error(address, str(error)) from None


@contextmanager
def _passed_on(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Make the first Ctrl-C or SIGTERM ask the job to stop; a second one ends the following.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        # In a thread: the request takes a moment, and the log goes on meanwhile.
        threading.Thread(target=stop, name="raymrcnn-stop-job", daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow_log(client: Any, job: str, on_text: Callable[[str], None]) -> None:
    """Show the log to its end. After a cut it is read again, and what was shown is left out."""
    shown = 0

    async def follow() -> None:
        nonlocal shown
        seen = 0
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, shown - seen) :]
            seen += len(text)
            if fresh := _OF_RAY.sub("", fresh):
                on_text(fresh)
            shown = max(shown, seen)

    for attempt in range(RECONNECTS):
        try:
            asyncio.run(follow())
        except (OSError, RuntimeError) as error:
            if attempt == RECONNECTS - 1:
                print(f"note: the log is lost ({error}); the job goes on", file=sys.stderr)
        if client.get_job_status(job).is_terminal():
            return
        time.sleep(POLL_S)


def _exit_code(client: Any, job: str, stopped: bool) -> int:
    while True:
        info = client.get_job_info(job)
        if info.status.is_terminal():
            break
        time.sleep(POLL_S)
    code: int | None = info.driver_exit_code
    if code is not None:
        return code
    if str(info.status) == "SUCCEEDED":
        return 0
    if stopped or str(info.status) == "STOPPED":
        return 130
    lines = (info.message or "").strip().splitlines() or ["no word of it"]
    raise RunError(f"job {job} failed: {lines[-1][:300]}", todo="the same command goes on")
