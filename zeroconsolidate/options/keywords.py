"""`takes`: from a function that takes its options as one dataclass to one that takes them as keywords.

    @takes(Options)
    def consolidate(src: Roots, out: Path, options: Options) -> Report: ...

    consolidate("checkpoint-500", "my-model", dtype="bf16")

Type checkers and editors see a keyword for every field of `Options`, with its type: they are the parameters of its
constructor (PEP 612). So do `inspect.signature` and `help`: the docstring's section `Parameters` gets an entry for
each, after those that are written in it.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from ..errors import BadOption
from .declaration import declarations, read_as
from .spoken import in_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from .declaration import Declaration
    from .values import Path, Roots

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
O_contra = TypeVar("O_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

# What a verb is about has a name, which `Concatenate` would take from callers: hence a protocol for each kind of verb.


class _Reads(Protocol[O_contra, R_co]):
    def __call__(self, src: Roots, options: O_contra) -> R_co: ...


class _MayWrite(Protocol[O_contra, R_co]):
    def __call__(self, src: Roots, out: Path | None = None, *, options: O_contra) -> R_co: ...


class _Writes(Protocol[O_contra, R_co]):
    def __call__(self, src: Roots, out: Path, options: O_contra) -> R_co: ...


class _WritesPart(Protocol[O_contra, R_co]):
    def __call__(self, src: Roots, out: Path, part: str, options: O_contra) -> R_co: ...


class _Checks(Protocol[O_contra, R_co]):
    def __call__(self, output: Path, options: O_contra) -> R_co: ...


class _Compares(Protocol[O_contra, R_co]):
    def __call__(self, a: Path, b: Path, options: O_contra) -> R_co: ...


class _Loads(Protocol[O_contra, R_co]):
    def __call__(self, model: torch.nn.Module, src: Any, options: O_contra) -> R_co: ...


class Reads(Protocol[P, R_co]):
    """A function that reads a checkpoint."""

    def __call__(self, src: Roots, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class MayWrite(Protocol[P, R_co]):
    """A function about something made of a checkpoint, or of each of a run, for which a place may be left out."""

    def __call__(self, src: Roots, out: Path | None = None, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Writes(Protocol[P, R_co]):
    """A function that writes something made of a checkpoint."""

    def __call__(self, src: Roots, out: Path, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class WritesPart(Protocol[P, R_co]):
    """A function that writes a part of something made of a checkpoint."""

    def __call__(self, src: Roots, out: Path, part: str, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Checks(Protocol[P, R_co]):
    """A function that checks an output."""

    def __call__(self, output: Path, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Compares(Protocol[P, R_co]):
    """A function about two models."""

    def __call__(self, a: Path, b: Path, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Loads(Protocol[P, R_co]):
    """A function that loads a checkpoint, or one that is open, into a module."""

    def __call__(
        self, model: torch.nn.Module, src: Roots | Mapping[str, Any], *args: P.args, **kwargs: P.kwargs
    ) -> R_co: ...


class takes(Generic[P, O]):  # noqa: N801  (a decorator)
    """A decorator: the last argument of a function, a dataclass of options, becomes a keyword for each option.

    Another keyword is a BadOption that names the nearest one."""

    def __init__(self, kind: Callable[P, O]) -> None:
        self._kind = kind

    @overload
    def __call__(self, verb: _MayWrite[O, R]) -> MayWrite[P, R]: ...
    @overload
    def __call__(self, verb: _Reads[O, R]) -> Reads[P, R]: ...
    @overload
    def __call__(self, verb: _Writes[O, R]) -> Writes[P, R]: ...
    @overload
    def __call__(self, verb: _WritesPart[O, R]) -> WritesPart[P, R]: ...
    @overload
    def __call__(self, verb: _Checks[O, R]) -> Checks[P, R]: ...
    @overload
    def __call__(self, verb: _Compares[O, R]) -> Compares[P, R]: ...
    @overload
    def __call__(self, verb: _Loads[O, R]) -> Loads[P, R]: ...
    def __call__(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        return _with_keywords(verb, cast("type", self._kind))


def _with_keywords(verb: Callable[..., Any], kind: type) -> Callable[..., Any]:
    signature = inspect.signature(verb)
    *subjects, _ = signature.parameters.values()
    about = [subject.name for subject in subjects]
    declared = {each.name: each for each in declarations(kind)}

    @functools.wraps(verb)
    def called(*arguments: Any, **keywords: Any) -> Any:
        if len(arguments) > len(about):
            raise TypeError(f"{verb.__name__}() takes {', '.join(about)} and keywords; got {len(arguments)} arguments")
        given = {name: keywords.pop(name) for name in about if name in keywords}
        for name in keywords:
            if name not in declared:
                raise BadOption(unknown(verb.__name__, name, [*about, *declared]))
        with in_python():
            return verb(*arguments, **given, options=kind(**keywords))

    keywords = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in declared.values()
    ]
    types = {subject.name: subject.annotation for subject in subjects}
    called.__signature__ = signature.replace(parameters=[*subjects, *keywords])  # type: ignore[attr-defined]
    called.__annotations__ = (
        types | {each.name: each.type for each in declared.values()} | {"return": signature.return_annotation}
    )
    called.__doc__ = with_options(inspect.cleandoc(verb.__doc__ or ""), declared.values())
    return called


_PARAMETERS = "\n\nParameters\n----------\n"


def with_options(docstring: str, declared: Iterable[Declaration]) -> str:
    """The docstring (numpydoc) with the options at the end of its section `Parameters`, which is added if it is
    missing."""
    lines = []
    for each in declared:
        lines.append(f"{each.name} : {each.type}, default {each.default!r}")
        text = read_as(each.help, _in_python)
        lines += _wrapped(f"{text[:1].upper()}{text[1:]}.")
    before, start, after = docstring.partition(_PARAMETERS)
    written, blank, rest = after.partition("\n\n")
    return f"{before}{start or _PARAMETERS}{written}{chr(10) if written else ''}{chr(10).join(lines)}{blank}{rest}"


def _wrapped(text: str) -> list[str]:
    """Indented lines; without textwrap, whose import would cost more than the whole section."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > 110:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else f"    {word}"
    return lines


def _in_python(name: str) -> str:
    return f"`{name}`"


def unknown(verb: str, name: str, known: list[str]) -> str:
    """The sentence for an option that `verb` does not have, with the nearest that it has."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"{verb} has no option {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    )
