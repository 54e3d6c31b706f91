"""Downloads over a bad network: whole and right at the end, or not there, and one line."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import raymrcnn.download as fetching
from raymrcnn.cli.main import app
from raymrcnn.download import Checks, download, mirrored
from raymrcnn.errors import ConfigError, FetchError, OutputError
from raymrcnn.weights import catalogue
from raymrcnn.weights.source import load_source

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several pieces
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """How the server treats its next requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes after which it hangs up, a request each
    etag: str = '"one"'
    ranges: bool = True
    codes: list[int] = field(default_factory=list)  # answered before anything else
    redirect: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


class Web(NamedTuple):
    url: str
    does: Behaviour


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    does = Behaviour(files={"/model.pth": CONTENT})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            does.asked.append((self.path, span))
            if does.codes:
                self.send_error(does.codes.pop(0))
                return
            if self.path in does.redirect:
                self.send_response(302)
                self.send_header("Location", does.redirect[self.path])
                self.end_headers()
                return
            body = does.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            first = 0
            if span and does.ranges and self.headers.get("If-Range") == does.etag:
                first = int(span.removeprefix("bytes=").rstrip("-"))
                if first >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - first))
            if does.etag:
                self.send_header("ETag", does.etag)
            self.end_headers()
            end = first + does.cuts.pop(0) if does.cuts else len(body)
            self.wfile.write(body[first:end])

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "FIRST_WAIT_S", 0.001)
    yield Web(f"http://127.0.0.1:{server.server_address[1]}", does)
    server.shutdown()
    server.server_close()


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_cut_connections_are_gone_on_with(web: Web, tmp_path: Path) -> None:
    web.does.cuts = [1_000_000, 0, 500_000, 10]
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "model.pth"
    assert download(f"{web.url}/model.pth", path, Checks(sha256=SHA), lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT
    assert [span for _, span in web.does.asked] == [
        None, "bytes=1000000-", "bytes=1000000-", "bytes=1500000-", "bytes=1500010-",
    ]  # fmt: skip
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)
    assert left(tmp_path) == {"model.pth"}
    assert not download(f"{web.url}/model.pth", path, Checks(sha256=SHA))
    assert len(web.does.asked) == 5, "what is here is not asked for"


def test_a_server_that_only_hangs_up_is_given_up_and_the_next_call_goes_on(
    web: Web, tmp_path: Path
) -> None:
    web.does.cuts = [1_000_000, *[0] * 10]
    path = tmp_path / "model.pth"
    with pytest.raises(FetchError, match=r"1000000 bytes are here; the same command goes on"):
        download(f"{web.url}/model.pth", path)
    assert not path.exists()
    web.does.cuts, web.does.asked = [], []
    assert download(f"{web.url}/model.pth", path)
    assert web.does.asked == [("/model.pth", "bytes=1000000-")]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"two"', 'W/"weak"', ""])
def test_a_file_that_changed_between_tries_is_begun_anew(
    web: Web, tmp_path: Path, etag: str
) -> None:
    web.does.cuts = [1_000_000, *[0] * 10]
    path = tmp_path / "model.pth"
    with pytest.raises(FetchError):
        download(f"{web.url}/model.pth", path)
    other = CONTENT[::-1]
    web.does.cuts, web.does.etag, web.does.files = [], etag, {"/model.pth": other}
    assert download(f"{web.url}/model.pth", path)
    assert path.read_bytes() == other


def test_a_shorter_file_now_is_begun_anew(web: Web, tmp_path: Path) -> None:
    web.does.cuts = [1_000_000, *[0] * 10]
    path = tmp_path / "model.pth"
    with pytest.raises(FetchError):
        download(f"{web.url}/model.pth", path)
    web.does.cuts, web.does.files = [], {"/model.pth": CONTENT[:1000]}
    assert download(f"{web.url}/model.pth", path)
    assert path.read_bytes() == CONTENT[:1000]


def test_a_server_without_ranges_sends_all_again(web: Web, tmp_path: Path) -> None:
    web.does.ranges, web.does.cuts = False, [2_000_000]
    path = tmp_path / "model.pth"
    assert download(f"{web.url}/model.pth", path, Checks(sha256=SHA[:8], size=len(CONTENT)))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("checks", "what"),
    [
        (Checks(sha256="0" * 8), "its SHA256 is"),
        (Checks(md5="0" * 32), "its MD5 is"),
        (Checks(size=5), "and 5 were published"),
    ],
)
def test_another_file_than_was_published_never_appears(
    web: Web, tmp_path: Path, checks: Checks, what: str
) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(FetchError, match=what) as caught:
        download(f"{web.url}/model.pth", path, checks)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == set(), "to go on with it would end the same"
    path.write_bytes(b"damaged")
    with pytest.raises(FetchError, match="remove it, and fetch it again"):
        download(f"{web.url}/model.pth", path, checks)
    assert path.read_bytes() == b"damaged"


