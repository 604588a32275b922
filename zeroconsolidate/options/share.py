"""`5%` or `10G` -> how many bytes of all there are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..errors import BadOption
from .values import parse_size

_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*")
_SHORT = re.compile(r"(.*[0-9]\s*)([KMGT])\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of all bytes."""

    fraction: Fraction | None
    """Of all bytes; None if it is a number of them."""
    size_bytes: int = 0

    @classmethod
    def parse(cls, given: object) -> Share:
        """Read a percentage or a size; `10G` is 10 GB. Raises BadOption.

        >>> Share.parse("5%").of(1000), Share.parse("10G").of(10**12), Share.parse("2KB").of(100)
        (50, 10000000000, 100)
        """
        text = str(given)
        percent = _PERCENT.fullmatch(text)
        if percent is not None:
            fraction = Fraction(percent[1]) / 100
            if not 0 < fraction <= 1:
                raise BadOption("a share is more than 0 % and at most 100 %", found=repr(given))
            return cls(fraction)
        short = _SHORT.fullmatch(text)
        try:
            return cls(None, parse_size(f"{short[1]}{short[2]}B" if short else text))
        except BadOption:
            raise BadOption("subset is a percentage or a size", expected="5% or 10GB", found=repr(given)) from None

    def of(self, all_bytes: int) -> int:
        """How many of so many bytes that is, rounded down."""
        if self.fraction is None:
            return min(self.size_bytes, all_bytes)
        return int(self.fraction * all_bytes)
