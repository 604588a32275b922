"""Public docstrings are numpydoc's, as its own parser and validator read them, and agree with the code.

That their examples run is seen by pytest's doctests.
"""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import pytest

import zeroconsolidate
from zeroconsolidate import errors
from zeroconsolidate.naming.several import Part
from zeroconsolidate.opening.rescue_report import Extent, RescuedState
from zeroconsolidate.options import declarations, option, takes
from zeroconsolidate.options.declaration import Group

pytestmark = pytest.mark.filterwarnings("error")  # numpydoc warns of sections that it does not know
docscrape = pytest.importorskip("numpydoc.docscrape")
validation = pytest.importorskip("numpydoc.validate")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpydoc.docscrape import NumpyDocString

NOT_ASKED_FOR = {
    "GL01", "GL02",  # a docstring begins and ends on the lines of its quotes, as everywhere in this package
    "ES01", "SA01",  # more than a summary, and references, where there is more to say
}  # fmt: skip
PUBLIC = {name: getattr(zeroconsolidate, name) for name in zeroconsolidate.__all__ if name != "__version__"}
ERRORS = {name: getattr(errors, name) for name in errors.__all__}
EVERYTHING = {**PUBLIC, "Extent": Extent, "Part": Part, "RescuedState": RescuedState, **ERRORS}
FUNCTIONS = [name for name, value in EVERYTHING.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in EVERYTHING.items() if inspect.isclass(value) and name != "Parts"]
RESULTS = [name for name in CLASSES if is_dataclass(EVERYTHING[name])]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
            yield name, value


def parsed(value: object) -> NumpyDocString:
    return docscrape.NumpyDocString(inspect.getdoc(value) or "")


def found(place: str, *accepted: str) -> list[tuple[str, str]]:
    """What numpydoc's validator says of the object of this full name, but for what is not asked for."""
    said = validation.validate(place)["errors"]
    return [(code, text) for code, text in said if code not in NOT_ASKED_FOR | {*accepted}]


def place(name: str) -> str:
    """The full name of a function or class, where it is defined."""
    return f"{EVERYTHING[name].__module__}.{name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    """Each parameter is documented, in order; what comes back and what is raised are; examples are there."""
    function = EVERYTHING[name]
    assert found(place(name)) == []
    if name in PUBLIC:
        documentation = parsed(function)
        assert [each.name for each in documentation["Parameters"]] == list(inspect.signature(function).parameters)
        assert documentation["Returns"][0].type == inspect.signature(function).return_annotation
        assert documentation["Raises"]
        for each in documentation["Raises"]:
            assert issubclass(ERRORS[each.type], errors.ZeroConsolidateError), each.type


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    kind = EVERYTHING[name]
    made_by_callers = "__init__" in vars(kind) and issubclass(kind, Exception)
    assert found(place(name), "EX01", *(() if made_by_callers else ("PR01",))) == []
    for member, value in members(kind):
        # What a property gives back is said by its summary and its annotation.
        only_summary = ("EX01", "RT01") if isinstance(value, property) else ("EX01",)
        assert found(f"{place(name)}.{member}", *only_summary) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_help_has_an_example(name: str) -> None:
    """pytest's doctests run it."""
    assert ">>> " in parsed(PUBLIC[name])["Examples"][0]


@pytest.mark.parametrize("name", CLASSES)
def test_attributes(name: str) -> None:
    """Fields and properties are listed, those in their order and with the type that the code states."""
    kind = EVERYTHING[name]
    listed = [(each.name, each.type) for each in parsed(kind)["Attributes"]]
    if not issubclass(kind, Exception) or kind is errors.ZeroConsolidateError:
        properties = [member for member, value in members(kind) if isinstance(value, property)]
        assert [attribute for attribute, written in listed if not written] == properties
    if name in RESULTS:
        assert [each for each in listed if each[1]] == [(each.name, each.type) for each in fields(kind)]


def test_options_are_listed_after_what_is_written() -> None:
    class Painting:
        pass

    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Options:
        paint: str = option("red", "what it is painted", group=Group.OUTPUT, choices=("red", "blue"))

    @takes(Options)  # type: ignore[arg-type]
    def painted(src: str, options: Options) -> str:
        """Paint a model.

        Parameters
        ----------
        src : str
            The model.

        Returns
        -------
        str
            The paint.
        """
        return f"{src}{options.paint}"

    documentation = parsed(painted)
    assert [(each.name, each.type, each.desc) for each in documentation["Parameters"]] == [
        ("src", "str", ["The model."]),
        ("paint", "str, default 'red'", ["What it is painted."]),
    ]
    assert documentation["Returns"][0].desc == ["The paint."]
    assert [each.name for each in declarations(Options)] == ["paint"]
