"""A proxy in front of a server of an object store, which fails in the ways real ones do.

client ── proxy ── server        every request is recorded; rules say what becomes of it
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from any_method import AnyMethod

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    number: int
    """How many came before it."""
    bucket_path: str

    @property
    def key(self) -> str:
        return unquote(self.path).removeprefix(f"{self.bucket_path}/")

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
    """An error in the store's terms."""
    drop: bool = False
    """The connection ends before an answer."""
    keep_bytes: int | None = None
    """The connection ends after so many bytes of the body."""
    pause_seconds: float = 0.0
    """Before the answer."""
    bytes_per_second: float | None = None
    says: Mapping[str, str] = field(default_factory=dict)
    """Headers that the answer has in place of its own."""
    spoilt: bool = False
    """The first byte of what is sent is another when it arrives."""


DROPPED = Fault(drop=True)
Rule = "Callable[[Request], Fault | None]"


@dataclass
class Proxied:
    """A server, as its clients see it."""

    endpoint: str
    """Where the proxy is."""
    behind: tuple[str, int]
    """Host and port of the server."""
    bucket_path: str
    """What the paths of all objects begin with."""
    requests: list[Request] = field(default_factory=list)
    rule: Rule = lambda _: None

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
def in_front_of(server: Proxied) -> Iterator[None]:
    """Run the proxy, and say where it is."""
    proxy = _Proxy(("127.0.0.1", 0), _Handler)
    proxy.proxied = server
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    server.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
    try:
        yield
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxied: Proxied
    turn = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the game."""


class _Handler(AnyMethod):
    server: _Proxy

    def answer(self) -> None:
        parts = urlsplit(self.path)
        store = self.server.proxied
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.turn:
            request = Request(
                self.command,
                parts.path,
                parse_qs(parts.query, keep_blank_values=True),
                self.headers.get("x-ms-range") or self.headers.get("Range"),
                len(store.requests),
                store.bucket_path,
            )
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
            if fault.spoilt and body:
                body = bytes([body[0] ^ 1]) + body[1:]
        self._pass_on(body, fault)

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.code} (injected)</Message></Error>".encode()
        self.send_response(fault.status or 500)
        self.send_header("Content-Type", "application/xml")
        self.send_header("x-ms-error-code", fault.code)  # Azure's; S3 has it in the body
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        behind = http.client.HTTPConnection(*self.server.proxied.behind)
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
        says = {} if fault is None else fault.says
        for name, value in says.items():
            self.send_header(name, value)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length", *says):
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
