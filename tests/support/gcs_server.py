"""An emulator of Google's store that answers many connections at a time: its own does one after the other, and waits
for a client that keeps its connection. Its handler is not made for threads: it gets one request at a time."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "runs"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Clients hang up when they have what they need."""


@contextmanager
def gcs_server() -> Iterator[str]:
    """A server with one empty bucket, in memory; yields its address."""
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    class Handler(RequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        turn = threading.Lock()

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            return partial(self._in_turn, found) if name.startswith("do_") else found

        def _in_turn(self, method: Any) -> None:
            with self.turn:
                method()

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    server = _Server(("127.0.0.1", 0), partial(Handler, storage))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
