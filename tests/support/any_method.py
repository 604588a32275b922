"""A handler of HTTP requests for stand-ins of servers: one answer for every method, and nothing printed."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import Any


class AnyMethod(BaseHTTPRequestHandler):
    """`answer` is called whatever the method is."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """An answer is sent in pieces; the second would wait 40 ms for the client to have acknowledged the first."""

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
