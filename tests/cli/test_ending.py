"""Errors as people see them: the traceback behind them when it is asked for, bugs, colours; and what `env` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import environment, python, zeroconsolidate
from fixtures import FIXTURES

import zeroconsolidate as package
from zeroconsolidate.cli import colour, main
from zeroconsolidate.integrations import surroundings

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "zeroconsolidate: there is no such directory; expected a DeepSpeed checkpoint (at nowhere)"
HINT = "  --debug shows the traceback"


class TestDebug:
    @pytest.mark.parametrize("where", [0, 1, 2])
    def test_the_flag_shows_what_the_sentence_hides(self, where: int, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["inspect", "nowhere"]
        words.insert(where, "--debug")
        assert main(words) == 2
        *traceback, sentence = capsys.readouterr().err.splitlines()
        assert sentence == NOWHERE
        assert traceback[0] == "Traceback (most recent call last):"
        assert any("FileNotFoundError" in line for line in traceback), "the cause is there, too"
        assert any("discover.py" in line for line in traceback)

    @pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
    def test_so_does_the_variable(
        self, value: str, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZEROCONSOLIDATE_DEBUG", value)
        assert main(["inspect", "nowhere"]) == 2
        assert ("Traceback" in capsys.readouterr().err) is shown

    def test_a_command_that_is_not_understood(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["convert", "--debug"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("zeroconsolidate: convert needs a CHECKPOINT and an")

    def test_with_json_stdout_has_one_object(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", "nowhere", "--json", "--debug"]) == 2
        printed = capsys.readouterr()
        assert json.loads(printed.out)["error"]["kind"] == "NotACheckpoint"
        assert "Traceback" in printed.err

    def test_a_terminal_is_told_of_it_once_and_a_log_is_not(self) -> None:
        shown = on_a_terminal("inspect", "nowhere", NO_COLOR="1")
        assert shown == f"{NOWHERE}\n{HINT}\n"
        assert zeroconsolidate("inspect", "nowhere").stderr == f"{NOWHERE}\n"

    @pytest.mark.parametrize("words", [["inspect", "nowhere", "--debug"], ["inspect"], ["inspect", "nowhere", "--tga"]])
    def test_not_where_it_is_given_or_nothing_is_to_be_seen(self, words: list[str]) -> None:
        assert HINT not in on_a_terminal(*words)


BUG = """
import sys
from zeroconsolidate.cli import main
from zeroconsolidate.api import reading

def inspect(*_, **__):
    raise KeyError("zero_stage")

