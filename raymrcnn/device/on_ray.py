"""Ray as a home for cards: joining or starting it, what a worker takes of it, its process group."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from raymrcnn import __version__
from raymrcnn.device.accelerator import CPU, CUDA, MLU, Accelerator, num_cards
from raymrcnn.device.host_memory import reuse_freed_memory
from raymrcnn.device.loudness import log_level, ray_log
from raymrcnn.device.tls import require_understood
from raymrcnn.errors import ClusterError, DeviceError, RunError

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig

# Set before Ray is imported: it reads some of them then. A user's own settings win.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    # Ray starts workers with the lowest priority but three; ours are what the machine is for.
    "RAY_worker_niceness": "0",
    # Ray's core reports as an error that actors of Ray Data, which may restart, take arguments from
    # the object store: its own doing, and no trouble while this process lives.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
VERSION_LABEL = "raymrcnn/version"  # of a node, set by cluster/env.sh
PROCESS_GROUP_TIMEOUT_S = 600
LISTENER_S = 10
_VERSIONS = re.compile(r"(?:Ray|Python): (\S+)")  # of the cluster, then of this process


@contextlib.contextmanager
def ray_session(
    cluster: str | None, accelerator: Accelerator, workers: int, *, spare: int = 0
) -> Iterator[None]:
    """Join the cluster at `cluster`, or start one on this machine; leave or end it at the end.

    Without `cluster`, the address that `ray job submit` sets (RAY_ADDRESS) counts. A session that
    the caller opened is used as it is.

    Args:
        cluster: "auto" or HOST:PORT; None: this machine alone.
        accelerator: of the workers to come.
        workers: how many of them, at least, must fit.
        spare: slots on a CPU for other work beside them, where Ray is started here.

    Raises:
        ClusterError: no cluster answers there, or it is too small.
        DeviceError: this machine has fewer cards than workers.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        _require_fit(accelerator, workers)
        yield
        return
    address = cluster or os.environ.get("RAY_ADDRESS")
    quiet_loggers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Ray, about its own next version
        with _kept_sigterm():
            if address:
                _join(address)
            else:
                _start(accelerator, workers, spare)
    try:
        _require_fit(accelerator, workers)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Put the caller's handler of SIGTERM back over Ray's, which dumps a stack and ends."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def worker_resources(accelerator: Accelerator) -> dict[str, float]:
    """What one worker takes: a card and a core to feed it, or a core alone."""
    if accelerator is CPU:
        return {"CPU": 1}
    return {"CPU": 1, accelerator.ray_resource: 1}


def num_workers_possible(accelerator: Accelerator) -> int:
    """Cards, or for the CPU cores, of the cluster that was joined."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get(accelerator.ray_resource, 0))


def torch_config(accelerator: Accelerator) -> TorchConfig:
    """How Ray Train joins its workers into a process group."""
    from ray.train.torch import TorchConfig

    if accelerator is MLU:
        from raymrcnn.device.mlu_workers.on_ray import MLUConfig

        return MLUConfig(timeout_s=PROCESS_GROUP_TIMEOUT_S)
    return TorchConfig(backend=accelerator.process_group_backend, timeout_s=PROCESS_GROUP_TIMEOUT_S)


def worker_device(accelerator: Accelerator, workers_here: int) -> torch.device:
    """The device of the calling Ray worker, made current.

    On the CPU the cores of the machine are shared among the workers on it.
    """
    if accelerator is CPU:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(workers_here, 1)))
        reuse_freed_memory()
        return torch.device("cpu")
    if accelerator is MLU:
        from raymrcnn.device.mlu_workers.on_ray import take_card

        take_card()
    # Each worker is shown its own card alone, so its card is the first that it sees.
    device = torch.device(accelerator.torch_type, 0)
    torch.get_device_module(device).set_device(device)
    return device


class CardError(RunError):
    """A card failed at its work: another, or the same after a while, may still do it."""


@contextlib.contextmanager
def card_errors(accelerator: Accelerator) -> Iterator[None]:
    """Name the card in what torch and the driver raise in a worker; peers' deaths pass as they are.

    Raises:
        CardError: the card failed.
        RunError: its memory does not do; another try would end alike.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{accelerator.name} card {_card(accelerator)} has too little memory: "
            f"{(str(error).splitlines() or [''])[0][:200]}",
            where=f"node {socket.gethostname()}",
            todo="let a card take fewer images at once: more --workers, or optim.accumulate",
        ) from error
    except RuntimeError as error:
        text = str(error)
        lost_peer = isinstance(error, dist.DistError) or "gloo" in text.lower()
        if accelerator is CPU or lost_peer:
            raise
        raise CardError(
            f"{accelerator.name} card {_card(accelerator)} failed: {text.strip().splitlines()[0]}"
            if text.strip()
            else f"{accelerator.name} card {_card(accelerator)} failed",
            where=f"node {socket.gethostname()}",
            todo="run the same command again to go on; where it comes back, take that card out",
        ) from error


def _card(accelerator: Accelerator) -> str:
    return os.environ.get(accelerator.visible_devices_env) or "0"


def quiet_loggers() -> None:
    """Hide what Ray's libraries log below an error; to be called once they are imported."""
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(log_level())


