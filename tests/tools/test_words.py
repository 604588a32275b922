"""Words that are not to come back, in everything people read: tools/words.txt, tools/collect_texts.py."""

from __future__ import annotations

import collect_texts
import pytest
from collect_texts import KINDS, PACKAGE, ROOT, Text, ruled_out, texts, words_in

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def collected() -> list[Text]:
    return texts()


def test_the_package_is_clean(collected: list[Text]) -> None:
    words = ruled_out()
    assert [(text.place, used) for text in collected if (used := words_in(text.text, words))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_docs_are_clean(page: object) -> None:
    assert words_in(page.read_text(), ruled_out()) == []  # type: ignore[attr-defined]


def test_every_word_has_a_reason() -> None:
    assert len(ruled_out()) > 15
    assert [word for word, instead in ruled_out().items() if not instead] == []


def test_words_are_whole_and_not_in_code() -> None:
    words = ["told", "looks", "looked at"]
    assert words_in("as Told, it LOOKS fine, and was looked\nat", words) == words
    assert words_in("`told` {told} [a](told.md) toldo un-told\n```\nlooks\n```", words) == []


def test_each_kind_is_collected(collected: list[Text]) -> None:
    assert {text.kind for text in collected} == set(KINDS)
    assert {text.folder for text in collected} == {
        "", *(path.parent.name for path in PACKAGE.glob("*/*.py") if path.read_text().strip())
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "place", "beginning"),
    [
        ("help", "cli/convert --help", "usage: zeroconsolidate convert"),
        ("module", "cli/printing.py", "Results -> the text that the command prints"),
        ("docstring", "outputs/report.py", "What a conversion wrote, what was checked"),
        ("docstring", "catalog/facts.py", "How many ranks share the work along each axis."),
        ("report", "cli/printing.py", "DeepSpeed {_known(info.ds_version)}, "),
        ("message", "outputs/side_files.py", "sentence-transformers needs the size of an embedding"),
        ("message", "outputs/side_files.py", "config.json: rope_theta added"),
        ("message", "outputs/side_files.py", "{lone[0]} was not found, and without it"),
        ("message", "adapters/plan_export.py", "PEFT adapter {adapters.kinds} for the base model"),
        ("message", "audit/source.py", "metadata of all {files} files agrees"),
        ("message", "naming/fit.py", "names as in the checkpoint (--names stored)"),
    ],
)
def test_what_is_collected(collected: list[Text], kind: str, place: str, beginning: str) -> None:
    assert [
        text
        for text in collected
        if text.kind == kind and text.place.startswith(place) and text.text.startswith(beginning)
    ]


def test_the_command(
    collected: list[Text], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --words it fails if there are any."""
    monkeypatch.setattr("collect_texts.texts", lambda: collected)
    for arguments, code, begins in (
        (["--kind", "report", "cli"], 0, "report  cli/printing.py:"),
        (["--words"], 0, ""),
    ):
        monkeypatch.setattr("sys.argv", ["collect_texts.py", *arguments])
        assert collect_texts.main() == code
        assert capsys.readouterr().out.startswith(begins)
    monkeypatch.setattr("collect_texts.ruled_out", lambda: {"DeepSpeed": "a word that there is"})
    assert collect_texts.main() == 1
    assert "[DeepSpeed]" in capsys.readouterr().out