reading.inspect = inspect
sys.exit(main(sys.argv[1:]))
"""


class TestBug:
    """An exception that nobody expected."""

    def test_it_is_called_one(self) -> None:
        done = python(BUG, "inspect", FIXTURES / "z2_bf16/checkpoint")
        assert done.returncode == 70
        assert done.stderr.splitlines() == [
            "zeroconsolidate: this is a bug: KeyError: 'zero_stage'",
            "  please report it, with the traceback that --debug shows and what `zeroconsolidate env` prints",
        ]

    def test_with_its_traceback(self) -> None:
        done = python(BUG, "inspect", FIXTURES / "z2_bf16/checkpoint", "--debug", "--json")
        assert done.returncode == 70
        assert 'raise KeyError("zero_stage")' in done.stderr or "KeyError: 'zero_stage'" in done.stderr
        assert "Traceback" in done.stderr
        error = json.loads(done.stdout)["error"]
        assert (error["kind"], error["exit_code"]) == ("ZeroConsolidateError", 70)


def on_a_terminal(*words: object, **variables: str) -> str:
    """What the command prints on stderr, if that is a terminal."""
    ours, theirs = os.openpty()
    plain = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    subprocess.run(
        [sys.executable, "-m", "zeroconsolidate", *map(str, words)], stdout=subprocess.DEVNULL, stderr=theirs,
        stdin=subprocess.DEVNULL, env=plain | {"TERM": "xterm"} | variables, check=False, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


class TestColour:
    def test_on_a_terminal(self) -> None:
        shown = on_a_terminal("inspect", "nowhere")
        assert shown == (
            f"\x1b[1;31mzeroconsolidate:\x1b[0m{NOWHERE.removeprefix('zeroconsolidate:')}\n"
            f"  \x1b[2m{HINT.strip()}\x1b[0m\n"
        )

    @pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}])
    def test_never_against_who_does_not_want_it(self, variables: dict[str, str]) -> None:
        assert "\x1b" not in on_a_terminal("inspect", "nowhere", **variables)

    def test_not_where_nobody_looks(self, tmp_path: Path) -> None:
        done = zeroconsolidate("convert", FIXTURES / "z2_bf16/checkpoint", tmp_path / "out")
        assert "warning:" in done.stderr
        assert "\x1b" not in done.stderr + done.stdout

    def test_a_log_that_shows_colours_can_ask_for_them(self, tmp_path: Path) -> None:
        code = "import sys\nfrom zeroconsolidate.cli import main\nsys.exit(main(sys.argv[1:]))"
        source = FIXTURES / "z2_bf16/checkpoint"
        done = python(code, "convert", source, tmp_path / "out", env=environment(FORCE_COLOR="1"))
        assert done.stderr.startswith("\x1b[33mwarning:\x1b[0m no config.json")
        (tmp_path / "out/model.safetensors").write_bytes(b"")
        done = python(code, "verify", tmp_path / "out", env=environment(FORCE_COLOR="1"))
        assert "\n  \x1b[1;31mWRONG\x1b[0m " in done.stdout

    def test_words_in_the_middle_of_a_line_stay_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert colour.painted("a WRONG b\n  WRONG c", "WRONG", "1", sys.stderr) == "a WRONG b\n  \x1b[1mWRONG\x1b[0m c"


class TestEnv:
    def test_it_names_what_a_report_needs(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["env"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"zeroconsolidate {package.__version__}"
        labels = [line[2:].split("  ")[0] for line in lines[1:]]
        assert {"python", "platform", "machine", "limits", "folder", "numpy", "safetensors", "not there", "set"} <= {
            *labels
        }
        assert all(len(line) <= 100 for line in lines)

    def test_as_json(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", "/where/nobody/may/look")
        assert main(["env", "--json"]) == 0
        printed = capsys.readouterr().out
        found = json.loads(printed)
        assert (found["kind"], found["ok"]) == ("environment", True)
        assert found["packages"]["numpy"] and found["packages"]["safetensors"]
        assert "HF_HOME" in found["variables"]
        assert "nobody" not in printed

    def test_it_imports_none_of_what_it_names(self) -> None:
        code = (
            "import sys\nfrom zeroconsolidate.cli import main\nmain(['env'])\n"
            "print({'numpy', 'torch', 'transformers', 'deepspeed'} & set(sys.modules))"
        )
        assert python(code).stdout.splitlines()[-1] == "set()"

    def test_what_is_not_installed_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surroundings, "PACKAGES", ("numpy", "no-such-package"))
        assert surroundings.surroundings().packages["no-such-package"] is None

    @pytest.mark.parametrize(
        ("path", "kind"),
        [("/data/run", "xfs"), ("/data", "xfs"), ("/database", "ext4"), ("/with space/x", "nfs4"), ("/", "ext4")],
    )
    def test_the_file_system_of_a_folder(self, path: str, kind: str, tmp_path: Path) -> None:
        (tmp_path / "mounts").write_text(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "30 22 8:2 / /data rw - xfs /dev/sdb rw\n"
            "31 22 0:50 / /with\\040space rw shared:2 master:1 - nfs4 host:/x rw\n"
        )
        assert surroundings.file_system(path, str(tmp_path / "mounts")) == kind
        assert surroundings.file_system(path, str(tmp_path / "nothing")) == "unknown"

    def test_it_takes_no_paths(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["env", "x"]) == 2
        assert capsys.readouterr().err == "zeroconsolidate: env takes no paths; got x; zeroconsolidate env\n"


def test_version_is_name_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"zeroconsolidate {package.__version__}\n"
