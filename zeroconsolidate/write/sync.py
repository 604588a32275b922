"""A sync in a thread of its own: the next bytes are copied while the disk takes the last ones."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Sync(threading.Thread):
    """One call."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(name="zeroconsolidate-sync", daemon=True)
        self._call = call
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin; where a limit on memory leaves no room for another thread, make the call before returning."""
        try:
            super().start()
        except RuntimeError:
            self.run()

    def wait(self) -> None:
        """Wait for the end."""
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
            self._error = error

    def result(self) -> None:
        """Wait for the end; raises what the call raised."""
        self.wait()
        if self._error is not None:
            raise self._error
