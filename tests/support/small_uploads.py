"""Uploads to a store in parts of 8 KiB, also by processes that a test starts."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

PART = 8 << 10


def begin() -> None:
    """From here on this process cuts uploads in small parts, and notes each."""
    from zeroconsolidate.write import remote_portion, remote_sending, remote_spread, uploads

    for module in (uploads, remote_sending, remote_portion, remote_spread):
        module.part_bytes_of = lambda _: PART
    uploads.NOTED_BYTES = PART


def spawned(count: int) -> ProcessPoolExecutor:
    """Processes that do."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=begin)
