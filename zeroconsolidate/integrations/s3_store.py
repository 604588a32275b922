"""S3, and what speaks its language, through botocore: listing, sizes and ranges of bytes.

botocore is what boto3 and s3fs are made of, and what the aws command knows of credentials: environment, profiles (SSO,
assumed roles, processes), containers' and instances' roles. It is spoken to in S3's own terms, because only these can
say which version of an object is meant (`If-Match`), and because its answers are read with a fraction of the work that
s3fs has with them: see docs/object-stores.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .s3_client import s3_client
from .store import Item, Store
from .store_calls import seconds_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 128 << 10
"""So much is read at a time of an answer: in between it is seen whether it takes too long."""


class S3Store(Store):
    """Buckets of S3."""

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)
        self._client, self._more = s3_client()

    def call(self, method: str, **how: Any) -> Any:
        """What the client answers to a method of S3, by one attempt."""
        if self._more:
            operation = self._client.meta.method_to_api_mapping[method]
            known = self._client.meta.service_model.operation_model(operation).input_shape.members
            how = {name: value for name, value in self._more.items() if name in known} | how
        return getattr(self._client, method)(**how)

    def _info(self, url: str) -> Item:
        # A listing tells of objects and of folders. HEAD tells of objects only, and not what is wrong if it fails.
        bucket, key = place_of(url)
        if not key:
            self.call("head_bucket", Bucket=bucket)
            return _folder(bucket)
        folder, _, name = key.rpartition("/")
        for page in self._answers(Bucket=bucket, Prefix=key, Delimiter="/"):
            found = _directly(page, folder).get(name)
            if found is not None:
                return found
        raise FileNotFoundError(url)

    def _list(self, url: str) -> dict[str, dict[str, Item]]:
        bucket, key = place_of(url)
        prefix = f"{key}/" if key else ""
        # A checkpoint with its tags fits into one answer, which is as quick as one about a folder alone.
        page = next(self._answers(Bucket=bucket, Prefix=prefix))
        if not page.get("IsTruncated"):
            if not page.get("Contents") and key and not self._info(url).is_folder:
                raise NotADirectoryError(url)
            return _by_folder(page, url, prefix)
        found: dict[str, Item] = {}
        for page in self._answers(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            found |= {name: item for name, item in _directly(page, key).items() if item.is_folder or name not in found}
        return {url: found}

    def _tree(self, url: str) -> dict[str, Item]:
        bucket, key = place_of(url)
        prefix = f"{key}/" if key else ""
        return {
            each["Key"].removeprefix(prefix): _object(each)
            for page in self._answers(Bucket=bucket, Prefix=prefix)
            for each in page.get("Contents", ())
            if not each["Key"].endswith("/")
        }

    def _answers(self, **how: str) -> Iterator[dict[str, Any]]:
        while True:
            page: dict[str, Any] = self.call("list_objects_v2", **how)
            yield page
            if not page.get("IsTruncated"):
                return
            how["ContinuationToken"] = page["NextContinuationToken"]

    def _whole(self, url: str) -> bytes:
        bucket, key = place_of(url)
        answer = self.call("get_object", Bucket=bucket, Key=key)
        return bytes(_body(answer, answer["ContentLength"], time.monotonic() + seconds_for(0)))

    def _range(self, url: str, start: int, stop: int, item: Item) -> bytearray:
        bucket, key = place_of(url)
        upto = time.monotonic() + seconds_for(stop - start)
        asked = f"bytes={start}-{stop - 1}"
        answer = self.call("get_object", Bucket=bucket, Key=key, Range=asked, IfMatch=item.identity)
        return _body(answer, stop - start, upto)


def _body(answer: dict[str, Any], size_bytes: int, upto: float) -> bytearray:
    """The content that an answer brings, if it has come by then."""
    data, here = bytearray(size_bytes), 0
    with answer["Body"] as body, memoryview(data) as view:
        while here < size_bytes and (piece := body.read(min(_READ_BYTES, size_bytes - here))):
            view[here : here + len(piece)] = piece
            here += len(piece)
            if time.monotonic() > upto:
                raise TimeoutError("an answer takes too long")
    if here < size_bytes:
        raise OSError(f"{here} bytes came in place of {size_bytes}")
    return data


def place_of(url: str) -> tuple[str, str]:
    """The bucket and the key of a URL."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key.strip("/")


def _by_folder(page: dict[str, Any], url: str, prefix: str) -> dict[str, dict[str, Item]]:
    """A listing of all that is in a folder, however deep -> what is directly in each folder, by their URLs."""
    found: dict[str, dict[str, Item]] = {url: {}}
    for each in page.get("Contents", ()):
        inside = each["Key"].removeprefix(prefix)
        *folders, name = inside.split("/")
        here = url
        for folder in folders:
            found[here][folder] = _folder(folder)
            here = f"{here}/{folder}"
            found.setdefault(here, {})
        if name:  # without one, it stands for the folder
            found[here].setdefault(name, _object(each))
    return found


def _directly(page: dict[str, Any], folder: str) -> dict[str, Item]:
    """What a listing by folders has directly in `folder`, or of names that begin alike."""
    items = [_object(each) for each in page.get("Contents", ()) if each["Key"].rstrip("/") != folder]
    items += [_folder(each["Prefix"]) for each in page.get("CommonPrefixes", ())]
    return {item.name: item for item in items}


def _folder(path: str) -> Item:
    return Item(name=_last_part(path), is_folder=True, size_bytes=0, identity="")


def _object(each: dict[str, Any]) -> Item:
    return Item(name=_last_part(each["Key"]), is_folder=False, size_bytes=each["Size"], identity=each["ETag"])


def _last_part(key: str) -> str:
    return key.rstrip("/").rpartition("/")[2]
