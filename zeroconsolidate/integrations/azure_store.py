"""Azure's blobs: listing, sizes and ranges of bytes.

adlfs finds the account and its credentials, as it does for all who use fsspec. Requests are made with the client of
Azure that it holds, because only in Azure's own terms can be said which version of a blob is meant (`If-Match`), that
blocks are sent which no listing shows, and that a copy must be complete; and because that client would wait 15 s and
more before it repeats a request: here it does not, and all stores are asked again in one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadOption, StoreFailed
from .packages import missing
from .store import Item, Store
from .store_calls import azure_code, in_short, seconds_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SCHEMES = frozenset({"az", "abfs", "abfss"})
_SPOILT = "Md5Mismatch"
"""What came was not what was sent."""

T = TypeVar("T")


class AzureStore(Store):
    """Containers of one account. `account`: the host in a URL that names one, such as
    `abfss://container@account.dfs.core.windows.net/…`, or "".

    Raises MissingPackage without the client, StoreFailed if there is no account, BadOption if the URL names another
    than the client's connection string does.
    """

    def __init__(self, scheme: str, account: str = "") -> None:
        super().__init__(scheme)
        self.files = _client(scheme, account)
        self._service = _impatient(self.files)

    def call(self, size_bytes: int, function: Callable[..., Awaitable[T]], *arguments: Any, **keywords: Any) -> T:
        """What a function of the client, which moves so many bytes, returns by one attempt."""
        from fsspec.asyn import sync

        async def once() -> T:
            try:
                return await function(*arguments, **keywords)
            except Exception as error:
                _say(error)
                raise

        found: T = sync(self.files.loop, once, timeout=seconds_for(size_bytes))
        return found

    def blob(self, url: str) -> Any:
        """The client's name for a blob."""
        container, key = place_of(url)
        return self._service.get_blob_client(container, key)

    async def listed(self, url: str, *, include: tuple[str, ...] = ("metadata",)) -> dict[str, Any]:
        """All blobs in a folder, however deep, by their paths in it."""
        container, key = place_of(url)
        prefix = f"{key}/" if key else ""
        found = self._service.get_container_client(container).list_blobs(name_starts_with=prefix, include=[*include])
        return {
            each.name.removeprefix(prefix): each
            async for each in found
            if not _stands_for_a_folder(each) and not each.name.endswith("/")
        }

    def _info(self, url: str) -> Item:
        return self.call(0, self._looked_up, url)

    async def _looked_up(self, url: str) -> Item:
        container, key = place_of(url)
        of_container = self._service.get_container_client(container)
        if not key:
            await of_container.get_container_properties()
            return _folder(container)
        # A listing tells of blobs and of folders, and what is wrong if it fails. HEAD tells of blobs only.
        folder, _, name = key.rpartition("/")
        found = await self._directly_in(container, folder, key)
        if name not in found:
            raise FileNotFoundError(url)
        return found[name]

    def _list(self, url: str) -> dict[str, dict[str, Item]]:
        container, key = place_of(url)
        found = self.call(0, self._directly_in, container, key, f"{key}/" if key else "")
        if not found and key and not self._info(url).is_folder:
            raise NotADirectoryError(url)
        return {url: found}

    async def _directly_in(self, container: str, folder: str, begins: str) -> dict[str, Item]:
        """What is in a folder, of the names that begin with this."""
        found: dict[str, Item] = {}
        of_container = self._service.get_container_client(container)
        async for each in of_container.walk_blobs(name_starts_with=begins, delimiter="/", include=["metadata"]):
            if each.name.rstrip("/") == folder:
                continue
            is_folder = each.name.endswith("/") or _stands_for_a_folder(each)
            item = _folder(each.name) if is_folder else _object(each)
            if is_folder or item.name not in found:
                found[item.name] = item
        return found

    def _tree(self, url: str) -> dict[str, Item]:
        return {path: _object(each) for path, each in self.call(0, self.listed, url).items()}

    def _whole(self, url: str) -> bytes:
        return self.call(0, self._downloaded, url)

    def _range(self, url: str, start: int, stop: int, item: Item) -> bytes:
        from azure.core import MatchConditions

        of_item = {"etag": f'"{item.identity}"', "match_condition": MatchConditions.IfNotModified}
        return self.call(stop - start, self._downloaded, url, offset=start, length=stop - start, **of_item)

    async def _downloaded(self, url: str, **what: Any) -> bytes:
        answer = await self.blob(url).download_blob(**what)
        return bytes(await answer.readall())


def place_of(url: str) -> tuple[str, str]:
    """The container and the blob of a URL, whether it names an account or not.

    >>> place_of("abfss://runs@account.dfs.core.windows.net/run/model")
    ('runs', 'run/model')
    """
    container, _, key = url.partition("://")[2].partition("/")
    return container.partition("@")[0], key.strip("/")


def account_of(url: str) -> str:
    """The host of the account that a URL names, or "".

    >>> account_of("abfss://runs@account.dfs.core.windows.net/run"), account_of("az://runs/run")
    ('account.dfs.core.windows.net', '')
    """
    return url.partition("://")[2].partition("/")[0].partition("@")[2]


def _client(scheme: str, account: str) -> Any:
    named = account.partition(".")[0]
    how = {}
    if account:
        # Of an account with folders, .dfs. is another way to the same blobs.
        how = {"account_name": named, "account_host": account.replace(".dfs.", ".blob.", 1)}
    try:
        import fsspec

        files = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **how)
    except ImportError:
        raise missing(f"reading {scheme}:// URLs", "adlfs", extra="azure") from None
    except ValueError as error:
        raise StoreFailed(
            f"the client finds no account: {in_short(error)}",
            remedy="set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and its credentials",
            address=(f"{scheme}://{account}",),
        ) from None
    used = files.service_client.account_name
    if named and used != named:
        raise BadOption(
            "the client's connection string is for another account than the URL names", expected=named, found=used
        )
    return files


def _impatient(files: Any) -> Any:
    """Azure's client with the credentials that adlfs has found, which repeats nothing by itself."""
    from azure.storage.blob.aio import BlobServiceClient

    found = files.service_client
    files.service_client = BlobServiceClient(
        found.url, credential=found.credential, retry_total=0, _location_mode=files.location_mode
    )  # adlfs closes it
    return files.service_client


def _say(error: Exception) -> None:
    """Raise what an answer means whose status means something else elsewhere."""
    status, code = getattr(error, "status_code", None), azure_code(error)
    if code == _SPOILT:
        raise OSError(in_short(error)) from None
    if status == 404:
        raise FileNotFoundError(in_short(error)) from None
    if status in (400, 405, 409, 411, 413, 416) or (status == 412 and code != "ConditionNotMet"):
        raise StoreFailed(f"the store refuses the request: {in_short(error)}") from None


def _stands_for_a_folder(each: Any) -> bool:
    """Accounts with folders list them as blobs without content; so do clients that want folders elsewhere."""
    metadata = {key.lower(): value for key, value in (getattr(each, "metadata", None) or {}).items()}
    return "true" in (metadata.get("hdi_isfolder"), metadata.get("is_directory"))


def _folder(path: str) -> Item:
    return Item(name=_last_part(path), is_folder=True, size_bytes=0, identity="")


def _object(each: Any) -> Item:
    return Item(name=_last_part(each.name), is_folder=False, size_bytes=each.size, identity=each.etag.strip('"'))


def _last_part(key: str) -> str:
    return key.rstrip("/").rpartition("/")[2]
