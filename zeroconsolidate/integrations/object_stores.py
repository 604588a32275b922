"""A URL -> its store, and what is read of it: listings, sizes and ranges of bytes."""

from __future__ import annotations

import os
from functools import lru_cache

from .fsspec_store import FsspecStore
from .s3_store import S3Store
from .store import Item, Store

__all__ = ["Item", "Store", "store_of"]


def store_of(url: str) -> Store:
    """The store of a URL. Raises MissingPackage without its client, BadOption if the scheme is not known."""
    # A client does not survive a fork: neither its threads nor its connections do.
    return _store(url.partition("://")[0].lower(), os.getpid())


@lru_cache(maxsize=32)
def _store(scheme: str, _process: int) -> Store:
    return S3Store(scheme) if scheme in ("s3", "s3a") else FsspecStore(scheme)
