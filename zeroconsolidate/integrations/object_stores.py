"""A URL -> its store: listing, sizes and ranges of bytes, through the client that fsspec knows for the scheme.

Credentials, endpoints and proxies are the client's: what `fsspec.filesystem("s3")` finds is used, and nothing is asked
for here. s3fs is spoken to in S3's own terms, because only these can say which version of an object is meant
(`If-Match`); all others through fsspec's common interface.

A call that fails is tried again until its deadline, with growing pauses: now and then stores answer 500, 503 (SlowDown)
or not at all, and expect the client to come back. What a store refuses is not asked for again.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadOption, DamagedFile, StoreFailed
from .packages import missing

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPT_SECONDS = 30.0
"""A call may take so long, and a second more for each SLOWEST_BYTES_PER_SECOND that it moves."""
SLOWEST_BYTES_PER_SECOND = 1 << 18
DEADLINE_SECONDS = 240.0
"""From when a call was first tried on, it is not tried again after so long."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 15.0
"""Pauses double from the first to the longest; half of each is left to chance, so that callers do not come back all at
once."""

CONNECTIONS = 48
"""To one store at a time: as many as reading and writing together have requests under way."""
LISTED_SECONDS = 3.0
"""So long a listing is believed: one command asks for the same folders again and again."""
_LISTINGS = 4096
_KNOWN = 1 << 17

CLIENTS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "hf": "huggingface_hub",
}  # fmt: skip
"""Scheme -> the package that has its client."""
_IDENTITIES = ("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "checksum", "uid", "LastModified",
               "last_modified", "mtime", "created", "last_commit")  # fmt: skip
"""What clients say of an object that changes with its content, best first."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a store says of an object or a folder."""

    name: str
    """The last part of its path."""
    is_folder: bool
    size_bytes: int
    identity: str
    """Changes when the content does: an ETag, a generation, a digest, or a time."""


