"""TLS between Ray's processes: this host's certificate, and whether the other end speaks it.

`cluster/tls.sh` makes the certificates. Ray without one, or with one that is not trusted, knocks
for minutes and says little; here a handshake tells in a moment. Also a command, of which
`cluster/worker.sh` asks whether it will be understood:

    python -m raymrcnn.device.tls HEAD:PORT
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
from pathlib import Path

from raymrcnn.errors import ClusterError

USE = "RAY_USE_TLS"
# What Ray wants to be told, and the files of `cluster/tls.sh`.
FILES = {
    "RAY_TLS_CA_CERT": "ca.crt",
    "RAY_TLS_SERVER_CERT": "node.crt",
    "RAY_TLS_SERVER_KEY": "node.key",
}
LIMIT_S = 10.0


def use_certificate() -> bool:
    """Let Ray in this process and its children use the certificate in ~/.ray/tls, if there is one.

    RAYMRCNN_TLS names another folder. RAY_USE_TLS, where set, decides: 0 does without.

    Returns:
        Whether TLS is used.

    Raises:
        ClusterError: it is to be used, and a file is missing.
    """
    told = os.environ.get(USE)
    folder = Path(os.environ.get("RAYMRCNN_TLS") or Path.home() / ".ray" / "tls")
    if told is None and (folder / "node.key").exists():
        os.environ[USE] = "1"
        for name, file in FILES.items():
            os.environ.setdefault(name, str(folder / file))
    if os.environ.get(USE, "0").lower() not in ("1", "true"):
        return False
    for name in FILES:
        path = os.environ.get(name)
        if not path or not os.access(path, os.R_OK):
            raise ClusterError(
                f"TLS is on, and there is no certificate at {path}"
                if path
                else f"TLS is on, and {name} is not set",
                where=name,
                todo="copy this host's folder that cluster/tls.sh made to ~/.ray/tls, or set "
                "RAY_USE_TLS=0",
            )
    return True


def require_understood(host: str, port: int) -> None:
    """Refuse a listener that speaks TLS where we do not, or the other way round, or without trust.

    Raises:
        ClusterError: with what is in the way.
        OSError: nothing listens there.
    """
    where = f"--cluster {host}:{port}"
    if not use_certificate():
        if _speaks_tls(host, port):
            raise ClusterError(
                "the cluster speaks TLS, and this host has no certificate",
                where=where,
                todo="copy this host's folder that cluster/tls.sh made to ~/.ray/tls",
            )
        return
    try:
        _greet(host, port)
    except OSError as error:
        if not _speaks_tls(host, port):
            raise ClusterError(
                "TLS is on here, and the cluster speaks none",
                where=where,
                todo="start it with certificates of cluster/tls.sh, or set RAY_USE_TLS=0",
            ) from None
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
        raise ClusterError(
            f"the two certificates do not trust each other ({reason})",
            where=where,
            todo="make both by one cluster/tls.sh, for the addresses that Ray uses",
        ) from None


def _speaks_tls(host: str, port: int) -> bool:
    """Whether a hello of TLS is answered as such; trust is not asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), LIMIT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:  # it hangs up, or is silent: no TLS
            return False


def _greet(host: str, port: int) -> None:
    """Shake hands with this host's certificate, as Ray's processes will."""
    context = ssl.create_default_context(cafile=os.environ["RAY_TLS_CA_CERT"])
    context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
        # The server looks at our certificate last: only now it says what it thinks of it.
        contextlib.suppress(TimeoutError),
    ):
        secure.settimeout(2.0)
        secure.recv(1)


def main(address: str) -> None:
    """Look at one address, HOST:PORT, and end with 2 where we would not be understood there."""
    host, _, port = address.rpartition(":")
    try:
        require_understood(host.strip("[]"), int(port))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a head may come up later: Ray waits for it
        print(f"note: nothing answers at {address} yet ({error})", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
