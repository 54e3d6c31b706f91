"""What workers take of a cluster, and clusters that are not there. Starts no Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from raymrcnn.device import on_ray
from raymrcnn.device.accelerator import CPU, CUDA, MLU, Accelerator
from raymrcnn.device.failures.on_ray import ray_errors, told_error
from raymrcnn.device.on_ray import (
    CardError,
    card_errors,
    ray_session,
    worker_device,
    worker_resources,
)
from raymrcnn.errors import ClusterError, DeviceError, RunError


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    assert not ray.is_initialized()


def test_a_worker_takes_a_card_and_a_core_to_feed_it() -> None:
    assert worker_resources(CPU) == {"CPU": 1}
    assert worker_resources(CUDA) == {"CPU": 1, "GPU": 1}
    assert worker_resources(MLU) == {"CPU": 1, "MLU": 1}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{port}", "Connection refused"),
        ("ray://127.0.0.1:{port}", "Connection refused"),
        ("nowhere.invalid:6379", "nowhere.invalid"),
        ("6379", "write it as HOST:PORT"),
        ("head:port", "invalid literal"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line_at_once(address: str, said: str) -> None:
    address = address.format(port=free_port())
    began = time.monotonic()
    with pytest.raises(ClusterError) as caught, ray_session(address, CPU, 1):
        pytest.fail("there is no such cluster")
    assert time.monotonic() - began < 10
    assert f"no Ray cluster answers at {address} (" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "ray start --head" in str(caught.value)


def test_the_address_of_a_job_counts_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match="no Ray cluster answers"), ray_session(None, CPU, 1):
        pytest.fail("there is no such cluster")


def test_a_job_server_is_told_from_a_cluster() -> None:
    with pytest.raises(ClusterError, match="is a job server") as caught:  # noqa: SIM117
        with ray_session("http://head:8265", CPU, 1):
            pytest.fail("there is no such cluster")
    assert "--cluster http://head:8265 sends the whole command there" in str(caught.value)


def test_a_local_start_is_refused_where_cards_are_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "num_cards", lambda row: 2)
    with pytest.raises(DeviceError, match="3 workers need 3 cuda cards, and this machine has 2"):  # noqa: SIM117
        with ray_session(None, CUDA, 3):
            pytest.fail("it has two")


def test_a_session_of_the_caller_is_used_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Ray that has 4 cores and 2 GPUs."""
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it is the caller's"))
    with ray_session(None, CUDA, 2):
        assert on_ray.num_workers_possible(CUDA) == 2
        assert on_ray.num_workers_possible(MLU) == 0
    for row, workers, said in (
        (CUDA, 3, "3 workers need 3 cuda cards, and the cluster has 2; ask for at most 2"),
        (CPU, 5, "5 workers need 5 cores, and the cluster has 4"),
        (MLU, 1, "the cluster has 0; use --device cpu"),
    ):
        with pytest.raises(DeviceError) as caught, ray_session(None, row, workers):
            pytest.fail("there is no room")
        assert said in str(caught.value)
    monkeypatch.undo()


@pytest.mark.parametrize(("workers", "share"), [(1, 1.0), (2, 0.5), (1000, 0.0)])
def test_workers_on_the_cpu_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int, share: float
) -> None:
    # Else this process kept all its memory from here on.
    monkeypatch.setattr(on_ray, "reuse_freed_memory", lambda: True)
    before = torch.get_num_threads()
    try:
        assert worker_device(CPU, workers) == torch.device("cpu")
        assert torch.get_num_threads() == max(1, int((os.cpu_count() or 1) * share))
    finally:
        torch.set_num_threads(before)


def test_noise_at_the_start_is_shown_only_where_the_start_fails(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with on_ray._held_back_stderr():
        os.write(2, b"noise of a library")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    with contextlib.suppress(SystemExit), on_ray._held_back_stderr():
        os.write(2, b"noise of a library")
        raise SystemExit
    os.write(2, b", after")
    assert capfd.readouterr().err == "noise of a library, after"


def test_what_goes_wrong_on_a_card_is_told_from_what_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "3")

    def raised(error: Exception, row: Accelerator = MLU) -> BaseException:
        with pytest.raises(Exception) as caught, card_errors(row):  # noqa: PT011
            raise error
        return caught.value

    dead = raised(RuntimeError("CNRT error: device lost\nmore"))
    assert isinstance(dead, CardError)
    assert dead.what == "mlu card 3 failed: CNRT error: device lost"
    full = raised(torch.OutOfMemoryError("MLU out of memory. Tried to allocate 2.00 GiB"))
    assert isinstance(full, RunError)
    assert not isinstance(full, CardError), "it would be tried again, to the same end"
    assert full.what.startswith("mlu card 3 has too little memory: MLU out of memory. Tried")
    for passed, row in (
        (torch.distributed.DistBackendError("CNCL: a peer died"), MLU),
        (RuntimeError("Gloo: connection closed by peer"), MLU),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), CPU),
        (RunError("of ours"), MLU),
    ):
        assert raised(passed, row) is passed


def test_what_a_task_raised_is_told_without_the_wrapping_of_ray() -> None:
    ours = CardError("mlu card 1 failed", where="node a")
    wrapped = RayTaskError("take_card", "Traceback ...", ours).as_instanceof_cause()
    assert isinstance(wrapped, CardError), "Ray makes a class of both"
    outer = RuntimeError("the group did not start")
    outer.__cause__ = wrapped
    assert told_error(outer) is told_error(wrapped) is told_error(ours) is ours
    assert told_error(RayTaskError("f", "...", ValueError())) is None


def test_what_ray_raises_is_one_line_that_says_what_failed() -> None:
    ours = DeviceError("no card", where="node a")
    with pytest.raises(DeviceError) as caught, ray_errors("scoring failed", "try again"):
        raise RayTaskError("f", "Traceback ...", ours).as_instanceof_cause()
    assert caught.value is ours
    text = "Traceback:\n  File x\nTypeError: no number\n"
    for error, said in (
        (RayTaskError("f", text, TypeError("no number")), "TypeError: no number"),
        (OutOfMemoryError("a task used\ntoo much memory\n"), "too much memory"),
    ):
        with pytest.raises(RunError) as told, ray_errors("scoring failed", "try again"):
            raise error
        assert str(told.value) == f"scoring failed: {said}; try again"
    with pytest.raises(KeyError), ray_errors("scoring failed", "try again"):
        raise KeyError


def test_the_token_is_kept_from_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    on_ray.close_token()  # nothing there, nothing to do
    path.write_text("secret")
    path.chmod(0o644)
    on_ray.close_token()
    assert path.stat().st_mode & 0o777 == 0o600
