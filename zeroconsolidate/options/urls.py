"""Paths and URLs: which is which, and what can be done with either as text.

A URL names a directory or a file of an object store, such as `s3://bucket/run/checkpoint-500`. A `file://` URL is
another spelling of a path, and is made one.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterable

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FILE = "file://"


def is_url(path: str) -> bool:
    """Whether a path names something in an object store.

    >>> is_url("s3://bucket/run"), is_url("run/checkpoint-500"), is_url("file:///run")
    (True, False, False)
    """
    return _URL.match(path) is not None and not path.startswith(_FILE)


def plain(path: str) -> str:
    """A path as it is given, a `file://` URL as a path. Raises BadOption for one that names another host.

    >>> plain("file:///data/run%201"), plain("runs/1")
    ('/data/run 1', 'runs/1')
    """
    if not path.startswith(_FILE):
        return path
    from urllib.parse import unquote

    found = unquote(path.removeprefix(_FILE).removeprefix("localhost"))
    if not found.startswith("/"):
        raise BadOption("a file:// URL names a file of this machine", expected="file:///path", found=path)
    return found


def normal(path: str) -> str:
    """The path without what says nothing. Raises BadOption for a URL with `..` in it, which no store understands.

    >>> normal("runs//1/./a/"), normal("s3://bucket/run/")
    ('runs/1/a', 's3://bucket/run')
    """
    path = plain(path)
    if not is_url(path):
        return os.path.normpath(path)
    scheme, _, rest = path.partition("://")
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise BadOption("the URL names no directory of a store", expected="scheme://bucket/directory", found=path)
    return f"{scheme.lower()}://{'/'.join(parts)}"


def real(path: str) -> str:
    """The one name of a file: a path without links, a URL as it is."""
    return normal(path) if is_url(path) else os.path.realpath(plain(path))


def absolute(path: str) -> str:
    """A path from the root on, a URL as it is."""
    return normal(path) if is_url(path) else os.path.abspath(path)


def refuse_urls(paths: Iterable[str], what: str, remedy: str) -> None:
    """Raise BadOption for a URL where only a path will do."""
    for path in paths:
        if is_url(path):
            raise BadOption(f"{what} must be on this machine", found=path, remedy=remedy)
