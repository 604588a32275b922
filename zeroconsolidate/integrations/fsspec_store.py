"""A store through the client that fsspec knows for its scheme.

Credentials, endpoints and proxies are the client's: what `fsspec.filesystem("gs")` finds is used, and nothing is asked
for here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadOption
from .packages import missing
from .store import Item, Store
from .store_calls import seconds_for

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = {"gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""Scheme -> the package that has its client."""
_EXTRAS = {"gcsfs": "gcs", "huggingface_hub": "hf"}
_IDENTITIES = ("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "checksum", "uid", "LastModified",
               "last_modified", "mtime", "created", "last_commit")  # fmt: skip
"""What clients say of an object that changes with its content, best first."""


class FsspecStore(Store):
    """A store through fsspec's common interface."""

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)
        self.files = _client(scheme)
        self._handles: dict[str, Any] = {}

    def key(self, url: str) -> str:
        """The path that the client knows the URL by."""
        found: str = self.files._strip_protocol(url)  # noqa: SLF001  (a client's own; fsspec has no public name for it)
        return found

    def _info(self, url: str) -> Item:
        return _item(self.files.info(self.key(url), **self._fresh))

    def _list(self, url: str) -> dict[str, dict[str, Item]]:
        key = self.key(url)
        found = self.files.ls(key, detail=True, **self._fresh)
        if len(found) == 1 and found[0]["name"].strip("/") == key.strip("/") and found[0]["type"] != "directory":
            raise NotADirectoryError(url)
        items = (_item(each) for each in found if each["name"].strip("/") != key.strip("/"))
        return {url: {item.name: item for item in items}}

    def _tree(self, url: str) -> dict[str, Item]:
        key = self.key(url)
        inside = f"{key.strip('/')}/"
        return {
            name.strip("/").removeprefix(inside): _item(each)
            for name, each in self.files.find(key, detail=True).items()
            if name.strip("/").startswith(inside) and not name.endswith("/")
        }

    @property
    def _fresh(self) -> dict[str, bool]:
        """What keeps a client from answering out of its memory."""
        return {"refresh": True} if self.scheme in ("gs", "gcs", "hf") else {}

    def _whole(self, url: str) -> bytes:
        item = self._info(url)
        return self._range(url, 0, item.size_bytes, item) if item.size_bytes else b""

    def _range(self, url: str, start: int, stop: int, item: Item) -> bytes:
        from fsspec.spec import AbstractBufferedFile

        key = self.key(url)
        if self.files.async_impl:
            return bytes(self._awaited(stop - start, self.files._cat_file, key, start=start, end=stop))  # noqa: SLF001
        with self._turn:
            handle = self._handles.get(key)
            if handle is None or handle[0] != item.identity:
                self._handles[key] = handle = (item.identity, self.files.open(key, "rb", cache_type="none"))
        if isinstance(handle[1], AbstractBufferedFile):
            return bytes(handle[1]._fetch_range(start, stop))  # noqa: SLF001  (exactly these bytes, from any thread)
        return bytes(self.files.cat_file(key, start=start, end=stop))

    def _awaited(self, size_bytes: int, function: Callable[..., Any], *arguments: object, **keywords: object) -> Any:
        """What an asynchronous function of the client returns, within the time for one attempt."""
        from fsspec.asyn import sync

        return sync(self.files.loop, function, *arguments, timeout=seconds_for(size_bytes), **keywords)


def _client(scheme: str) -> Any:
    package = CLIENTS.get(scheme)
    try:
        import fsspec

        if package == "huggingface_hub":
            from huggingface_hub import HfFileSystem

            return HfFileSystem(skip_instance_cache=True)
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=scheme != "memory")
    except ImportError:
        extra = _EXTRAS.get(package or "", "remote")
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
