"""A real S3 server on loopback (moto's), and in front of it a proxy that fails in the ways real ones do.

client ── proxy ── moto          every request is recorded; rules say what becomes of it
"""

from __future__ import annotations

import http.client
import logging
import random
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

from any_method import AnyMethod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "runs"


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    number: int
    """How many came before it."""

    @property
    def key(self) -> str:
        return unquote(self.path).removeprefix(f"/{BUCKET}/")

    @property
    def range_bytes(self) -> int:
        """How many bytes a ranged request asked for."""
        first, _, last = (self.range or "bytes=1-0").removeprefix("bytes=").partition("-")
        return int(last) - int(first) + 1


@dataclass(frozen=True)
class Fault:
    """What becomes of a request that is not simply passed on."""

    status: int | None = None
    code: str = ""
    """An error in S3's terms."""
    drop: bool = False
    """The connection ends before an answer."""
    keep_bytes: int | None = None
    """The connection ends after so many bytes of the body."""
    pause_seconds: float = 0.0
    """Before the answer."""
    bytes_per_second: float | None = None


SERVER_ERROR = Fault(500, "InternalError")
SLOW_DOWN = Fault(503, "SlowDown")
DROPPED = Fault(drop=True)
EXPIRED = Fault(400, "ExpiredToken")
DENIED = Fault(403, "AccessDenied")

Rule = "Callable[[Request], Fault | None]"


@dataclass
class Store:
    """The server, as tests see it."""

    endpoint: str
    behind: tuple[str, int]
    requests: list[Request] = field(default_factory=list)
    rule: Rule = lambda _: None

    def url(self, key: str = "") -> str:
        return f"s3://{BUCKET}/{key}".rstrip("/")

    def put(self, folder: Path, key: str) -> str:
        """A copy of a directory in the bucket, past the proxy; returns its URL."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.direct("PUT", f"{key}/{file.relative_to(folder)}", file.read_bytes())
        return self.url(key)

    def get(self, key: str) -> bytes:
        """The content of an object."""
        return self.direct("GET", key)

    def direct(self, method: str, key: str, body: bytes = b"") -> bytes:
        """One request, past the proxy."""
        asked = http.client.HTTPConnection(*self.behind)
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/us-east-1/s3/"}
        path = f"/{BUCKET}/{quote(key, safe='/?=&')}" if key else f"/{BUCKET}"
        asked.request(method, path, body=body, headers=headers)
        answer = asked.getresponse()
        data = answer.read()
        asked.close()
        if answer.status >= 300:
            raise FileNotFoundError(f"{answer.status} {key}: {data[:200]!r}")
        return data

    def objects(self) -> list[str]:
        """The names of all objects."""
        return [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", self.direct("GET", "?list-type=2").decode())]

    def uploads(self) -> list[str]:
        """The names of all uploads that were begun and neither completed nor given up."""
        return re.findall(r"<Key>(.*?)</Key>", self.direct("GET", "?uploads").decode())

    def empty(self) -> None:
        """Remove all objects and uploads."""
        for key in self.objects():
            self.direct("DELETE", key)
        self.give_up()

    def begun(self) -> list[tuple[str, str]]:
        """The name and id of each upload that is not complete."""
        listed = re.findall(r"<Upload>(.*?)</Upload>", self.direct("GET", "?uploads").decode(), re.DOTALL)
        return [
            (re.findall(r"<Key>(.*?)</Key>", each)[0], re.findall(r"<UploadId>(.*?)</", each)[0]) for each in listed
        ]

    def give_up(self) -> None:
        """Remove all uploads, as a rule of the bucket does after some days."""
        for key, upload in self.begun():
            self.direct("DELETE", f"{key}?uploadId={upload}")

    @property
    def read_bytes(self) -> int:
        """How many bytes were asked for by ranged requests."""
        return sum(request.range_bytes for request in self.requests if request.method == "GET" and request.range)


def some(share: float, faults: list[Fault], seed: int = 1) -> Rule:
    """This share of all requests fails, each time in one of these ways."""
    chance, turn = random.Random(seed), threading.Lock()

    def rule(_: Request) -> Fault | None:
        with turn:
            return chance.choice(faults) if chance.random() < share else None

    return rule


@contextmanager
def s3_server() -> Iterator[Store]:
    """A server with one empty bucket, behind the proxy."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    store = Store("", (host, port))
    proxy = _Proxy(("127.0.0.1", 0), _Handler)
    proxy.store = store
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    store.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
    try:
        store.direct("PUT", "")
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    store: Store
    turn = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the game."""


class _Handler(AnyMethod):
    server: _Proxy

    def answer(self) -> None:
        parts = urlsplit(self.path)
        store = self.server.store
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.turn:
            request = Request(
                self.command, parts.path, parse_qs(parts.query, keep_blank_values=True), self.headers.get("Range"),
                len(store.requests),
            )  # fmt: skip
            store.requests.append(request)
        fault = store.rule(request)
        if fault is not None:
            time.sleep(fault.pause_seconds)
            if fault.drop:
                self.close_connection = True
                return
            if fault.status is not None:
                self._refuse(fault)
                return
        self._pass_on(body, fault)

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.code} (injected)</Message></Error>".encode()
        self.send_response(fault.status or 500)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        behind = http.client.HTTPConnection(*self.server.store.behind)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")
            }
            behind.request(self.command, self.path, body=body, headers=headers)
            answer = behind.getresponse()
            data = answer.read()
        finally:
            behind.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if fault is not None and fault.keep_bytes is not None and len(data) > fault.keep_bytes:
            self.wfile.write(data[: fault.keep_bytes])
            self.wfile.flush()
            self.close_connection = True
            return
        if fault is not None and fault.bytes_per_second is not None:
            for start in range(0, len(data), 1 << 10):
                self.wfile.write(data[start : start + (1 << 10)])
                time.sleep((1 << 10) / fault.bytes_per_second)
            return
        self.wfile.write(data)