def no_answer_error(address: str, text: str) -> ClusterError:
    """One line for what Ray said where it could not connect."""
    mismatch = _VERSIONS.findall(text) if "ersion mismatch" in text else []
    if len(mismatch) == 4:
        return ClusterError(
            f"it runs Ray {mismatch[0]} and Python {mismatch[1]}, and this is "
            f"Ray {mismatch[2]} and Python {mismatch[3]}",
            where=f"--cluster {address}",
            todo="use the same versions on both",
        )
    if "authenticat" in text.lower():
        return ClusterError(
            "the cluster refuses this token, or wants one",
            where=f"--cluster {address}",
            todo="copy the head's ~/.ray/auth_token (mode 0600), or set RAY_AUTH_TOKEN_PATH",
        )
    return ClusterError(
        f"no Ray cluster answers at {address} ({(text.splitlines() or [''])[0][:200]})",
        where="--cluster",
        todo="start one with `ray start --head`, or drop --cluster to use this machine",
    )


def _join(address: str) -> None:
    import ray

    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is a job server, and joining needs HOST:PORT or auto",
            where="--cluster",
            todo=f"raymrcnn ... --cluster {address} sends the whole command there",
        )
    said: list[str] = []  # by Ray's core, of what its exception leaves out
    try:
        _require_listener(address)
        with _held_back_stderr(said):
            _show_token(address)
            ray.init(address=address, **ray_log())
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise no_answer_error(address, "\n".join([str(error), *said])) from None
    try:
        require_version(ray.nodes())  # type: ignore[no-untyped-call]
    except ClusterError:
        ray.shutdown()
        raise


def require_version(nodes: list[dict[str, Any]]) -> None:
    """Compare our version with those that the nodes are labelled with.

    Args:
        nodes: as `ray.nodes()` tells them.

    Raises:
        ClusterError: a living node has another version.
    """
    for node in nodes:
        there = (node.get("Labels") or {}).get(VERSION_LABEL, __version__)
        if node.get("Alive") and there != __version__:
            raise ClusterError(
                f"this is raymrcnn {__version__}, and the node has raymrcnn {there}",
                where=f"node {node.get('NodeManagerAddress')}",
                todo="install the same version on every node",
            )


def _require_listener(address: str) -> None:
    """Raise OSError or ValueError unless something listens there: Ray would try for minutes.

    Raises:
        ClusterError: it speaks TLS and we do not, or the other way round, or without trust.
    """
    if address == "local":
        return
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        address = canonicalize_bootstrap_address("auto") or ""  # no public call tells it
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host:
        raise ValueError("write it as HOST:PORT")
    require_understood(host.strip("[]"), int(port))


def _show_token(address: str) -> None:
    """Let Ray show its token, if there is one here, where the cluster asks for it.

    By itself Ray does so for "auto" alone. A driver that asks for tokens in a cluster without
    could not be spoken to, and a token is nothing to be shown to whoever listens.
    """
    import grpc  # type: ignore[import-untyped]
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )
    from ray._private.grpc_utils import init_grpc_channel

    if address in ("auto", "local"):
        return
    channel = init_grpc_channel(address.removeprefix("ray://"))
    try:
        channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=LISTENER_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        channel.close()


def _start(accelerator: Accelerator, workers: int, spare: int) -> None:
    import ray

    cards = 0
    if accelerator is not CPU:
        cards = num_cards(accelerator)
        if workers > cards:
            raise _too_few(accelerator, workers, cards, "this machine has")
    # On the CPU any number of workers is allowed: Ray counts slots, the system shares the cores.
    slots = max(os.cpu_count() or 1, workers) + 1 + spare
    if accelerator is MLU:
        from raymrcnn.device.mlu_workers.on_ray import UNIT_INSTANCES, unit_instance_resources

        os.environ[UNIT_INSTANCES] = unit_instance_resources()
    with _held_back_stderr():
        ray.init(
            address="local",
            num_cpus=slots,
            num_gpus=cards if accelerator is CUDA else 0,
            resources={MLU.ray_resource: cards} if accelerator is MLU else None,
            include_dashboard=False,
            **ray_log(),
        )
    close_token()


def close_token() -> None:
    """Keep the token that Ray makes from others: who has it runs code as this user."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):  # not there, or not ours
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


@contextlib.contextmanager
def _held_back_stderr(said: list[str] | None = None) -> Iterator[None]:
    """Keep what is written to the error stream, also by C++, and show it only after a failure.

    Args:
        said: takes the text of a failure, which then is not shown.
    """
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            if said is None:
                os.write(real, held.read())
            else:
                said.append(held.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)


def _require_fit(accelerator: Accelerator, workers: int) -> None:
    _require_room(accelerator, workers)
    if accelerator is MLU:
        from raymrcnn.device.mlu_workers.on_ray import require_numbered_cards

        require_numbered_cards()


def _require_room(accelerator: Accelerator, workers: int) -> None:
    possible = num_workers_possible(accelerator)
    if workers > possible:
        raise _too_few(accelerator, workers, possible, "the cluster has")


def _too_few(accelerator: Accelerator, workers: int, there: int, who: str) -> DeviceError:
    unit = "cores" if accelerator is CPU else f"{accelerator.name} cards"
    return DeviceError(
        f"{workers} workers need {workers} {unit}, and {who} {there}",
        where="--workers",
        todo=f"ask for at most {there}" if there else "use --device cpu",
    )
