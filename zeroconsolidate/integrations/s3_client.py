"""The client for S3, with the settings that botocore finds by itself, and those that fsspec has for s3fs."""

from __future__ import annotations

import os
from typing import Any

from ..errors import BadOption
from . import store_calls
from .packages import missing
from .store import CONNECTIONS

SENDING_SECONDS = 120.0
"""A connection must be made, and a part of an upload must be sent, in so long: the client has one limit for both."""
_NAMES = {"key": "aws_access_key_id", "username": "aws_access_key_id", "secret": "aws_secret_access_key",
          "password": "aws_secret_access_key", "token": "aws_session_token", "endpoint_url": "endpoint_url",
          "use_ssl": "use_ssl"}  # fmt: skip
"""s3fs's settings -> those of the client."""


def s3_client() -> tuple[Any, dict[str, Any]]:
    """A client that any number of threads may use, and what goes with every request that takes it.

    Its attempts are ours: it makes one. Raises MissingPackage without botocore, BadOption if it does not
    take the settings.
    """
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise missing("reading s3:// URLs", "botocore", extra="s3") from None
    given = _settings()
    client = {name: given[setting] for setting, name in _NAMES.items() if setting in given}
    wanted = dict(given.get("config_kwargs", {}))
    # S3 compares what it was sent with the SHA-256 that is signed.
    wanted["s3"] = {"payload_signing_enabled": True, **(wanted.get("s3") or {})}
    config = Config(
        max_pool_connections=CONNECTIONS,
        connect_timeout=SENDING_SECONDS,
        read_timeout=store_calls.ATTEMPT_SECONDS,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
    ).merge(Config(**wanted))
    if str(given.get("anon", "")).lower() not in ("", "0", "false", "none"):
        config = config.merge(Config(signature_version=UNSIGNED))
    try:
        session = botocore.session.Session(profile=given.get("profile"))
        made = session.create_client("s3", **{**client, "config": config, **given.get("client_kwargs", {})})
    except (BotoCoreError, ValueError) as error:
        raise BadOption(f"the client for S3 cannot be made: {store_calls.in_short(error)}") from None
    more = dict(given.get("s3_additional_kwargs", {}))
    if given.get("requester_pays"):
        more["RequestPayer"] = "requester"
    return made, more


def _settings() -> dict[str, Any]:
    """What fsspec's configuration says for s3fs. fsspec is imported only where there may be any."""
    folder = os.environ.get("FSSPEC_CONFIG_DIR") or os.path.expanduser("~/.config/fsspec")
    if not os.path.isdir(folder) and not any(name.startswith("FSSPEC_S3") for name in os.environ):
        return {}
    try:
        from fsspec.config import conf
    except ImportError:
        return {}
    return dict(conf.get("s3", {}))
