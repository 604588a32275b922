"""A store, to be written to: small objects whole, large ones in parts.

In S3 an upload in parts is invisible until it is completed, survives its process, and can be asked which parts it has:
it goes to the object's final name. Other stores take a stream, and only the process that began it can end it: it goes
to a name in the staging folder, and the store makes a copy when all is complete.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DamagedFile, OutputFailed, StoreFailed, ZeroConsolidateError
from .object_stores import S3Store, Store, in_short, refuse_for_good, store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

IN_FLIGHT = 8
"""Parts of uploads that are under way at a time."""
_DELETED_TOGETHER = 1000
_MAY_BE_GONE = frozenset({"list_parts", "abort_multipart_upload"})
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the store has."""

    etag: str
    size_bytes: int


class Uploads:
    """What can be written to a store. Raises StoreFailed, and FileNotFoundError for what is not there."""

    is_resumable = False
    """Whether another process can go on with an upload."""
    in_flight = 1
    """How many parts may be under way at a time. A stream takes them in order."""
    checks = "sizes, by the store's listing"
    """What the store says of what it was sent."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._streams: dict[str, Any] = {}

    def put(self, url: str, data: bytes) -> None:
        """An object, whole."""
        self._asked(url, len(data), lambda: self.store.files.pipe_file(self.store.key(url), data))
        self.store.forget()

    def copy(self, url: str, target: str) -> None:
        """A copy of an object, which the store makes."""
        keys = self.store.key(url), self.store.key(target)
        self._asked(target, 0, lambda: self.store.files.cp_file(*keys))
        self.store.forget()

    def remove(self, urls: Iterable[str]) -> None:
        """Remove objects, as far as they are there."""
        for url in urls:
            with suppress(FileNotFoundError):
                self.store.ask(url, 0, partial(self.store.files.rm_file, self.store.key(url)))
        self.store.forget()

    def begin(self, url: str, part_bytes: int) -> str:
        """Begin an upload in parts; returns what it is known by."""
        key = self.store.key(url)
        self._streams[url] = self._asked(url, 0, lambda: self.store.files.open(key, "wb", block_size=part_bytes))
        return url

    def part(self, url: str, upload: str, number: int, data: bytes) -> str:
        """Part `number`, from 1; returns its ETag."""
        self._once(url, lambda: self._streams[url].write(data))
        return ""

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        """The parts that the store has, by number; None if there is no such upload any more."""
        return None

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        """Make an object of the parts, by number, and their ETags."""
        self._once(url, self._streams[url].close)
        del self._streams[url]
        self.store.forget()

    def give_up(self, url: str, upload: str) -> None:
        """Remove an upload with all its parts, if it is there."""
        stream = self._streams.pop(url, None)
        if stream is not None:
            with suppress(Exception):  # what cannot be given up is not visible either
                stream.discard()
            stream.closed = True  # else it would be completed when Python takes it away

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        """Uploads of objects in a folder that were begun: URL and what each is known by."""
        return []

    def _asked(self, url: str, size_bytes: int, call: Callable[[], T]) -> T:
        """The answer to a call that needs its bucket, and its upload if it is a part of one."""
        try:
            return self.store.ask(url, size_bytes, call)
        except FileNotFoundError as error:
            raise OutputFailed(
                f"the store has no such bucket, or no such upload any more: {in_short(error)}", address=(url,)
            ) from None

    def _once(self, url: str, call: Callable[[], object]) -> None:
        """A call that cannot be repeated: what came of a part of a stream nobody knows."""
        try:
            call()
        except ZeroConsolidateError:
            raise
        except Exception as error:  # noqa: BLE001  (clients raise what they like)
            refuse_for_good(error, url)
            raise StoreFailed(f"the store does not take the file: {in_short(error)}", address=(url,)) from None


class S3Uploads(Uploads):
    """S3, in its own terms: every part comes with its MD5, and the store refuses one that has another.

    Any number of machines may send parts of one upload."""

    is_resumable = True
    in_flight = IN_FLIGHT
    checks = "MD5 of every part, by the store"

    store: S3Store

    def put(self, url: str, data: bytes) -> None:
        self._call(url, len(data), "put_object", Body=data, ContentMD5=_md5(data))
        self.store.forget()

    def create(self, url: str, data: bytes) -> None:
        """An object, unless there is one of that name, as far as the store can tell: read afterwards which it is.

        S3 gives a name to one of several that come at a time (`If-None-Match`); a store that does not know of it takes
        the last.
        """
        with suppress(DamagedFile):  # so is called what is not as the request has it
            self._call(url, len(data), "put_object", Body=data, ContentMD5=_md5(data), IfNoneMatch="*")
        self.store.forget()

    def copy(self, url: str, target: str) -> None:
        bucket, name, _ = self.store.files.split_path(self.store.key(url))
        self._call(target, 0, "copy_object", CopySource={"Bucket": bucket, "Key": name})
        self.store.forget()

    def remove(self, urls: Iterable[str]) -> None:
        by_bucket: dict[str, list[str]] = {}
        for url in urls:
            by_bucket.setdefault(url.split("/")[2], []).append(url)
        for each in by_bucket.values():
            for first in range(0, len(each), _DELETED_TOGETHER):
                together = each[first : first + _DELETED_TOGETHER]
                names = [{"Key": self.store.files.split_path(self.store.key(url))[1]} for url in together]
                self._call(together[0], 0, "delete_objects", of_bucket=True, Delete={"Objects": names, "Quiet": True})
        self.store.forget()

    def begin(self, url: str, part_bytes: int) -> str:
        upload: str = self._call(url, 0, "create_multipart_upload")["UploadId"]
        return upload

    def part(self, url: str, upload: str, number: int, data: bytes) -> str:
        answer = self._call(
            url, len(data), "upload_part", UploadId=upload, PartNumber=number, Body=data, ContentMD5=_md5(data)
        )
        return str(answer["ETag"])

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        found: dict[int, UploadedPart] = {}
        marker = 0
        try:
            while True:
                answer = self._call(url, 0, "list_parts", UploadId=upload, PartNumberMarker=marker)
                for part in answer.get("Parts", ()):
                    found[part["PartNumber"]] = UploadedPart(part["ETag"], part["Size"])
                if not answer.get("IsTruncated"):
                    return found
                marker = answer["NextPartNumberMarker"]
        except FileNotFoundError:
            return None

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        listed = [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]
        self._call(url, 0, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": listed})
        self.store.forget()

    def give_up(self, url: str, upload: str) -> None:
        with suppress(FileNotFoundError):
            self._call(url, 0, "abort_multipart_upload", UploadId=upload)

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        bucket, prefix, _ = self.store.files.split_path(self.store.key(folder))
        found: list[tuple[str, str]] = []
        after: dict[str, str] = {}
        while True:
            answer = self._call(folder, 0, "list_multipart_uploads", of_bucket=True, Prefix=f"{prefix}/", **after)
            scheme = self.store.scheme
            found += [(f"{scheme}://{bucket}/{each['Key']}", each["UploadId"]) for each in answer.get("Uploads", ())]
            if not answer.get("IsTruncated"):
                return found
            after = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _call(self, url: str, size_bytes: int, method: str, *, of_bucket: bool = False, **how: Any) -> Any:
        bucket, name, _ = self.store.files.split_path(self.store.key(url))
        what = {"Bucket": bucket} if of_bucket else {"Bucket": bucket, "Key": name}
        call = self.store.files._call_s3  # noqa: SLF001  (the coroutine of s3fs's public call_s3)
        ask = self.store.ask if method in _MAY_BE_GONE else self._asked
        return ask(url, size_bytes, lambda: self.store.awaited(size_bytes, call, method, **what, **how))


def uploads_to(url: str) -> Uploads:
    """What writes to the store of a URL."""
    store = store_of(url)
    return S3Uploads(store) if isinstance(store, S3Store) else Uploads(store)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
