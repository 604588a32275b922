"""Writing to S3, in its own terms: an upload in parts outlives its process, and can be asked for the parts it has."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile
from .s3_store import place_of
from .store_calls import answered
from .uploads import OBJECTS_IN_FLIGHT, UploadedPart, Uploads, answered_if_there

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .s3_store import S3Store

IN_FLIGHT = 8
"""Parts of uploads that are under way at a time."""
_DELETED_TOGETHER = 1000
_MAY_BE_GONE = frozenset({"list_parts", "abort_multipart_upload"})


class S3Uploads(Uploads):
    """Every part is signed with its SHA-256, and the store refuses one that has another.

    Any number of machines may send parts of one upload.
    """

    is_resumable = True
    is_shared = True
    in_flight = IN_FLIGHT
    objects_in_flight = OBJECTS_IN_FLIGHT
    checks = "SHA-256 of every part, by the store"

    def __init__(self, store: S3Store) -> None:
        self.store = store

    def put(self, url: str, data: bytes | bytearray) -> None:
        # Of bytes the client makes a file, asks the store for leave to send it, and sends it in pieces of 16 KiB.
        self._call(url, "put_object", Body=bytearray(data))
        self.store.forget()

    def create(self, url: str, data: bytes) -> None:
        """An object, unless there is one of that name, as far as the store can tell.

        S3 gives a name to one of several that come at a time (`If-None-Match`); a store that does not know of it takes
        the last.
        """
        with suppress(DamagedFile):  # so is called what is not as the request has it
            self._call(url, "put_object", Body=bytearray(data), IfNoneMatch="*")
        self.store.forget()

    def copy(self, url: str, target: str) -> None:
        bucket, key = place_of(url)
        self._call(target, "copy_object", CopySource={"Bucket": bucket, "Key": key})
        self.store.forget()

    def remove(self, urls: Iterable[str]) -> None:
        by_bucket: dict[str, list[str]] = {}
        for url in urls:
            by_bucket.setdefault(place_of(url)[0], []).append(url)
        for each in by_bucket.values():
            for first in range(0, len(each), _DELETED_TOGETHER):
                together = each[first : first + _DELETED_TOGETHER]
                names = [{"Key": place_of(url)[1]} for url in together]
                self._call(together[0], "delete_objects", of_bucket=True, Delete={"Objects": names, "Quiet": True})
        self.store.forget()

    def begin(self, url: str, part_bytes: int) -> str:
        upload: str = self._call(url, "create_multipart_upload")["UploadId"]
        return upload

    def part(self, url: str, upload: str, number: int, data: bytes | bytearray) -> str:
        body = data if isinstance(data, bytearray) else bytearray(data)
        answer = self._call(url, "upload_part", UploadId=upload, PartNumber=number, Body=body)
        return str(answer["ETag"])

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        found: dict[int, UploadedPart] = {}
        marker = 0
        try:
            while True:
                answer = self._call(url, "list_parts", UploadId=upload, PartNumberMarker=marker)
                for part in answer.get("Parts", ()):
                    found[part["PartNumber"]] = UploadedPart(part["ETag"], part["Size"])
                if not answer.get("IsTruncated"):
                    return found
                marker = answer["NextPartNumberMarker"]
        except FileNotFoundError:
            return None

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        listed = [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]
        self._call(url, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": listed})
        self.store.forget()

    def give_up(self, url: str, upload: str) -> None:
        with suppress(FileNotFoundError):
            self._call(url, "abort_multipart_upload", UploadId=upload)

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        bucket, key = place_of(folder)
        found: list[tuple[str, str]] = []
        after: dict[str, str] = {}
        while True:
            answer = self._call(folder, "list_multipart_uploads", of_bucket=True, Prefix=f"{key}/", **after)
            scheme = self.store.scheme
            found += [(f"{scheme}://{bucket}/{each['Key']}", each["UploadId"]) for each in answer.get("Uploads", ())]
            if not answer.get("IsTruncated"):
                return found
            after = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _call(self, url: str, method: str, *, of_bucket: bool = False, **how: Any) -> Any:
        bucket, key = place_of(url)
        what = {"Bucket": bucket} if of_bucket else {"Bucket": bucket, "Key": key}
        ask = answered if method in _MAY_BE_GONE else answered_if_there
        return ask(url, lambda: self.store.call(method, **what, **how))
