"""Writing to a store through fsspec's interface: large objects as a stream."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import StoreFailed, ZeroConsolidateError
from .store_calls import answered, in_short, refuse_for_good
from .uploads import OBJECTS_IN_FLIGHT, UploadedPart, Uploads, answered_if_there, each_removed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .fsspec_store import FsspecStore


class FsspecUploads(Uploads):
    """Streams, which end with the process that began them."""

    def __init__(self, store: FsspecStore) -> None:
        self.store = store
        # Others may keep what they do in variables of their own; the hub makes a commit of each object, one at a time.
        self.objects_in_flight = OBJECTS_IN_FLIGHT if store.files.async_impl else 1
        self._streams: dict[str, Any] = {}

    def put(self, url: str, data: bytes | bytearray) -> None:
        answered_if_there(url, lambda: self.store.files.pipe_file(self.store.key(url), bytes(data)))
        self.store.forget()

    def copy(self, url: str, target: str) -> None:
        keys = self.store.key(url), self.store.key(target)
        answered_if_there(target, lambda: self.store.files.cp_file(*keys))
        self.store.forget()

    def remove(self, urls: Iterable[str]) -> None:
        def remove(url: str) -> None:
            answered(url, partial(self.store.files.rm_file, self.store.key(url)))

        each_removed(remove, urls, in_flight=self.objects_in_flight)
        self.store.forget()

    def begin(self, url: str, part_bytes: int) -> str:
        key = self.store.key(url)
        self._streams[url] = answered_if_there(url, lambda: self.store.files.open(key, "wb", block_size=part_bytes))
        return url

    def part(self, url: str, upload: str, number: int, data: bytes | bytearray) -> str:
        self._once(url, lambda: self._streams[url].write(data))
        return ""

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        return None

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        self._once(url, self._streams[url].close)
        del self._streams[url]
        self.store.forget()

    def give_up(self, url: str, upload: str) -> None:
        stream = self._streams.pop(url, None)
        if stream is not None:
            with suppress(Exception):  # what cannot be given up is not visible either
                stream.discard()
            stream.closed = True  # else it would be completed when Python takes it away

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        return []

    def _once(self, url: str, call: Callable[[], object]) -> None:
        """A call that cannot be repeated: what came of a part of a stream nobody knows."""
        try:
            call()
        except ZeroConsolidateError:
            raise
        except Exception as error:  # noqa: BLE001  (clients raise what they like)
            refuse_for_good(error, url)
            raise StoreFailed(f"the store does not take the file: {in_short(error)}", address=(url,)) from None
