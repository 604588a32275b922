"""Answers of transformers are kept for the next time: never trusted blindly, never in the way."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from zeroconsolidate.naming import asking, remembered
from zeroconsolidate.naming.answers import as_answer, of_answer
from zeroconsolidate.naming.expectation import Expectation
from zeroconsolidate.naming.hub_layout import Architecture, Conversion
from zeroconsolidate.naming.remembered import Remembered, cache_directory

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = {"origin": "Model of transformers 5.0.0", "names": {"a.weight": [2, 3]}}
CONFIG = b'{"model_type": "odd"}'


@pytest.fixture
def answers(tmp_path: Path) -> Remembered:
    return Remembered(str(tmp_path / "cache"), "transformers 5.0.0")


def only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").iterdir()
    return path


class TestKeeping:
    def test_what_is_kept_is_there_again(self, answers: Remembered) -> None:
        assert answers.get(CONFIG) is None
        answers.put(CONFIG, ANSWER)
        assert answers.get(CONFIG) == ANSWER

    def test_only_for_the_same_config_transformers_and_release(
        self, answers: Remembered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        answers.put(CONFIG, ANSWER)
        assert answers.get(CONFIG + b" ") is None
        assert Remembered(str(tmp_path / "cache"), "transformers 5.0.1").get(CONFIG) is None
        monkeypatch.setattr(remembered, "__version__", "another")
        assert answers.get(CONFIG) is None

    @pytest.mark.parametrize("damage", [b"", b"x", b"\n", b"0" * 64 + b"\n{}"])
    def test_a_damaged_file_says_nothing(self, answers: Remembered, damage: bytes, tmp_path: Path) -> None:
        answers.put(CONFIG, ANSWER)
        only_file(tmp_path).write_bytes(damage)
        assert answers.get(CONFIG) is None

    def test_nor_does_one_of_which_a_letter_changed(self, answers: Remembered, tmp_path: Path) -> None:
        answers.put(CONFIG, ANSWER)
        path = only_file(tmp_path)
        path.write_bytes(path.read_bytes().replace(b"a.weight", b"b.weight"))
        assert answers.get(CONFIG) is None

    @pytest.mark.parametrize("which", ["directory", "file"])
    def test_nor_what_others_could_have_written(self, answers: Remembered, which: str, tmp_path: Path) -> None:
        answers.put(CONFIG, ANSWER)
        (tmp_path / "cache" if which == "directory" else only_file(tmp_path)).chmod(0o777)
        assert answers.get(CONFIG) is None

    def test_a_pipe_is_no_answer(self, answers: Remembered, tmp_path: Path) -> None:
        answers.put(CONFIG, ANSWER)
        path = only_file(tmp_path)
        path.unlink()
        os.mkfifo(path, 0o600)
        assert answers.get(CONFIG) is None

    def test_what_cannot_be_written_is_not_kept(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        answers = Remembered(str(tmp_path / "cache"), "transformers 5.0.0")
        answers.put(CONFIG, ANSWER)
        assert answers.get(CONFIG) is None

    def test_there_is_a_limit_and_the_oldest_goes(
        self, answers: Remembered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(remembered, "MAX_BYTES", 3 * 400)
        large = {"names": {"x" * 200: [1]}}
        for number in range(5):
            answers.put(CONFIG + bytes([number]), large)
            for age, path in enumerate(sorted((tmp_path / "cache").iterdir(), key=lambda p: -p.stat().st_mtime)):
                os.utime(path, (1000 - age, 1000 - age))
        assert answers.get(CONFIG + bytes([0])) is None
        assert answers.get(CONFIG + bytes([4])) == large
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3 * 400

    def test_nothing_too_large_is_kept(
        self, answers: Remembered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(remembered, "MAX_ANSWER_BYTES", 100)
        answers.put(CONFIG, {"names": {"x" * 200: [1]}})
        assert not (tmp_path / "cache").exists()


class TestPlace:
    def test_as_the_specification_has_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_directory() == str(tmp_path / "zeroconsolidate" / "names")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for unset in ("", "relative/path"):
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
            assert cache_directory() == str(tmp_path / "home/.cache/zeroconsolidate/names")


class TestAsking:
    ARCHITECTURE = Architecture(
        expectation=Expectation(origin="Odd of transformers 5.0.0", shapes={"a": (4, 2)}, ties={"b": "a"}, exact=True),
        hub=Expectation(
            origin="Odd of transformers 5.0.0, in the hub's layout",
            shapes={"c": (2, 2), "d": (2, 2)},
            ties={},
            exact=True,
            layout="hub",
        ),
        conversions=(
            Conversion(output="c", shape=(2, 2), inputs=("a",), row_numel=2, runs=((0, 0, 2),), opaque=False),
            Conversion(output="d", shape=(2, 2), inputs=("a",), row_numel=2, runs=((0, 2, 2),), opaque=False),
        ),
    )

    def test_an_answer_is_the_same_after_it_was_kept(self) -> None:
        assert of_answer(json.loads(json.dumps(as_answer(self.ARCHITECTURE)))) == self.ARCHITECTURE

    def test_transformers_is_asked_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked: list[bytes] = []

        def ask(config: bytes) -> tuple[Architecture, str]:
            asked.append(config)
            return self.ARCHITECTURE, ""

        monkeypatch.setattr(asking, "ask", ask)
        monkeypatch.setattr(asking, "find_spec", lambda _: True)
        monkeypatch.setattr(remembered, "installed", lambda: "transformers 5.0.0")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "config.json").write_bytes(CONFIG)
        for _ in range(3):
            assert asking.architecture(str(tmp_path), remember=True) == (self.ARCHITECTURE, "")
        assert len(asked) == 1
        asking.architecture(str(tmp_path), remember=False)
        assert len(asked) == 2

    def test_what_no_longer_means_anything_is_asked_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(asking, "ask", lambda _: (self.ARCHITECTURE, ""))
        monkeypatch.setattr(asking, "find_spec", lambda _: True)
        monkeypatch.setattr(remembered, "installed", lambda: "transformers 5.0.0")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "config.json").write_bytes(CONFIG)
        Remembered(cache_directory(), "transformers 5.0.0").put(CONFIG, {"something": "else"})
        assert asking.architecture(str(tmp_path), remember=True) == (self.ARCHITECTURE, "")

    def test_a_transformers_between_releases_is_always_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.metadata.version", lambda _: "5.1.0.dev0")
        assert remembered.installed() is None