class Store:
    """What is reached with one scheme. Any number of threads may use it.

    Raises FileNotFoundError for what is not there, StoreFailed if the store refuses or does not answer, DamagedFile for
    an object that is another than it was.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.files = _client(scheme)
        self._handles: dict[str, Any] = {}
        self._listed: dict[str, tuple[float, dict[str, Item]]] = {}
        self.known: dict[str, Item] = {}
        """What an object was when its metadata were read: its values must be of the same."""
        self._turn = threading.Lock()

    def key(self, url: str) -> str:
        """The path that the client knows the URL by."""
        found: str = self.files._strip_protocol(url)  # noqa: SLF001  (a client's own; fsspec has no public name for it)
        return found

    def look(self, url: str) -> Item:
        """What is there."""
        folder, _, name = url.rpartition("/")
        listed = self._remembered(folder)
        if listed is not None:
            if name not in listed:
                raise FileNotFoundError(url)
            return listed[name]
        return _item(self.ask(url, 0, lambda: self.files.info(self.key(url), **self._fresh)))

    def entries(self, url: str) -> dict[str, Item]:
        """What is directly in a folder, by name. Raises NotADirectoryError for an object."""
        listed = self._remembered(url)
        if listed is None:
            begun = time.monotonic()
            listed = {item.name: item for item in self._list(url)}
            if len(self._listed) >= _LISTINGS:
                self._listed.clear()
            self._listed[url] = (begun, listed)
        return listed

    def know(self, url: str, item: Item) -> None:
        """Remember what an object is."""
        with self._turn:
            self.known.pop(url, None)
            while len(self.known) >= _KNOWN:
                self.known.pop(next(iter(self.known)))
            self.known[url] = item

    def forget(self) -> None:
        """What was listed may have changed: something was written."""
        self._listed.clear()

    def _remembered(self, folder: str) -> dict[str, Item] | None:
        """What a folder held a moment ago."""
        begun, listed = self._listed.get(folder, (0.0, None))
        return listed if time.monotonic() - begun < LISTED_SECONDS else None

    def _list(self, url: str) -> list[Item]:
        key = self.key(url)
        found = self.ask(url, 0, lambda: self.files.ls(key, detail=True, **self._fresh))
        if len(found) == 1 and found[0]["name"].strip("/") == key.strip("/") and found[0]["type"] != "directory":
            raise NotADirectoryError(url)
        return [_item(each) for each in found if each["name"].strip("/") != key.strip("/")]

    def tree(self, url: str) -> dict[str, Item]:
        """All objects in a folder, however deep, by their paths in it."""
        key = self.key(url)
        found = self.ask(url, 0, lambda: self.files.find(key, detail=True))
        inside = f"{key.strip('/')}/"
        return {
            name.strip("/").removeprefix(inside): _item(each)
            for name, each in found.items()
            if name.strip("/").startswith(inside) and not name.endswith("/")
        }

    def read(self, url: str, start: int, stop: int, item: Item) -> bytes:
        """Bytes `[start, stop)` of the object that `item` describes."""
        key = self.key(url)

        def once() -> bytes:
            data = self._range(key, start, stop, item)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} bytes came in place of {stop - start}")
            return data

        return self.ask(url, stop - start, once)

    def ask(self, url: str, size_bytes: int, call: Callable[[], T]) -> T:
        """The answer to a call that moves so many bytes, which is tried again while there is hope and time."""
        begun, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except Exception as error:  # noqa: BLE001  (clients raise what they like)
                refuse_for_good(error, url)
                if time.monotonic() - begun + pause > DEADLINE_SECONDS:
                    raise StoreFailed(
                        f"the store does not answer: {in_short(error)}",
                        consequence=f"tried for {time.monotonic() - begun:.0f} s",
                        remedy="run the same command again when it does",
                        address=(url,),
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  (no secret)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    @property
    def _fresh(self) -> dict[str, bool]:
        """What keeps a client from answering out of its memory."""
        return {"refresh": True} if self.scheme in ("s3", "s3a", "gs", "gcs", "hf") else {}

    def _range(self, key: str, start: int, stop: int, item: Item) -> bytes:
        from fsspec.spec import AbstractBufferedFile

        if self.files.async_impl:
            return bytes(self.awaited(stop - start, self.files._cat_file, key, start=start, end=stop))  # noqa: SLF001
        with self._turn:
            handle = self._handles.get(key)
            if handle is None or handle[0] != item.identity:
                self._handles[key] = handle = (item.identity, self.files.open(key, "rb", cache_type="none"))
        if isinstance(handle[1], AbstractBufferedFile):
            return bytes(handle[1]._fetch_range(start, stop))  # noqa: SLF001  (exactly these bytes, from any thread)
        return bytes(self.files.cat_file(key, start=start, end=stop))

    def awaited(self, size_bytes: int, function: Callable[..., Any], *arguments: object, **keywords: object) -> Any:
        """What an asynchronous function of the client returns, within the time for one attempt."""
        from fsspec.asyn import sync

        seconds = ATTEMPT_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
        return sync(self.files.loop, function, *arguments, timeout=seconds, **keywords)


class S3Store(Store):
    """S3, and what speaks its language, through s3fs."""

    def _range(self, key: str, start: int, stop: int, item: Item) -> bytes:
        return bytes(self.awaited(stop - start, self._get, key, start, stop, item.identity))

    async def _get(self, key: str, start: int, stop: int, etag: str) -> bytes:
        bucket, name, _ = self.files.split_path(key)
        answer = await self.files._call_s3(  # noqa: SLF001  (the coroutine of s3fs's public call_s3)
            "get_object", Bucket=bucket, Key=name, Range=f"bytes={start}-{stop - 1}", IfMatch=etag
        )
        async with answer["Body"] as body:
            data: bytes = await body.read()
        return data


def store_of(url: str) -> Store:
    """The store of a URL. Raises MissingPackage without its client, BadOption if the scheme is not known."""
    # A client's thread does not survive a fork.
    return _store(url.partition("://")[0].lower(), os.getpid())


@lru_cache(maxsize=32)
def _store(scheme: str, _process: int) -> Store:
    return S3Store(scheme) if scheme in ("s3", "s3a") else Store(scheme)


def _client(scheme: str) -> Any:
    package, more = CLIENTS.get(scheme), dict[str, Any]()
    try:
        import fsspec

        if package == "huggingface_hub":
            from huggingface_hub import HfFileSystem

            return HfFileSystem(skip_instance_cache=True)
        if package == "s3fs":  # its default is ten connections
            more["config_kwargs"] = {"max_pool_connections": CONNECTIONS}
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=scheme != "memory", **more)
    except ImportError:
        extra = "remote" if package is None else {"s3fs": "s3", "gcsfs": "gcs", "adlfs": "azure"}.get(package, "hf")
        raise missing(f"reading {scheme}:// URLs", package or "fsspec", extra=extra) from None
    except ValueError:
        raise BadOption(
            f"no client is known for {scheme}:// URLs", expected="s3://, gs://, az://, hf:// or a path"
        ) from None


def _item(info: dict[str, Any]) -> Item:
    identity = next((info[key] for key in _IDENTITIES if info.get(key) is not None), "")
    return Item(
        name=info["name"].rstrip("/").rpartition("/")[2],
        is_folder=info["type"] == "directory",
        size_bytes=int(info.get("size") or 0),
        identity=str(identity),
    )


_REFUSED = frozenset(
    {"400", "401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
"""The bare 400 is S3's answer to HEAD with expired credentials: it has no body to say so."""
_CHANGED = frozenset({"412", "PreconditionFailed"})
_CREDENTIALS = ("NoCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "ProfileNotFound",
                "ClientAuthenticationError", "DefaultCredentialsError", "RefreshError", "GatedRepoError")  # fmt: skip


def refuse_for_good(error: Exception, url: str) -> None:
    """Raise what an error means that another try would not change: not there, not allowed, another object."""
    code = code_of(error)
    if code in _CHANGED:
        raise changed(url) from None
    if isinstance(error, (BadOption, DamagedFile, StoreFailed, NotADirectoryError, NotImplementedError)):
        raise error
    if code in _REFUSED or isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        raise StoreFailed(
            f"the store refuses access: {in_short(error)}",
            remedy="check the credentials that the client library uses, then run the same command again",
            address=(url,),
        ) from None
    if isinstance(error, FileNotFoundError):
        raise error


def changed(url: str) -> DamagedFile:
    """The error for an object that is another than it was."""
    return DamagedFile(
        "the file was changed while it was being read",
        remedy="wait until nothing writes to it, then run the same command again",
        address=(url,),
    )


def code_of(error: BaseException | None) -> str:
    """The code of a store's answer: of botocore's errors, or an HTTP status; "" if the error has none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        for status in (getattr(response, "status_code", None), getattr(error, "status", None)):
            if isinstance(status, int):
                return str(status)
        error = error.__cause__
    return ""


def in_short(error: Exception) -> str:
    """An error in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
