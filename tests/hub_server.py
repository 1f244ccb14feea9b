"""A small model hub on loopback: the parts of the real one's interface that a download needs, and its troubles."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "c" * 40


class Hub:
    """What is served, and how badly.

    Attributes:
        repos: files by repository id.
        refusals: an HTTP status for every request about a repository, with the hub's error code.
        cut_after: a body breaks off after so many bytes, as often as `num_cuts` says.
        bytes_per_second: speed of a body; None for as fast as possible.
        ignores_ranges: answers 200 with the whole file to a request for a part.
        extra_bytes: that a body has beyond what was announced.
        num_busy: so many requests for a body are answered with 503.
        gets: names and first bytes of the bodies that were asked for.
    """

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]]) -> None:
        self.repos = {repo: dict(files) for repo, files in repos.items()}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.cut_after: int | None = None
        self.num_cuts = 0
        self.bytes_per_second: float | None = None
        self.ignores_ranges = False
        self.extra_bytes = 0
        self.num_busy = 0
        self.gets: list[tuple[str, int]] = []
        self.num_requests = 0
        self.tokens: list[str | None] = []
        self.address = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub runs until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def _answer(self, *, has_body: bool) -> None:
            hub.num_requests += 1
            hub.tokens.append(self.headers.get("authorization"))
            parts = urlsplit(self.path).path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._info("/".join(parts[2:4]))
            elif len(parts) > 4 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), "/".join(parts[4:]), has_body)
            else:
                self._send(404, b"", {})

        def _is_refused(self, repo: str) -> bool:
            status, code = hub.refusals.get(repo, (0, ""))
            if not status and repo not in hub.repos:
                status, code = 404, "RepoNotFound"
            if status:
                self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code} for {repo}"})
            return bool(status)

        def _info(self, repo: str) -> None:
            if self._is_refused(repo):
                return
            siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.repos[repo].items()]
            body = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _file(self, repo: str, name: str, has_body: bool) -> None:
            if self._is_refused(repo):
                return
            data = hub.repos[repo].get(name)
            if data is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            start = 0 if hub.ignores_ranges else start
            if not has_body:
                self._send(200, b"", {**headers, "Content-Length": str(len(data))})
                return
            hub.gets.append((name, start))
            if hub.num_busy:
                hub.num_busy -= 1
                self._send(503, b"", {})
                return
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            extra = bytes(hub.extra_bytes) if len(data) > 1000 else b""
            self._send(206 if start else 200, data[start:] + extra, headers)

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            try:
                self._write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _write(self, body: bytes) -> None:
            if hub.cut_after is not None and hub.num_cuts and len(body) > max(hub.cut_after, 1000):
                hub.num_cuts -= 1
                self.wfile.write(body[: hub.cut_after])
                self.close_connection = True
                return
            if hub.bytes_per_second is None or len(body) < 1000:
                self.wfile.write(body)
                return
            step = max(1, int(hub.bytes_per_second / 50))
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                time.sleep(0.02)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def use_hub(address: str, cache: str, patch: pytest.MonkeyPatch) -> None:
    """The hub's library of this process talks to `address` and keeps files in `cache`; it knows no token."""
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/token")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.delenv("HF_TOKEN", raising=False)