def test_what_passes_is_tried_again_and_what_does_not_is_told(web: Web, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    web.does.codes = [503, 429]
    assert download(f"{web.url}/model.pth", path)
    with pytest.raises(FetchError, match="answers 404"):
        download(f"{web.url}/nothing.pth", tmp_path / "nothing.pth")
    assert web.does.asked[-1] == ("/nothing.pth", None)
    assert [p for p, _ in web.does.asked].count("/nothing.pth") == 1
    web.does.codes = [503] * 20
    with pytest.raises(FetchError, match="Service Unavailable"):
        download(f"{web.url}/model.pth", tmp_path / "other.pth")


def test_redirections_are_followed_but_not_to_less_safety(web: Web, tmp_path: Path) -> None:
    web.does.redirect = {"/moved.pth": f"{web.url}/model.pth"}
    assert download(f"{web.url}/moved.pth", tmp_path / "a")
    handler = fetching._NoDowngrade()
    request = fetching.urllib.request.Request("https://safe/model.pth")
    with pytest.raises(OSError, match="leads from HTTPS"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://unsafe/model.pth")
    with pytest.raises(ConfigError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_two_at_one_file_fetch_it_once(web: Web, tmp_path: Path) -> None:
    path, fetched = tmp_path / "model.pth", []
    threads = [
        threading.Thread(
            target=lambda: fetched.append(
                download(f"{web.url}/model.pth", path, Checks(sha256=SHA))
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [False, False, False, True]
    assert len(web.does.asked) == 1


def test_a_disk_that_is_too_full_is_told_before(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = fetching.shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="1 MiB are free"):
        download(f"{web.url}/model.pth", tmp_path / "model.pth")
    assert not (tmp_path / "model.pth").exists()


def test_a_mirror_keeps_the_path() -> None:
    assert mirrored("https://a.b/c/d%3Ae.pth", "http://m:8/x/") == "http://m:8/x/c/d%3Ae.pth"
    assert mirrored("https://a.b/c", None) == "https://a.b/c"
    with pytest.raises(ConfigError, match="is no address"):
        mirrored("https://a.b/c", "somewhere")


def test_published_weights_are_named_once_and_can_be_fetched() -> None:
    entries = catalogue.published()
    assert len({e.name.lower() for e in entries}) == len({e.file for e in entries}) == len(entries)
    for entry in entries:
        assert entry.url.startswith("https://")
        assert entry.md5_url in ("", entry.url + ".md5sum")
    reference = catalogue.published_named("e2e_mask_rcnn_R_101_FPN_1x")
    assert reference is not None
    assert reference.url.endswith("/models/maskrcnn/e2e_mask_rcnn_R_101_FPN_1x.pth")
    full = catalogue.published_named("detectron/e2e_mask_rcnn_R-101-FPN_1x")
    assert full is not None
    assert "/35861795/12_2017_baselines/e2e_mask_rcnn_R-101-FPN_1x.yaml.02_31_37." in full.url


def test_the_command_fetches_and_the_name_is_found(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    monkeypatch.setenv("RAYMRCNN_WEIGHTS", str(tmp_path))
    path = "/detectron/ImageNetPretrained/MSRA/R-50.pkl"
    run = CliRunner().invoke
    done = run(app, ["weights", "fetch", "R-50", "--mirror", web.url])
    assert (done.exit_code, done.stderr.count("error:")) == (1, 1)
    web.does.files = {path: b"another", path + ".md5sum": hashlib.md5(CONTENT).hexdigest().encode()}
    done = run(app, ["weights", "fetch", "R-50", "--mirror", web.url])
    assert (done.exit_code, "its MD5 is" in done.stderr) == (1, True)
    with pytest.raises(Exception, match="not fetched yet; `raymrcnn weights fetch R-50`"):
        load_source("R-50")
    web.does.files[path] = CONTENT
    web.does.cuts = [10**9, 1_000_000]
    monkeypatch.setenv("RAYMRCNN_MIRROR", web.url)
    done = run(app, ["weights", "fetch", "r-50", "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "R-50.pkl").read_bytes() == CONTENT
    asked = len(web.does.asked)
    done = run(app, ["weights", "fetch", "R-50"])
    assert "is here already" in done.stdout
    assert len(web.does.asked) == asked, "no network is needed for what is here"
    with pytest.raises(Exception, match="R-50.pkl"):
        load_source("R-50")  # found, and read, which these bytes do not survive
    done = run(app, ["weights", "list", "--json"])
    assert done.stdout.count(str(tmp_path)) == 1
    done = run(app, ["weights", "fetch", "e2e_mask_rcnn_R_101_FPN"])
    assert (done.exit_code, "did you mean e2e_mask_rcnn_R_101_FPN_1x?" in done.stderr) == (2, True)
