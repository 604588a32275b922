"""A stand-in for the Hugging Face hub on loopback: the few calls that its file system makes to read a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from any_method import AnyMethod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPOSITORY = "owner/run"


class Hub(ThreadingHTTPServer):
    """The server; `failures` are the statuses of the next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.failures: list[int] = []
        self.home = ""
        """Where the client may keep its own files."""
        self.ranges: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, folder: Path, prefix: str) -> str:
        """A copy of a directory in the repository; returns its URL."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.files[f"{prefix}/{file.relative_to(folder)}".lstrip("/")] = file.read_bytes()
        return f"hf://{REPOSITORY}/{prefix}"

    def described(self, path: str) -> dict[str, Any] | None:
        """What the hub says of a path; None if nothing is there."""
        if path in self.files:
            data = self.files[path]
            return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"type": "directory", "path": path, "oid": "0" * 40}
        return None

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the game."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub with one empty repository."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(AnyMethod):
    server: Hub

    def answer(self) -> None:
        hub, parts = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if hub.failures:
            self._send(hub.failures.pop(0), b"{}")
            return
        path = unquote(parts.path)
        api = f"/api/models/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            self._send(200, json.dumps({"id": REPOSITORY, "sha": "1" * 40}).encode())
        elif path.startswith(f"{api}/tree/main"):
            self._tree(path.removeprefix(f"{api}/tree/main").strip("/"), parse_qs(parts.query))
        elif path == f"{api}/paths-info/main":
            found = [hub.described(each) for each in parse_qs(body)["paths"]]
            self._send(200, json.dumps([each for each in found if each]).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/main/"):
            self._range(path.removeprefix(f"/{REPOSITORY}/resolve/main/"))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, folder: str, query: dict[str, list[str]]) -> None:
        inside = f"{folder}/" if folder else ""
        below = {name.removeprefix(inside) for name in self.server.files if name.startswith(inside)}
        if not below:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            below = {name.split("/")[0] for name in below}
        self._send(200, json.dumps([self.server.described(inside + name) for name in sorted(below)]).encode())

    def _range(self, name: str) -> None:
        asked = self.headers.get("Range") or "bytes=0-"
        self.server.ranges.append((name, asked))
        data = self.server.files.get(name)
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        said = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"}
        self._send(206, part, said | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": "1" * 40})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
