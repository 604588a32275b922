"""Processes of our own import nothing from the folder they are started in, on every Python."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from zeroconsolidate.integrations import apart

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("processes_of_their_own")
@pytest.mark.parametrize("has_safe_path", [False, True])
@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_and_a_module(
    has_safe_path: bool, as_module: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_safe_path and sys.version_info < (3, 11):
        pytest.skip("this Python has no -P")
    monkeypatch.setattr(apart, "_HAS_SAFE_PATH", has_safe_path)
    folder, beside = tmp_path / "stands", tmp_path / "script"
    folder.mkdir()
    beside.mkdir()
    program = "import sys, json\nprint(json.dumps([__name__, sys.argv[1:]]))\n"
    (beside / "told.py").write_text(program)
    (beside / "json.py").write_text("raise SystemExit('imported from beside the script')\n")
    (folder / "json.py").write_text("raise SystemExit('imported from the working directory')\n")
    (folder / "content").write_text("[2]")
    module = ["-m", "json.tool", "--compact", "content"]
    arguments = module if as_module else [str(beside / "told.py"), "a", "-m", "b c"]
    done = subprocess.run(
        apart.command(*arguments), cwd=folder, env=apart.environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == ("[2]" if as_module else '["__main__", ["a", "-m", "b c"]]')
