"""Whether two ends that may speak TLS will understand each other, told before Ray would hang."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raymrcnn.device import tls
from raymrcnn.errors import ClusterError

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "tls.sh"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def certify(out: Path, *hosts: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "RAYMRCNN_TLS_OUT": str(out)}
    return subprocess.run([SCRIPT, *hosts], env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one authority for two hosts, and beside it those of another."""
    out = tmp_path_factory.mktemp("authority")
    for name in ("ours", "theirs"):
        done = certify(out / name, "10.0.0.1", "10.0.0.2")
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tls.USE, "RAYMRCNN_TLS", *tls.FILES):
        # Set first, so that what the code under test sets is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def listen() -> Iterator[Callable[..., int]]:
    """Makes listeners as Ray's are: with a certificate they ask for one; the port of each."""
    sockets: list[socket.socket] = []

    def serve(server: socket.socket, context: ssl.SSLContext | None) -> None:
        while True:
            try:
                plain, _ = server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                if context is None:
                    plain.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")  # as HTTP/2 begins
                    plain.recv(100)
                else:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.sendall(b"\x00")

    def start(folder: Path | None, address: str = "127.0.0.1") -> int:
        context = None
        if folder is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "node.crt", folder / "node.key")
            context.load_verify_locations(folder / "ca.crt")
            context.verify_mode = ssl.CERT_REQUIRED
            context.set_alpn_protocols(["h2"])
        server = socket.create_server((address, 0))
        sockets.append(server)
        threading.Thread(target=serve, args=(server, context), daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    yield start
    for server in sockets:
        server.close()


def test_each_host_gets_a_key_that_is_its_own_and_a_second_call_keeps_the_authority(
    made: Path, tmp_path: Path
) -> None:
    ours = made / "ours"
    for folder in (ours, ours / "10.0.0.1", ours / "10.0.0.2"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for key in (ours / "ca.key", ours / "10.0.0.1" / "node.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list(ours.glob("10.0.0.*/ca.key")), "the authority's key goes to no host"
    keys = {path.read_text() for path in ours.glob("*/node.key")}
    assert len(keys) == 2
    shutil.copytree(ours, tmp_path / "again")
    done = certify(tmp_path / "again", "10.0.0.3")
    assert done.stdout.startswith("ssh 10.0.0.3 mkdir -p .ray/tls && scp ")
    assert (tmp_path / "again/10.0.0.3/ca.crt").read_text() == (ours / "ca.crt").read_text()
    assert len(list((tmp_path / "again").glob("10.0.0.*"))) == 3


@pytest.mark.parametrize("words", [[], ["-h"], ["no such host; touch hacked"], ["../up"]])
def test_no_certificate_is_made_for_what_is_no_host(words: list[str], tmp_path: Path) -> None:
    done = certify(tmp_path / "out", *words)
    assert (done.returncode, bool(done.stderr)) == (2, True)
    assert not list(tmp_path.rglob("hacked"))
    assert not list(tmp_path.rglob("node.key"))


def test_a_certificate_in_the_home_folder_is_used_unless_told_otherwise(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not tls.use_certificate()
    shutil.copytree(made / "ours" / "10.0.0.1", tmp_path / ".ray" / "tls")
    monkeypatch.setenv(tls.USE, "0")
    assert not tls.use_certificate()
    monkeypatch.delenv(tls.USE)
    assert tls.use_certificate()
    assert os.environ[tls.USE] == "1"
    assert os.environ["RAY_TLS_SERVER_KEY"] == str(tmp_path / ".ray/tls/node.key")
    (tmp_path / ".ray/tls/ca.crt").unlink()
    with pytest.raises(ClusterError, match=r"no certificate at .*ca\.crt; copy"):
        tls.use_certificate()


def test_ends_that_trust_each_other_are_understood(
    made: Path, listen: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls.require_understood("127.0.0.1", listen(None))  # neither speaks TLS
    monkeypatch.setenv("RAYMRCNN_TLS", str(made / "ours" / "10.0.0.2"))
    tls.require_understood("127.0.0.1", listen(made / "ours" / "10.0.0.1"))
    with pytest.raises(OSError, match="refused"):
        tls.require_understood("127.0.0.1", 9)


@pytest.mark.parametrize(
    ("have", "there", "address", "said"),
    [
        (None, "ours/10.0.0.1", "127.0.0.1", "this host has no certificate"),
        ("ours/10.0.0.2", None, "127.0.0.1", "the cluster speaks none"),
        ("theirs/10.0.0.2", "ours/10.0.0.1", "127.0.0.1", "do not trust each other"),
        ("mixed", "ours/10.0.0.1", "127.0.0.1", "do not trust each other"),
        ("ours/10.0.0.2", "ours/10.0.0.1", "127.0.0.2", "do not trust each other"),
    ],
)
def test_who_would_not_be_understood_is_told_in_one_line(
    made: Path, listen: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    have: str | None, there: str | None, address: str, said: str,
) -> None:  # fmt: skip
    if have == "mixed":  # trusts the server, which does not trust it
        shutil.copytree(made / "theirs" / "10.0.0.2", tmp_path / "mixed")
        shutil.copy(made / "ours" / "ca.crt", tmp_path / "mixed" / "ca.crt")
        monkeypatch.setenv("RAYMRCNN_TLS", str(tmp_path / "mixed"))
    elif have is not None:
        monkeypatch.setenv("RAYMRCNN_TLS", str(made / have))
    port = listen(None if there is None else made / there, address)
    with pytest.raises(ClusterError, match=said) as caught:
        tls.require_understood(address, port)
    assert "\n" not in str(caught.value)


def test_as_a_command_it_ends_with_2_where_it_would_not_be_understood(
    made: Path, listen: Callable[..., int]
) -> None:
    port = listen(made / "ours" / "10.0.0.1")
    for folder, code in ((None, 2), (made / "ours" / "10.0.0.2", 0)):
        env = {**os.environ} | ({"RAYMRCNN_TLS": str(folder)} if folder else {})
        words = [sys.executable, "-m", "raymrcnn.device.tls", f"127.0.0.1:{port}"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
