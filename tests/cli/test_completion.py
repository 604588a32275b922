"""Completion in the shells themselves, with the scripts that the command prints."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import environment

from zeroconsolidate.cli import main
from zeroconsolidate.cli.verbs import ABOUT, SHELLS, declared
from zeroconsolidate.integrations.packages import MissingPackage
from zeroconsolidate.options import declarations

pytest.importorskip("shtab")

from zeroconsolidate.cli import about

BASH = """
source "$SCRIPT"
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
COMPREPLY=()
_shtab_zeroconsolidate zeroconsolidate "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
autoload -Uz compinit && compinit -u -D
fpath=($FOLDER $fpath)
autoload -Uz _zeroconsolidate && compdef _zeroconsolidate zeroconsolidate
bindkey '^I' complete-word
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-[OAD]* ]]; then
        typeset -a proposed
        builtin compadd -O proposed "$@"
        print -rl -- $proposed >> $FOLDER/proposed
    fi
    builtin compadd "$@"
}
ended() { touch $FOLDER/ended }
comppostfuncs=(ended)
touch $FOLDER/ready
"""
"""For a shell in which someone types: what is proposed goes into a file."""


def _script(shell: str, folder: Path) -> Path:
    path = folder / ("_zeroconsolidate" if shell == "zsh" else f"zeroconsolidate.{shell}")
    path.write_text(about.completion(shell))
    return path


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def completed(shell: str, words: str, folder: Path) -> set[str]:
    """What the shell proposes for the last of these words, behind the command's name."""
    script = _script(shell, folder)
    variables = os.environ | {"SCRIPT": str(script), "FOLDER": str(folder)}
    if shell == "bash":
        last = f"{words}''" if words.endswith(" ") or not words else words
        command = ["bash", "--norc", "-c", BASH.format(words=f"zeroconsolidate {last}")]
    elif shell == "fish":
        command = ["fish", "--no-config", "-c", f"source $SCRIPT; complete -C 'zeroconsolidate {words}'"]
    else:
        return typed_in_zsh(words, folder)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env=variables,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return {line.split("\t")[0] for line in done.stdout.splitlines() if line}


def typed_in_zsh(words: str, folder: Path) -> set[str]:
    """Type it on a terminal, and the tab."""
    (folder / "init.zsh").write_text(ZSH)
    for name in ("ready", "ended", "proposed"):
        (folder / name).unlink(missing_ok=True)
    ours, theirs = os.openpty()
    variables = os.environ | {"FOLDER": str(folder), "TERM": "xterm"}
    with subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        cwd=folder,
        start_new_session=True,
    ) as shell:
        try:
            for typed, sign in ((b"source init.zsh\n", "ready"), (f"zeroconsolidate {words}\t".encode(), "ended")):
                os.write(ours, typed)
                until = time.monotonic() + 30
                while not (folder / sign).exists():
                    assert time.monotonic() < until, f"zsh does not get {sign}"
                    if select.select([ours], [], [], 0.05)[0]:
                        os.read(ours, 1 << 16)
        finally:
            shell.kill()
    os.close(ours)
    os.close(theirs)
    return set((folder / "proposed").read_text().split("\n")) - {""}


def test_commands(shell: str, tmp_path: Path) -> None:
    assert completed(shell, "", tmp_path) >= set(ABOUT)
    assert completed(shell, "un", tmp_path) == {"universal"}


def test_options_of_a_command(shell: str, tmp_path: Path) -> None:
    found = completed(shell, "universal --", tmp_path)
    assert found >= {flag for each in declarations(*declared("universal").kinds) for flag in each.flags}
    assert "--lora" not in found
    assert completed(shell, "convert --max", tmp_path) == {"--max-shard-size"}


def test_values_of_an_option(shell: str, tmp_path: Path) -> None:
    assert completed(shell, "convert --lora ", tmp_path) == {"adapter", "merge", "keep"}
    assert completed(shell, "convert --names in", tmp_path) == {"in-memory"}


def test_directories(shell: str, tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint.txt").touch()
    found = {name.rstrip("/") for name in completed(shell, "inspect check", tmp_path)}
    assert found == {"checkpoint-500", "checkpoint-1000"}
    found = {name.rstrip("/") for name in completed(shell, "convert --base check", tmp_path)}
    assert found == {"checkpoint-500", "checkpoint-1000"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{about.completion(shell)}\n"
    for name in ABOUT:
        assert name in printed
        for each in declarations(*declared(name).kinds):
            assert all(flag.lstrip("-") in printed for flag in each.flags), each.name


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_other_shells(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", *words]) == 2
    assert "completion needs a shell" in capsys.readouterr().err


def test_without_shtab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match="pip install shtab"):
        about.completion("bash")


def test_a_shell_that_reads_it_runs_nothing_of_ours(tmp_path: Path) -> None:
    """Completion waits for no Python."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = _script("bash", tmp_path)
    code = BASH.format(words="zeroconsolidate convert --max")
    done = subprocess.run(
        [bash, "--norc", "-c", code], capture_output=True, text=True, check=True,
        env=environment(SCRIPT=str(script), PATH="/nowhere"),
    )  # fmt: skip
    assert done.stdout == "--max-shard-size\n"
    assert Path(sys.executable).name not in script.read_text()
