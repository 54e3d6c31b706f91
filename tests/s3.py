"""A real S3-compatible server on loopback, for tests: a process of moto's, ended with its user."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

BUCKET = "raymrcnn-test"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_CREATE = "import sys, moto.server; moto.server.main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The query that turns `s3://BUCKET/...` to a fresh server; its credentials are in os.environ.

    A URI is `f"s3://{BUCKET}/folder?{query}"`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _CREATE, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    try:
        query = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        _create_bucket(port, query)
        yield query
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        process.kill()
        process.wait()


def _create_bucket(port: int, query: str) -> None:
    from pyarrow import fs

    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end, "the S3 server did not start"
            time.sleep(0.1)
    system = fs.S3FileSystem(
        scheme="http",
        endpoint_override=f"127.0.0.1:{port}",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    system.create_dir(BUCKET)
