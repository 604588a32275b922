"""A URL -> its store, and what is read of it: listings, sizes and ranges of bytes."""

from __future__ import annotations

import os
from functools import lru_cache

from .azure_store import SCHEMES, AzureStore, account_of
from .fsspec_store import FsspecStore
from .s3_store import S3Store
from .store import Item, Store

__all__ = ["Item", "Store", "store_of"]


def store_of(url: str) -> Store:
    """The store of a URL. Raises MissingPackage without its client, BadOption if the scheme is not known, and what
    AzureStore raises."""
    # A client does not survive a fork: neither its threads nor its connections do.
    scheme = url.partition("://")[0].lower()
    return _store(scheme, account_of(url) if scheme in SCHEMES else "", os.getpid())


@lru_cache(maxsize=32)
def _store(scheme: str, account: str, _process: int) -> Store:
    if scheme in SCHEMES:
        return AzureStore(scheme, account)
    return S3Store(scheme) if scheme in ("s3", "s3a") else FsspecStore(scheme)
