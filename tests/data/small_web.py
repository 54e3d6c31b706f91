"""A web server of this machine that knows ranges and ETags, and hangs up when it is told to."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass
class Behaviour:
    """How the server treats its next requests."""

    files: dict[str, bytes]
    cuts: dict[str, list[int]] = field(default_factory=dict)  # bytes after which it hangs up
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


class Web(NamedTuple):
    url: str
    does: Behaviour


@contextlib.contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Web]:
    does = Behaviour(files=files)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            does.asked.append((self.path, span))
            body = does.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            first = 0
            if span and self.headers.get("If-Range") == '"one"':
                first = int(span.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - first))
            self.send_header("ETag", '"one"')
            self.end_headers()
            cuts = does.cuts.get(self.path)
            end = first + cuts.pop(0) if cuts else len(body)
            self.wfile.write(body[first:end])

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Web(f"http://127.0.0.1:{server.server_address[1]}", does)
    finally:
        server.shutdown()
        server.server_close()
