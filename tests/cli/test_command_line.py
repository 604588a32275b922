"""What is typed is understood, or answered with what to type instead; and what is printed goes where it belongs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import break_fixture
import pytest
import zero_model
from command import sentence
from fixtures import FIXTURES

from zeroconsolidate import consolidate, inspect
from zeroconsolidate.cli import main
from zeroconsolidate.cli.exit_codes import ExitCode
from zeroconsolidate.cli.problems import WIDTH, error_text, loss_rows
from zeroconsolidate.errors import DamagedFile, MissingFiles, ZeroConsolidateError
from zeroconsolidate.opening.losses import Loss

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = FIXTURES / "z2_bf16/checkpoint"


class Ran:
    """What a command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        self.code = main([str(word) for word in words])
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Ran(capsys, *words)


class TestSpellings:
    def test_those_of_zero_to_fp32(self, run: Any, tmp_path: Path) -> None:
        own = run("convert", CHECKPOINT, tmp_path / "own", "--tag", "global_step2", "--exclude-frozen", "--json",
                  "--max-shard-size", "1KB")  # fmt: skip
        theirs = run("convert", CHECKPOINT, tmp_path / "theirs", "-t", "global_step2", "--exclude_frozen_parameters",
                     "--json", "--max_shard_size=1KB", "--safe_serialization")  # fmt: skip
        assert own.code == theirs.code == 0
        assert own.json["files"] == theirs.json["files"]
        assert len(own.json["files"]) > 3

    def test_options_may_stand_anywhere(self, run: Any, tmp_path: Path) -> None:
        done = run("convert", "--ties", "copy", CHECKPOINT, "-q", tmp_path / "out", "--dtype", "bf16")
        assert (done.code, done.out) == (0, "")
        assert (tmp_path / "out/model.safetensors").exists()

    def test_without_a_verb_a_checkpoint_is_converted(self, run: Any, tmp_path: Path) -> None:
        assert run(CHECKPOINT, tmp_path / "out").code == 0
        assert (tmp_path / "out/model.safetensors").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["convert", "c", "o", "-f"], "convert has no option -f; did you mean --overwrite?"),
            (["convert", "c", "o", "--force"], "convert has no option --force; did you mean --overwrite?"),
            (["convert", "c", "o", "--froce"], "convert has no option --froce; did you mean --overwrite?"),
            (["convert", "c", "o", "-d"], "convert has no option -d; did you mean --debug?"),
            (["convert", "c", "-o", "o"], "convert has no option -o; OUTPUT is the last argument, without an option"),
            (["convert", "c", "o", "--shard-size", "5GB"], "no option --shard-size; did you mean --max-shard-size?"),
            (["convert", "c", "o", "--max_shard_sizes", "5GB"], "--max-shard-sizes; did you mean --max-shard-size?"),
            (["convert", "c", "o", "--qqqq"], "no option --qqqq; zeroconsolidate convert --help lists the options"),
            (["inspect", "c", "--dtype", "bf16"], "inspect has no option --dtype; it is an option of convert"),
            (["universal", "c", "--tensors"], "universal has no option --tensors; it is an option of inspect"),
        ],
    )
    def test_an_unknown_option_is_answered(self, run: Any, words: list[str], said: str) -> None:
        done = run(*words)
        sentence, usage = done.err.split("\n", 1)
        assert said in sentence
        assert usage.startswith(f"usage: zeroconsolidate {words[0]} [OPTION ...] ")
        assert len(usage.splitlines()) <= 3
        assert (done.code, done.out) == (2, "")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["convert"], "convert needs a CHECKPOINT and an OUTPUT directory; "
             "zeroconsolidate convert CHECKPOINT OUTPUT"),
            (["convert", "c"], "convert needs an OUTPUT directory as well; zeroconsolidate convert c OUTPUT"),
            (["convert", "a b"], "convert needs an OUTPUT directory as well; zeroconsolidate convert 'a b' OUTPUT"),
            (["inspect"], "inspect needs a CHECKPOINT; zeroconsolidate inspect CHECKPOINT"),
            (["verify"], "verify needs an OUTPUT, a CHECKPOINT, or both; zeroconsolidate verify OUTPUT CHECKPOINT"),
            (["verify", "a", "--source", "b"], "--source takes a checkpoint and nothing else; zeroconsolidate verify "
             "--source b"),
            (["verify", "--against", "b"], "--against compares one OUTPUT with a checkpoint; "
             "zeroconsolidate verify OUTPUT --against b"),
            ([], "the command is missing\n  expected convert, universal, inspect, verify, compare, watch, prune, "
             "env, completion\n  zeroconsolidate --help"),
            (["--dtype", "bf16", "c", "o"], "the command is missing; zeroconsolidate convert --dtype bf16 c o"),
        ],
    )  # fmt: skip
    def test_what_is_missing_is_named(self, run: Any, words: list[str], said: str) -> None:
        done = run(*words)
        assert (done.code, done.out, done.err) == (2, "", f"zeroconsolidate: {said}\n")

    def test_a_mistyped_verb(self, run: Any) -> None:
        done = run("inspec", CHECKPOINT)
        assert done.err.splitlines()[0] == "zeroconsolidate: there is no command 'inspec', nor such a directory"
        assert done.err.splitlines()[-1] == "  did you mean inspect?"
        assert done.code == 2

    @pytest.mark.parametrize("verb", ["convert", "inspect", "verify", "watch", "prune", "completion"])
    def test_help_has_a_usage_that_fits_examples_and_exit_codes(self, capsys: Any, verb: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        usage = text.partition("\n\n")[0].splitlines()
        assert all(len(line) < 80 for line in usage)
        assert len(usage) == {"verify": 3, "inspect": 2}.get(verb, 1)
        codes = text.partition("exit codes:\n")[2]
        assert all(len(line) < 80 for line in codes.splitlines())
        words = " ".join(codes.split())
        for code in ExitCode:
            assert f"{code.value} {code.meaning.replace('`', '')}" in words
        examples = text.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
        assert len(examples) >= 2
        assert all(line.startswith(f"  zeroconsolidate {verb} ") for line in examples)


class TestVerify:
    @pytest.fixture(scope="class")
    def output(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out = tmp_path_factory.mktemp("verified") / "out"
        consolidate(CHECKPOINT, out)
        return out

    @pytest.mark.parametrize("which", [CHECKPOINT, CHECKPOINT / "global_step2"])
    def test_a_checkpoint(self, run: Any, which: Path) -> None:
        short, long = run("verify", which, "--json"), run("verify", "--source", which, "--json")
        assert short.code == long.code == 0
        assert short.json["subject"] == long.json["subject"]
        assert any("CRC-32" in check for check in short.json["checks"])

    def test_a_checkpoint_beside_which_weights_lie(self, run: Any, tmp_path: Path, output: Path) -> None:
        """As Trainer saves it below stage 3. What we wrote is an output all the same."""
        shutil.copytree(CHECKPOINT, tmp_path / "c")
        shutil.copy(output / "model.safetensors", tmp_path / "c")
        assert any("CRC-32" in check for check in run("verify", tmp_path / "c", "--json").json["checks"])
        shutil.copy(output / "zeroconsolidate.json", tmp_path / "c")
        assert not any("CRC-32" in check for check in run("verify", tmp_path / "c", "--json").json["checks"])

    def test_an_output_and_a_checkpoint(self, run: Any, output: Path) -> None:
        for words in ([output, CHECKPOINT], [CHECKPOINT, output], [output, "--against", CHECKPOINT]):
            done = run("verify", *words, "--json")
            assert done.code == 0
            assert done.json["subject"] == str(output)
            assert any("against the checkpoint, byte for byte" in check for check in done.json["checks"])

    def test_directories_that_hold_a_checkpoint_together(self, run: Any, tmp_path: Path, output: Path) -> None:
        for node, kept in (("a", "pp_rank_0_"), ("b", "pp_rank_1_")):
            shutil.copytree(CHECKPOINT, tmp_path / node)
            for path in (tmp_path / node).glob("*/*optim_states.pt"):
                if kept not in path.name:
                    path.unlink()
        nodes = [tmp_path / "a", tmp_path / "b"]
        assert any("CRC-32" in check for check in run("verify", *nodes, "--json").json["checks"])
        assert run("verify", output, *nodes).code == 0

    def test_two_outputs(self, run: Any, tmp_path: Path, output: Path) -> None:
        done = run("verify", output, tmp_path)
        assert done.code == 2
        assert "verify takes one OUTPUT; got several directories that are no" in done.err.replace("\n  ", "; ")

    def test_a_path_that_leads_nowhere(self, run: Any, tmp_path: Path, output: Path) -> None:
        done = run("verify", output, tmp_path / "nowhere")
        assert sentence(done.err) == f"there is no such directory (at {tmp_path / 'nowhere'})"


class TestInspect:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Path:
        """Two saves, of which the newer died halfway and is not what `latest` names."""
        for step in (9, 10):
            zero_model.save(zero_model.example(3, step=step), tmp_path / "run", f"global_step{step}", latest=step == 9)
        next((tmp_path / "run/global_step10").glob("*pp_rank_1_*optim*")).unlink()
        return tmp_path / "run"

    def test_it_says_which_tags_are_complete(self, run: Any, two: Path) -> None:
        done = run("inspect", two)
        assert done.code == 3
        assert "global_step10 (INCOMPLETE), global_step9 (complete)" in done.out
        done = run("inspect", two, "--json")
        assert (done.code, done.json["ok"], done.json["kind"]) == (3, False, "checkpoint")
        assert done.json["tag"] == "global_step9"
        assert done.json["complete"] == {"global_step9": True, "global_step10": False}
        assert inspect(two).complete == done.json["complete"]

    def test_whoever_names_a_tag_asks_about_that_one(self, run: Any, two: Path) -> None:
        assert run("inspect", two, "--tag", "global_step9").code == 0
        assert run("inspect", two, "--tag", "last-complete").code == 0
        assert run("inspect", two, "--tag", "global_step10").code == 3

    def test_a_complete_one(self, run: Any) -> None:
        done = run("inspect", CHECKPOINT, "--json")
        assert (done.code, done.json["ok"], done.json["complete"]) == (0, True, {"global_step2": True})

    def test_of_many_tags_only_the_newest_are_checked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from zeroconsolidate.saves import run

        monkeypatch.setattr(run, "MAX_EXAMINED_FILES", 9)  # of three saves
        for step in (1, 2, 3, 4):
            zero_model.save(zero_model.example(2, step=step), tmp_path / "run", f"global_step{step}")
        assert inspect(tmp_path / "run").complete == {f"global_step{step}": True for step in (2, 3, 4)}


class TestWhereItGoes:
    def test_warnings_go_to_stderr_also_when_quiet(self, run: Any, tmp_path: Path) -> None:
        lacks = f"no config.json and no tokenizer in {CHECKPOINT}: from_pretrained will fail; add them with --base DIR"
        for number, options in enumerate(([], ["--quiet"], ["--json"], ["--dry-run"], ["--dry-run", "--json"])):
            done = run("convert", CHECKPOINT, tmp_path / str(number), "--exclude", "classifer.*", *options)
            assert done.code == 0
            assert done.err.split() == [
                *f"warning: {lacks}".split(),
                *"warning: --exclude 'classifer.*' matches no tensor of the checkpoint".split(),
            ]
            assert "warning:" not in done.out
            assert "--exclude" not in done.out.partition('"warnings"')[0]
            if "--json" in options and "--dry-run" not in options:
                assert done.json["missing"] == [lacks]

    def test_the_report_goes_to_stdout(self, run: Any, tmp_path: Path) -> None:
        assert run("convert", CHECKPOINT, tmp_path / "out").out.startswith(str(tmp_path / "out"))
        assert run("convert", CHECKPOINT, tmp_path / "quiet", "-q").out == ""

    @pytest.mark.parametrize("kind", ["conversion", "dry run", "checkpoint", "verification"])
    def test_json_says_what_it_is(self, run: Any, tmp_path: Path, kind: str) -> None:
        words = {
            "conversion": ["convert", CHECKPOINT, tmp_path / "out"],
            "dry run": ["convert", CHECKPOINT, tmp_path / "out", "--dry-run"],
            "checkpoint": ["inspect", CHECKPOINT],
            "verification": ["verify", CHECKPOINT],
        }
        done = run(*words[kind], "--json")
        assert (done.json["ok"], done.json["kind"]) == (True, kind)

    def test_a_verification_that_found_something_is_not_ok(self, run: Any, tmp_path: Path) -> None:
        consolidate(CHECKPOINT, tmp_path / "out", digest="sha256")
        with open(tmp_path / "out/model.safetensors", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")
        done = run("verify", tmp_path / "out", "--json")
        assert (done.code, done.json["ok"]) == (1, False)

    def test_an_error_is_json_too(self, run: Any, tmp_path: Path) -> None:
        shutil.copytree(CHECKPOINT, tmp_path / "c")
        break_fixture.rank_missing(tmp_path / "c")
        done = run("convert", tmp_path / "c", tmp_path / "out", "--json")
        assert done.json == {
            "ok": False,
            "kind": "error",
            "error": {
                "kind": "MissingFiles",
                "message": "1 of 2 ranks is incomplete: bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt is missing",
                "expected": None,
                "found": None,
                "consequence": "6 of 19 tensors are lost, 1 partly lost, 12 whole; 48.2 % of all bytes are lost",
                "remedy": "--rescue writes all tensors: 51.9 % of the values exactly, 48.1 % in 16 bits",
                "address": [str(tmp_path / "c/global_step2")],
                "files": ["bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"],
                "exit_code": 2,
            },
        }
        assert done.code == 2
        assert done.err.startswith(f"zeroconsolidate: {done.json['error']['message']}\n")

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (["convert", CHECKPOINT, "--json"], {"kind": "BadOption", "message": "convert needs an OUTPUT directory"}),
            (["inspect", "nowhere", "--json"], {"kind": "NotACheckpoint", "address": ["nowhere"]}),
            (["inspect", "nowhere", "--json"], {"message": "there is no such directory", "expected": "a DeepSpeed "}),
            (["convert", CHECKPOINT, "o", "--max-shard-size", "5", "--json"], {"found": "'5'", "expected": "5GB or"}),
            (["convert", CHECKPOINT, "o", "--ties", "copi", "--json"], {"message": "--ties takes drop or copy"}),
            (["convert", CHECKPOINT, "o", "--ties", "copi", "--json"], {"remedy": "did you mean copy?"}),
            (["convert", CHECKPOINT, "o", "--json", "--tag"], {"message": "--tag needs a value", "expected": "TAG"}),
            (["convert", CHECKPOINT, "o", "--lora", "--json"], {"expected": "adapter, merge or keep"}),
            (["convert", CHECKPOINT, "o", "--check", "--no-check", "--json"], {"message": "--no-check cannot be used"}),
            (["convert", CHECKPOINT, CHECKPOINT / "o", "--json"], {"remedy": "name another directory"}),
        ],
    )
    def test_every_error_has_its_parts(self, run: Any, words: list[object], parts: dict[str, Any]) -> None:
        done = run(*words)
        error = done.json["error"]
        assert list(error) == [
            "kind", "message", "expected", "found", "consequence", "remedy", "address", "files", "exit_code",
        ]  # fmt: skip
        for name, start in parts.items():
            assert error[name] == start if isinstance(start, list) else error[name].startswith(start)
        assert done.code == error["exit_code"] == 2
        assert done.err.startswith(f"zeroconsolidate: {error['message']}")


class TestLayout:
    def test_a_short_error_is_one_line(self) -> None:
        error = DamagedFile("too short", expected=3, found=2, remedy="copy it again", address=("a", "b.pt"))
        assert error_text(error) == f"zeroconsolidate: {error}"
        assert str(error) == "too short; expected 3, got 2; copy it again (at a > b.pt)"

    def test_a_long_one_has_a_line_for_each_part(self) -> None:
        error = MissingFiles(
            "what", expected="x" * 50, found="y" * 50, consequence="c" * 20, remedy=("one", "two"), address=("p",)
        )
        assert error_text(error).splitlines() == [
            "zeroconsolidate: what",
            f"  expected {'x' * 50}, got {'y' * 50}",
            "  at p",
            f"  {'c' * 20}",
            "  one",
            "  two",
        ]
        error = ZeroConsolidateError("what", expected="x" * WIDTH, found="y")
        assert error_text(error).splitlines()[1:] == [f"  expected {'x' * WIDTH}", "  got y"]

    def test_the_output_is_put_into_the_line_to_type(self) -> None:
        error = MissingFiles("what", remedy="zeroconsolidate convert c OUTPUT")
        assert error_text(error, output="my model").endswith("zeroconsolidate convert c 'my model'")
        assert error_text(error).endswith("convert c OUTPUT")

    def test_terminals_are_not_steered(self) -> None:
        assert "\x1b" not in error_text(MissingFiles("a\x1b[2J", remedy="b\nc", address=("d\r",)))
        assert "\n" not in error_text(MissingFiles("a", remedy="b\nc"))

    @staticmethod
    def losses(*lost: int) -> list[Loss]:
        return [
            Loss(name=f"w{i}", role="trainable", numel=100, lost_numel=n, nbytes=400, lost_bytes=4 * n)
            for i, n in enumerate(lost)
        ]

    def test_rows_are_shown_where_they_differ(self) -> None:
        assert loss_rows(self.losses(*[50] * 13), ["c"]) == []
        assert len(loss_rows(self.losses(*[50] * 13, 0), ["c"])) == 2
        assert loss_rows(self.losses(50, 50, 50, 50, 100, 0), ["a b"]) == [
            "w0 and 3 more  partly lost   50.0 %  800 B of 1.60 KB",
            "w4             lost         100.0 %  400 B of 400 B",
            "zeroconsolidate inspect --tensors 'a b' lists them all",
        ]
        rows = loss_rows(self.losses(*range(1, 40), 0), ["c"])
        assert len(rows) == 13
        assert rows[0].startswith("w38")
        assert loss_rows(self.losses(0, 0), ["c"]) == []

    def test_no_place_is_named_twice(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/x").touch()
        done = run("convert", CHECKPOINT, tmp_path / "out")
        assert done.err.count(str(tmp_path / "out")) == 1
