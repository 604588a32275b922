"""An option is declared in one place, and everything else is made of that: the one added here is nowhere else."""

from __future__ import annotations

import argparse
import inspect
import pydoc
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pytest
import reference
import reference_json
import reference_schemas

import zeroconsolidate
from zeroconsolidate import options as all_options
from zeroconsolidate.cli import verbs as commands
from zeroconsolidate.cli.arguments import add_options, given_of, parser
from zeroconsolidate.cli.understand import understand
from zeroconsolidate.errors import BadOption
from zeroconsolidate.options import (
    Group,
    InspectOptions,
    LoadingOptions,
    Options,
    ReadingOptions,
    RunOptions,
    SourceOptions,
    StateDictOptions,
    Switch,
    VerifyOptions,
    declarations,
    option,
    takes,
)

if TYPE_CHECKING:
    from pathlib import Path

VERBS = {
    zeroconsolidate.consolidate: Options,
    zeroconsolidate.estimate: Options,
    zeroconsolidate.inspect: InspectOptions,
    zeroconsolidate.inspect_run: RunOptions,
    zeroconsolidate.open_checkpoint: ReadingOptions,
    zeroconsolidate.load_into: LoadingOptions,
    zeroconsolidate.state_dict: StateDictOptions,
    zeroconsolidate.verify: VerifyOptions,
    zeroconsolidate.verify_source: SourceOptions,
}


@dataclass(frozen=True, kw_only=True)
class Extended(Options):
    """The options of a conversion, and one more of each form."""

    paint: str = option(
        "red",
        "what the model is painted, such as `blue`, at most {coats} times",
        group=Group.OUTPUT,
        choices=("red", "blue"),
        decides="bytes",
    )
    coats: tuple[str, ...] = option(
        (), "100% of the coats", group=Group.ADAPTERS, flag="--coat", metavar="COAT", repeatable=True
    )
    dry: bool | str = option(
        False,
        "whether to wait",
        group=Group.CHECKING,
        switches=(Switch("--dry", True, "wait"), Switch("--dry=long", "long", "wait for long")),
        choices=(False, True, "long"),
    )
    varnish: bool = option(False, "varnish it", group=Group.NAMES, short="-V", also=("--lacquer",))
    listener: object = option(None, "for Python only", group=Group.PRINTING, flag=None)


@takes(Extended)
def painted(src: str, out: str, options: Extended) -> Extended:
    """Paint a model."""
    assert (src, out) == ("in", "out")
    return options


@pytest.fixture
def command() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser()
    add_options(command, Extended)
    return command


class TestOnePlace:
    def test_it_is_in_the_help_under_its_heading(self, command: argparse.ArgumentParser) -> None:
        text = " ".join(command.format_help().split())
        output, adapters = text.index(" output: "), text.index(" adapters: ")
        said = "--paint {red,blue} what the model is painted, such as blue, at most --coat times [default: red]"
        assert output < text.index(said) < adapters
        assert adapters < text.index("--coat COAT 100% of the coats [can be repeated]")
        assert "[--dry | --dry=long]" in text
        assert "--dry=long wait for long" in text
        assert "listener" not in text
        assert "-V, --varnish varnish it" in text
        assert "lacquer" not in text

    def test_the_command_takes_it(self, command: argparse.ArgumentParser) -> None:
        given = command.parse_args(["--paint", "blue", "--coat", "1", "--coat", "2", "--dry=long", "--varnish"])
        options = Extended(**given_of(Extended, given))
        assert (options.paint, options.coats, options.dry, options.varnish) == ("blue", ("1", "2"), "long", True)
        for spelled in ("-V", "--lacquer"):
            assert given_of(Extended, command.parse_args([spelled])) == {"varnish": True}
        assert given_of(Extended, command.parse_args(["--dry"])) == {"dry": True}
        assert given_of(Extended, command.parse_args([])) == {}  # defaults are those of the declaration
        with pytest.raises(SystemExit):
            command.parse_args(["--paint", "green"])

    def test_python_takes_it(self) -> None:
        options = painted("in", out="out", paint="blue", coats="one", dry=True, dtype="bf16")
        assert (options.paint, options.coats, options.dry, options.dtype) == ("blue", ("one",), True, "bf16")
        with pytest.raises(BadOption, match="paint must be 'red' or 'blue'; got 'green'"):
            painted("in", "out", paint="green")

    def test_it_is_in_the_signature_and_in_help(self) -> None:
        parameter = inspect.signature(painted).parameters["paint"]
        assert (parameter.default, parameter.annotation, parameter.kind) == ("red", "str", parameter.KEYWORD_ONLY)
        shown = pydoc.plain(pydoc.render_doc(painted))
        assert re.search("paint: '?str'? = 'red'", shown)  # without quotes since Python 3.14
        assert "paint : str, default 'red'" in shown
        assert "What the model is painted, such as `blue`, at most `coats` times." in shown

    def test_it_is_recorded_if_it_decides_bytes(self) -> None:
        options = Extended(paint="blue", coats=("thick",))
        for record in (options.plain(), options.for_manifest()):
            assert record["paint"] == "blue"
            assert "coats" not in record

    def test_it_is_in_the_reference(self) -> None:
        text = reference.tables(Extended)
        row = "| `--paint red\\|blue` | `paint` | `str` | `'red'` | what the model is painted, such as `blue`, at most "
        assert row + "`--coat` times |" in text
        assert "| `--dry`, `--dry=long` | `dry` | `bool \\| str` | `False` | whether to wait |" in text


