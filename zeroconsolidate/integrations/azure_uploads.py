"""Writing to Azure, in its own terms: the blocks of a blob.

Blocks that are sent and not yet in a blob's list are seen by nobody who lists or reads. They outlive their process, and
can be asked for. Azure has no name for an upload: here it is the beginning of its blocks' ids, all of one length, as
Azure wants the ids of one blob. Block 0 has no content of the file, and says that the upload was begun. What is not
completed is removed by Azure, a week after the last block came.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import StoreFailed
from .store_calls import answered
from .uploads import OBJECTS_IN_FLIGHT, UploadedPart, Uploads, answered_if_there, each_removed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .azure_store import AzureStore

IN_FLIGHT = 8
"""Blocks that are under way at a time."""
_COPY_PAUSE_SECONDS = 0.2


class AzureUploads(Uploads):
    """Every block and every small blob comes with its MD5, and the store refuses one that has another.

    Any number of machines may send blocks of one upload.
    """

    is_resumable = True
    is_shared = True
    in_flight = IN_FLIGHT
    objects_in_flight = OBJECTS_IN_FLIGHT
    checks = "MD5 of every block, by the store"

    def __init__(self, store: AzureStore) -> None:
        self.store = store

    def put(self, url: str, data: bytes | bytearray) -> None:
        self._call(url, self._put, url, data, size_bytes=len(data), overwrite=True)
        self.store.forget()

    def create(self, url: str, data: bytes) -> None:
        from azure.core.exceptions import ResourceExistsError

        async def unless_there() -> None:
            with suppress(ResourceExistsError):
                await self._put(url, data, overwrite=False)

        self._call(url, unless_there)
        self.store.forget()

    def copy(self, url: str, target: str) -> None:
        self._call(target, self._copied, url, target)
        self.store.forget()

    def remove(self, urls: Iterable[str]) -> None:
        def remove(url: str) -> None:
            self._call_if_there(url, self.store.blob(url).delete_blob)

        each_removed(remove, urls, in_flight=self.objects_in_flight)
        self.store.forget()

    def begin(self, url: str, part_bytes: int) -> str:
        upload = secrets.token_hex(12)
        self.part(url, upload, 0, b"0")
        return upload

    def part(self, url: str, upload: str, number: int, data: bytes | bytearray) -> str:
        block = _block(upload, number)
        self._call(url, self._sent, url, block, data, size_bytes=len(data))
        return block

    def parts(self, url: str, upload: str) -> dict[int, UploadedPart] | None:
        try:
            _, blocks = self._call_if_there(url, self.store.blob(url).get_block_list, "uncommitted")
        except FileNotFoundError:
            return None
        found = {
            int(block.id.removeprefix(upload)): UploadedPart(block.id, block.size)
            for block in blocks
            if block.id.startswith(upload)
        }
        return found if found.pop(0, None) is not None else None

    def complete(self, url: str, upload: str, parts: Mapping[int, str]) -> None:
        from azure.storage.blob import BlobBlock

        blocks = [BlobBlock(parts[number]) for number in sorted(parts)]
        self._call(url, self.store.blob(url).commit_block_list, blocks)
        self.store.forget()

    def give_up(self, url: str, upload: str) -> None:
        with suppress(FileNotFoundError):
            self._call_if_there(url, self._given_up, url)

    def unfinished(self, folder: str) -> list[tuple[str, str]]:
        async def both() -> set[str]:
            listed = self.store.listed
            return {*await listed(folder, include=("uncommittedblobs",))} - {*await listed(folder)}

        try:
            return [(f"{folder}/{name}", "") for name in sorted(self._call_if_there(folder, both))]
        except FileNotFoundError:
            return []

    async def _sent(self, url: str, block: str, data: bytes | bytearray) -> None:
        body = _Reader(data)
        await self.store.blob(url).stage_block(block, body, len(data), validate_content=True)

    async def _put(self, url: str, data: bytes | bytearray, *, overwrite: bool) -> None:
        await self.store.blob(url).upload_blob(bytes(data), overwrite=overwrite, validate_content=True)

    async def _copied(self, url: str, target: str) -> None:
        """Azure may say that it has begun a copy."""
        blob = self.store.blob(target)
        status = (await blob.start_copy_from_url(self.store.blob(url).url))["copy_status"]
        while status == "pending":
            await asyncio.sleep(_COPY_PAUSE_SECONDS)
            status = (await blob.get_blob_properties()).copy.status
        if status != "success":
            raise StoreFailed("the store has not made a copy", expected="success", found=status)

    async def _given_up(self, url: str) -> None:
        """Blocks go when a list is committed that does not name them: that makes an empty blob, deleted at once.

        If there is a blob of that name, which this conversion was to replace, it stays as it is, and so do the blocks.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

        blob = self.store.blob(url)
        if not (await blob.get_block_list("uncommitted"))[1]:
            return
        with suppress(ResourceExistsError, ResourceModifiedError):
            made = await blob.commit_block_list([], match_condition=MatchConditions.IfMissing)
            await blob.delete_blob(etag=made["etag"], match_condition=MatchConditions.IfNotModified)

    def _call(self, url: str, function: Callable[..., Any], *arguments: Any, size_bytes: int = 0, **how: Any) -> Any:
        return answered_if_there(url, lambda: self.store.call(size_bytes, function, *arguments, **how))

    def _call_if_there(self, url: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return answered(url, lambda: self.store.call(0, function, *arguments))


class _Reader(io.RawIOBase):
    """Reads from memory in pieces: of a part the client takes `bytes`, which would be a copy of it, or a file."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._view, self._here = memoryview(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._here : self._here + len(buffer)]
        buffer[: len(piece)] = piece
        self._here += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._here = offset + (0, self._here, len(self._view))[whence]
        return self._here

    def tell(self) -> int:
        return self._here


def _block(upload: str, number: int) -> str:
    return f"{upload}{number:08d}"
