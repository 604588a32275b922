"""A URL -> what writes to its store."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .azure_store import AzureStore
from .azure_uploads import AzureUploads
from .fsspec_uploads import FsspecUploads
from .object_stores import store_of
from .s3_store import S3Store
from .s3_uploads import S3Uploads
from .uploads import UploadedPart, Uploads

if TYPE_CHECKING:
    from .fsspec_store import FsspecStore

__all__ = ["UploadedPart", "Uploads", "uploads_to"]


def uploads_to(url: str) -> Uploads:
    """What writes to the store of a URL."""
    store = store_of(url)
    if isinstance(store, AzureStore):
        return AzureUploads(store)
    return S3Uploads(store) if isinstance(store, S3Store) else FsspecUploads(cast("FsspecStore", store))