class TestWhatIsThere:
    @pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
    def test_signatures_and_help_have_all_options(self, verb: Any) -> None:
        kind = VERBS[verb]
        parameters = inspect.signature(verb).parameters
        shown = " ".join(pydoc.plain(pydoc.render_doc(verb)).split())
        for each in fields(kind):
            assert parameters[each.name].default == each.default
            assert f"{each.name} : {each.type}, default {each.default!r} " in shown
        assert {each.name for each in fields(kind)} == {
            name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY
        }

    @pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
    def test_an_unknown_keyword_names_the_nearest(self, verb: Any, tmp_path: Path) -> None:
        subjects = [tmp_path] * (2 if verb is zeroconsolidate.consolidate else 1)
        nearest = {Options: ("dtpye", "dtype"), VerifyOptions: ("agianst", "against")}.get(VERBS[verb], ("tags", "tag"))
        nearest = ("file_read", "files_read") if verb is zeroconsolidate.inspect_run else nearest
        with pytest.raises(BadOption) as caught:
            verb(*subjects, **{nearest[0]: "x"})
        assert str(caught.value) == f"{verb.__name__} has no option {nearest[0]!r}; did you mean {nearest[1]!r}?"
        others = rf"{verb.__name__} has no option 'qqqq'; expected one of .*(tag|files_read)"
        with pytest.raises(BadOption, match=others):
            verb(*subjects, qqqq=1)
        assert not list(tmp_path.iterdir())

    def test_what_a_verb_is_about_has_a_place_and_a_name(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=r"consolidate\(\) takes src, out and keywords; got 3 arguments"):
            zeroconsolidate.consolidate(tmp_path, tmp_path, "bf16")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="'out'"):
            zeroconsolidate.consolidate(tmp_path)  # type: ignore[call-arg]

    def test_every_option_of_the_command_is_of_a_declaration(self) -> None:
        """No flag is added by hand, and each verb's are in the reference."""
        verbs = parser()._subparsers._group_actions[0].choices
        assert set(verbs) == set(commands.ABOUT)
        for name, verb in verbs.items():
            declared = {
                flag for each in declarations(*commands.declared(name).kinds) for flag in (*each.flags, *each.aliases)
            }
            assert {flag for action in verb._actions for flag in action.option_strings} == {"-h", "--help", *declared}

    def test_a_sentence_for_each(self) -> None:
        for verb in map(commands.declared, commands.ABOUT):
            for each in declarations(*verb.kinds):
                assert len(each.help) > 10, each.name
                assert not each.help.endswith("."), each.name
                assert not each.help[:2].istitle(), each.name

    def test_what_is_not_given_is_left_to_the_declaration(self) -> None:
        assert vars(understand(["convert", "in", "out"])) == {
            "verb": "convert",
            "roots": ["in"],
            "output": "out",
        }


def test_the_reference_is_up_to_date() -> None:
    """`python tools/reference.py` writes it."""
    assert reference.PAGE.read_text() == reference.page()
    assert reference.README.read_text() == reference.readme()
    assert reference.JSON_PAGE.read_text() == reference_json.page()
    made = reference_schemas.schemas()
    assert {name: (reference.SCHEMAS / name).read_text() for name in made} == made
    assert "--max-shard-size" in reference.readme()


def test_exit_codes_are_in_the_help_and_in_the_reference() -> None:
    shown = " ".join(parser().format_help().split())
    for code, meaning in (
        (0, "done"),
        (1, "verify found something wrong"),
        (3, "convert --rescue or universal --rescue wrote its output, but not every value exactly;"),
    ):
        assert f" {code} {meaning}" in shown
    assert "| 143 | terminated (SIGTERM)" in reference.page()


def test_each_command_has_a_line_in_the_help() -> None:
    lines = parser().format_help().splitlines()
    for verb, about in commands.ABOUT.items():
        (line,) = (line for line in lines if line.startswith(f"    {verb} "))
        assert about.startswith(" ".join(line.split()[1:])), line
        assert len(line.split()) > 1, line


def test_the_commands_help_does_not_speak_of_python() -> None:
    (verbs,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    assert "in Python" not in verbs.choices["convert"].format_help()
    assert "in Python" in (zeroconsolidate.consolidate.__doc__ or "")


def test_every_keyword_of_every_public_function_is_declared() -> None:
    """Also of those that are about an engine or an optimizer, and list theirs themselves."""
    kinds = [getattr(all_options, name) for name in all_options._HOMES]
    declared = {each.name for kind in kinds for each in declarations(kind)}
    functions = {name: getattr(zeroconsolidate, name) for name in zeroconsolidate.__all__ if name.islower()}
    assert len([each for each in functions.values() if callable(each)]) > 15
    for name, function in functions.items():
        if callable(function):
            parameters = inspect.signature(function).parameters.values()
            keywords = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
            assert keywords <= declared, name


def test_every_flag_is_declared_completed_and_in_the_reference() -> None:
    page = reference.PAGE.read_text()
    (verbs,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    for verb, command in verbs.choices.items():
        flags = {
            flag for action in command._actions for flag in action.option_strings if action.help != argparse.SUPPRESS
        }
        declared = {
            flag for each in declarations(*commands.declared(verb).kinds) for flag in (*each.flags, *each.aliases)
        }
        assert flags - {"-h", "--help"} <= declared, verb
        part = page.partition(f"## `zeroconsolidate {verb}`")[2].partition("\n## ")[0]
        assert all(flag in part for flag in flags - {"-h", "--help"}), verb
