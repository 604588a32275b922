"""What the command's exit code says, in one table: scripts depend on it."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """Each code, and in `meaning` what it says."""

    meaning: str

    DONE = 0, "done"
    WRONG = 1, "`verify` found something wrong"
    ERROR = 2, "an error: stderr says what is wrong; nothing was published"
    LOSSES = 3, "`convert --rescue` wrote a model with losses; `inspect`: the newest save is not complete"
    HUNG_UP = 128 + signal.SIGHUP, "the terminal hung up (SIGHUP); the same command goes on from there"
    INTERRUPTED = 128 + signal.SIGINT, "interrupted (Ctrl-C); the same command goes on from there"
    UNREAD = 128 + signal.SIGPIPE, "whoever read the output has gone (as `head` does); what was to be done is done"
    TERMINATED = 128 + signal.SIGTERM, "terminated (SIGTERM); the same command goes on from there"

    def __new__(cls, code: int, meaning: str) -> Self:
        """A number that knows its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member
