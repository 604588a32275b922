"""The exit codes of the command, and what each of them means. Scripts depend on them."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class ExitCode(IntEnum):
    """The exit codes; `meaning` has a phrase for each."""

    meaning: str

    DONE = 0, "done"
    WRONG = (
        1,
        "`verify` found something wrong, `compare` a difference beyond the tolerance or answers that agree too little, "
        "or `prune` a model that it could not verify",
    )
    ERROR = 2, "an error: stderr says what is wrong; no output was written"
    LOSSES = (
        3,
        "`convert --rescue` or `universal --rescue` wrote its output, but not every value exactly; `inspect`: the "
        "newest save is not whole; `watch`: a save was not converted",
    )
    BUG = 70, "a bug in this program: stderr says how to report it"
    HUNG_UP = 128 + signal.SIGHUP, "the terminal was closed (SIGHUP); run the same command again to continue"
    INTERRUPTED = 128 + signal.SIGINT, "interrupted (Ctrl-C); run the same command again to continue"
    UNREAD = 128 + signal.SIGPIPE, "stdout was closed by its reader, such as `head`; the work itself is done"
    TERMINATED = 128 + signal.SIGTERM, "terminated (SIGTERM); run the same command again to continue"

    def __new__(cls, code: int, meaning: str) -> Self:
        """A number that knows its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member
