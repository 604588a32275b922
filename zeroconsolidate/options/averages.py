"""`uniform`, `ema:DECAY` and `weights:…` -> what each of several checkpoints counts for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = "uniform, ema:DECAY or weights:W1,W2,…"
LEAST, MOST = 1e-100, 1e100
"""Between these, the product of a weight and any float32, and a sum of many, is a float64 of full precision."""


def weights_of(average: str, count: int) -> tuple[float, ...]:
    """What each of `count` checkpoints counts for, in their order. Raises BadOption.

    `ema:d` is the moving average that begins with the first: e = d e + (1 - d) x. So the first counts d^(n-1), the
    i-th of the others (1 - d) d^(n-i).

    >>> weights_of("uniform", 3), weights_of("ema:0.5", 3), weights_of("weights:1,3", 2)
    ((1.0, 1.0, 1.0), (0.25, 0.25, 0.5), (1.0, 3.0))
    """
    kind, numbers = parsed_average(average)
    if count < 2:
        raise BadOption(
            "an average is taken of several checkpoints",
            found="one",
            remedy="name more of them, or a run directory with --last N",
        )
    if kind == "ema":
        (decay,) = numbers
        return (decay ** (count - 1), *((1 - decay) * decay ** (count - n) for n in range(2, count + 1)))
    if kind == "weights" and len(numbers) != count:
        raise BadOption("a weight is needed for each checkpoint", expected=f"{count} weights", found=len(numbers))
    return numbers or (1.0,) * count


def parsed_average(average: str) -> tuple[str, tuple[float, ...]]:
    """(which kind, its numbers). Raises BadOption.

    >>> parsed_average("ema:0.9"), parsed_average("uniform")
    (('ema', (0.9,)), ('uniform', ()))
    """
    kind, colon, text = average.partition(":")
    try:
        numbers = tuple(float(each) for each in text.split(",")) if colon else ()
    except ValueError:
        numbers = (math.nan,)
    if kind == "uniform" and not colon:
        return kind, numbers
    if kind == "ema" and len(numbers) == 1 and 0 < numbers[0] < 1:
        return kind, numbers
    if kind == "weights" and numbers and all(LEAST <= each <= MOST for each in numbers):
        return kind, numbers
    wrong = {
        "ema": "a decay is a number between 0 and 1",
        "weights": f"weights are numbers above 0, from {LEAST} to {MOST}",
    }.get(kind)
    raise BadOption(wrong or "there is no such average", expected=FORMS, found=repr(average))


def number_of_saves(last: object, average: str | None) -> int | None:
    """The value of `last`, as a number. Raises BadOption."""
    if last is None:
        return None
    if average is None:
        raise BadOption("--last says of how many saves the mean is taken", expected="--average as well")
    if isinstance(last, bool) or not str(last).isdecimal() or int(str(last)) < 2:
        raise BadOption("--last takes a number, at least 2", found=repr(last))
    return int(str(last))


def refuse_beside_average(average: str | None, of_one: Mapping[str, object]) -> None:
    """`of_one`: flags that are about one checkpoint, and their values. Raises BadOption if one is used with an
    average, or if there is no such average."""
    if average is None:
        return
    parsed_average(average)
    used = next((flag for flag, value in of_one.items() if value), None)
    if used is not None:
        raise BadOption(f"{used} is about one checkpoint, --average about several", expected="one of them")
