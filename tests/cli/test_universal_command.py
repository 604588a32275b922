"""`zeroconsolidate universal` on the command line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from command import zeroconsolidate
from fixtures import FIXTURES

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = FIXTURES / "z2_groups" / "checkpoint"


def test_the_report_says_what_was_made_and_how_to_use_it(tmp_path: Path):
    done = zeroconsolidate("universal", SOURCE, tmp_path / "out")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "out")
    assert lines[-1] == (
        f'engine.load_checkpoint("{tmp_path / "out"}")  # config: {{"checkpoint": {{"load_universal": true}}}}'
    )
    assert "13 trained parameters with fp32, exp_avg, exp_avg_sq" in done.stdout
    assert "571 parameters in 39 tensors, float32, " in done.stdout
    assert "53 files in global_step2_universal/zero/," in " ".join(done.stdout.split())
    assert done.stderr.count("warning: ") == 2


def test_as_json(tmp_path: Path):
    done = zeroconsolidate("universal", SOURCE, tmp_path / "out", "--json")
    found = json.loads(done.stdout)
    assert (found["ok"], found["tensors"], found["step"]) == (True, 39, 2)
    assert "global_step2_universal/zero/embed.weight/exp_avg.pt" in found["files"]
    refused = zeroconsolidate(
        "universal", FIXTURES / "layouts" / "universal_z3" / "checkpoint", tmp_path / "other", "--json"
    )
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["kind"] == "UnsupportedLayout"


def test_a_dry_run_and_a_quiet_one(tmp_path: Path):
    dry = zeroconsolidate("universal", SOURCE, tmp_path / "out", "--dry-run")
    assert dry.returncode == 0
    assert "39 tensors in 54 files" in dry.stdout
    assert not (tmp_path / "out").exists()
    quiet = zeroconsolidate("universal", SOURCE, tmp_path / "out", "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert (tmp_path / "out" / "latest_universal").exists()


def test_a_rescue_says_what_stands_in_and_has_an_exit_code_of_its_own(tmp_path: Path):
    shutil.copytree(FIXTURES / "z2_w4" / "checkpoint", tmp_path / "run")
    for path in (tmp_path / "run").glob("*/*pp_rank_2_*"):
        path.unlink()
    refused = zeroconsolidate("universal", tmp_path / "run", tmp_path / "out")
    assert refused.returncode == 2
    assert "  --rescue writes all master weights, 74.8 % of the values exactly, 25.2 % in 16 bits" in refused.stderr
    assert "  --rescue --fill DIR takes lost values from an earlier checkpoint" in refused.stderr
    done = zeroconsolidate("universal", "--rescue", tmp_path / "run", tmp_path / "out")
    assert done.returncode == 3
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "lost file bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt: missing" in rows
    assert "rescued 74.8 % as trained (427 elements)" in rows
    assert "rescued 25.2 % in 16 bits, from the second copy of the weights (144 elements)" in rows
    assert "exp_avg_sq 74.8 % as saved, 25.2 % zeros" in rows
    assert "exp_avg, exp_avg_sq: lost values are zeros" in done.stderr
    filled = zeroconsolidate(
        "universal", "--rescue", "--fill", FIXTURES / "z3_w4" / "checkpoint", tmp_path / "run", tmp_path / "filled",
        "--json",
    )  # fmt: skip
    assert filled.returncode == 3
    found = json.loads(filled.stdout)
    assert found["rescue"]["states"]["exp_avg"]["by_source"]["fill"] == 144
    assert not any("zeros" in warning for warning in found["warnings"])
    one = zeroconsolidate("universal", tmp_path / "run", tmp_path / "other", "--rescue", "--fill", tmp_path / "run")
    assert (one.returncode, "the checkpoint in --fill cannot be used" in one.stderr) == (2, True)


def test_an_older_save_beside_it_is_named_with_this_command(tmp_path: Path):
    for step in (1, 2):
        shutil.copytree(FIXTURES / "z2_w4" / "checkpoint", tmp_path / f"checkpoint-{step}")
    for path in (tmp_path / "checkpoint-2").glob("*/*pp_rank_2_*"):
        path.unlink()
    refused = zeroconsolidate("universal", tmp_path / "checkpoint-2", tmp_path / "out")
    assert f"zeroconsolidate universal {tmp_path / 'checkpoint-1'} {tmp_path / 'out'}" in refused.stderr


def test_without_an_output():
    done = zeroconsolidate("universal", SOURCE)
    assert done.returncode == 2
    assert "universal needs an OUTPUT directory as well" in done.stderr
    assert f"zeroconsolidate universal {SOURCE} OUTPUT" in done.stderr


def test_options_of_another_command():
    done = zeroconsolidate("universal", SOURCE, "out", "--dtype", "bf16")
    assert done.returncode == 2
    assert "universal has no option --dtype" in done.stderr
