"""A real S3 server on loopback (moto's), behind a proxy that fails."""

from __future__ import annotations

import http.client
import logging
import re
from contextlib import contextmanager
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import quote

from failing_proxy import DROPPED, Fault, Proxied, Request, in_front_of, some

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "DENIED",
    "DROPPED",
    "EXPIRED",
    "SERVER_ERROR",
    "SLOW_DOWN",
    "Fault",
    "Request",
    "Store",
    "s3_server",
    "some",
]

BUCKET = "runs"
SERVER_ERROR = Fault(500, "InternalError")
SLOW_DOWN = Fault(503, "SlowDown")
EXPIRED = Fault(400, "ExpiredToken")
DENIED = Fault(403, "AccessDenied")


class Store(Proxied):
    """The server, as tests see it."""

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


@contextmanager
def s3_server() -> Iterator[Store]:
    """A server with one empty bucket, behind the proxy."""
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    WSGIRequestHandler.disable_nagle_algorithm = True  # as of any_method.py
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    store = Store("", (host, port), f"/{BUCKET}")
    try:
        with in_front_of(store):
            store.direct("PUT", "")
            yield store
    finally:
        moto.stop()
