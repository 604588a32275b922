"""A page -> a file, which is there when it is complete."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

from ..errors import BadOption, OutputFailed


def refuse_unwritable(path: str) -> None:
    """Before any work is done. Raises BadOption if a page cannot be written there."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise BadOption(
            "--html takes the name of a file",
            found=f"the directory {path}",
            remedy=f"--html {path.rstrip('/')}/report.html",
        )
    if not os.path.isdir(folder):
        raise BadOption("--html cannot be written: there is no such directory", found=folder)
    if not os.access(folder, os.W_OK):
        raise BadOption("--html cannot be written: permission denied", found=folder)


def save(path: str, text: str) -> None:
    """Write the page under its name. Raises OutputFailed."""
    folder, made = os.path.dirname(path) or ".", None
    try:
        number, made = tempfile.mkstemp(prefix=".zeroconsolidate-", suffix=".html", dir=folder)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        os.replace(made, path)
    except OSError as error:
        if made is not None:
            with suppress(OSError):
                os.unlink(made)
        raise OutputFailed.from_system(path, error) from None
