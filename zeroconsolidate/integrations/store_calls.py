"""A call to a store, tried again while there is hope, and what its errors mean.

Now and then stores answer 500, 503 (SlowDown) or not at all, and expect the client to come back. What a store refuses
is not asked for again.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from ..errors import BadOption, DamagedFile, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPT_SECONDS = 30.0
"""A call may take so long, and a second more for each SLOWEST_BYTES_PER_SECOND that it moves."""
SLOWEST_BYTES_PER_SECOND = 1 << 18
DEADLINE_SECONDS = 240.0
"""From when a call was first tried on, it is not tried again after so long."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 15.0
"""Pauses double from the first to the longest; half of each is left to chance, so that callers do not come back all at
once."""

T = TypeVar("T")


def seconds_for(size_bytes: int) -> float:
    """How long one attempt may take that moves so many bytes."""
    return ATTEMPT_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND


def answered(url: str, call: Callable[[], T]) -> T:
    """The answer to a call, which is tried again while there is hope and time.

    Raises FileNotFoundError for what is not there, StoreFailed if the store refuses or does not answer, DamagedFile for
    an object that is another than it was.
    """
    begun, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except Exception as error:  # noqa: BLE001  (clients raise what they like)
            refuse_for_good(error, url)
            if time.monotonic() - begun + pause > DEADLINE_SECONDS:
                raise StoreFailed(
                    f"the store does not answer: {in_short(error)}",
                    consequence=f"tried for {time.monotonic() - begun:.0f} s",
                    remedy="run the same command again when it does",
                    address=(url,),
                ) from None
        time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  (no secret)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


_REFUSED = frozenset(
    {"400", "401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
"""The bare 400 is S3's answer to HEAD with expired credentials: it has no body to say so."""
_CHANGED = frozenset({"412", "PreconditionFailed"})
_GONE = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NoSuchUpload"})
_WRONG_NAMES = frozenset({"InvalidBucketName", "ParamValidationError"})
_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
     "UnauthorizedSSOTokenError", "SSOTokenLoadError", "ClientAuthenticationError", "DefaultCredentialsError",
     "RefreshError", "GatedRepoError"}
)  # fmt: skip
"""What clients raise that find no credentials, or none that hold."""


def refuse_for_good(error: Exception, url: str) -> None:
    """Raise what an error means that another try would not change: not there, not allowed, another object."""
    code = code_of(error)
    if code in _CHANGED:
        raise changed(url) from None
    if isinstance(error, (BadOption, DamagedFile, StoreFailed, NotADirectoryError, NotImplementedError)):
        raise error
    if code in _REFUSED or isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        raise StoreFailed(
            f"the store refuses access: {in_short(error)}",
            remedy="check the credentials that the client library uses, then run the same command again",
            address=(url,),
        ) from None
    if isinstance(error, FileNotFoundError):
        raise error
    if code in _GONE:
        raise FileNotFoundError(in_short(error)) from None
    if code in _WRONG_NAMES or type(error).__name__ in _WRONG_NAMES:
        raise BadOption(f"the store cannot have this name: {in_short(error)}", address=(url,)) from None


def changed(url: str) -> DamagedFile:
    """The error for an object that is another than it was."""
    return DamagedFile(
        "the file was changed while it was being read",
        remedy="wait until nothing writes to it, then run the same command again",
        address=(url,),
    )


def code_of(error: BaseException | None) -> str:
    """The code of a store's answer: of botocore's errors, or an HTTP status; "" if the error has none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        for status in (getattr(response, "status_code", None), getattr(error, "status", None)):
            if isinstance(status, int):
                return str(status)
        error = error.__cause__
    return ""


def azure_code(error: Exception) -> str:
    """What Azure calls it; "" if the error has no such name."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def in_short(error: Exception) -> str:
    """An error in a line. Answers of Azure go on with numbers and XML."""
    code = azure_code(error)
    text = str(error)
    if code:
        text = f"{text.partition(chr(10))[0]} ({code})"
    text = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
