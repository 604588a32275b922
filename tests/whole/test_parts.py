"""Parts of a conversion, each by a command of its own, make what one command makes, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import synthetic
from command import PROGRAM, environment, refusal, signals, zeroconsolidate
from fixtures import FIXTURES
from folders import contents
from interrupting import Interrupt

from zeroconsolidate import consolidate, consolidate_part, finish_parts, verify
from zeroconsolidate.errors import BadOption, DamagedFile, OutputBusy, OutputExists, OutputFailed
from zeroconsolidate.outputs import make as making
from zeroconsolidate.plan import stretches
from zeroconsolidate.write import part as parting
from zeroconsolidate.write import portion

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20
BASES = FIXTURES / "models" / "_bases"
CASES: dict[str, tuple[Path, dict[str, Any]]] = {
    "fp32": (FIXTURES / "z3_w3", {}),
    "stage 2, cast": (FIXTURES / "z2_fp32", {"dtype": "bf16"}),
    "shards with digests": (FIXTURES / "z3_bf16", {"dtype": "fp16", "max_shard_size": "1KB", "digest": "sha256"}),
    "with the optimizer": (FIXTURES / "z2_bf16", {"optimizer": True, "digest": "sha256"}),
    "merged": (FIXTURES / "models" / "lora_z3", {"lora": "merge", "dtype": "bf16", "base": BASES / "llama"}),
    "DoRA": (FIXTURES / "models" / "dora_z2", {"lora": "merge", "base": BASES / "llama"}),
    "tokens": (FIXTURES / "models" / "lora_tokens_z2", {"lora": "merge", "base": BASES / "qwen2"}),
    "an adapter": (FIXTURES / "models" / "lora_z3", {}),
    "experts": (FIXTURES / "models" / "mixtral_z3", {"dtype": "bf16"}),
}


@pytest.fixture
def small_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "CUT_BYTES", 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(synthetic.shapes_of(12)), stage=3, ranks=3)
    (root / "tokenizer.json").write_text("{}")
    return root


OPTIONS = {"max_shard_size": "5MB", "digest": "sha256"}


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "model"
    consolidate(checkpoint, out, **OPTIONS)
    return contents(out)


@pytest.mark.usefixtures("small_cuts")
@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("case", CASES)
def test_they_make_what_one_command_makes(case: str, count: int, tmp_path: Path) -> None:
    fixture, options = CASES[case]
    one = consolidate(fixture / "checkpoint", tmp_path / "one", **options)
    written = 0
    for number in sorted(range(1, count + 1), key=lambda n: n * 7 % (count + 1)):
        report = consolidate_part(fixture / "checkpoint", tmp_path / "out", f"{number}/{count}", **options)
        written += report.bytes_written
        assert [p.name for p in (tmp_path / "out").iterdir()] == [".zeroconsolidate"]
    assert written == report.total_bytes
    report = finish_parts(fixture / "checkpoint", tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert report.parts == count
    # All that the report says of the output is what one command's says.
    own = {"output", "seconds", "gb_per_second", "load_line", "parts", "resumed_bytes"}
    assert {k: v for k, v in report.to_dict().items() if k not in own} == {
        k: v for k, v in one.to_dict().items() if k not in own
    }


def test_overflows_of_all_parts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(stretches, "CUT_BYTES", 1024)
    values = synthetic.values_of(synthetic.shapes_of(0.2))
    for value in values.values():
        value.view(-1)[:: max(value.numel() // 5, 1)] = 1e30
    synthetic.write(tmp_path / "checkpoint", values, stage=3, ranks=2)
    one = consolidate(tmp_path / "checkpoint", tmp_path / "one", dtype="fp16")
    for number in (1, 2, 3):
        consolidate_part(tmp_path / "checkpoint", tmp_path / "out", f"{number}/3", dtype="fp16")
    report = finish_parts(tmp_path / "checkpoint", tmp_path / "out", dtype="fp16")
    assert report.overflows == one.overflows
    assert sum(one.overflows.values()) == sum(int((v.abs() >= 1e30).sum()) for v in values.values())
    assert torch.isfinite(next(iter(values.values()))).all()


def test_an_interrupted_part_goes_on_where_it_was(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "SYNC_BYTES", MB)
    consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        consolidate_part(checkpoint, tmp_path / "out", "2/2", progress=Interrupt(3 * MB), **OPTIONS)
    with pytest.raises(BadOption, match=r"1 of 2 parts are not finished: 2/2 \([1-9][0-9] % written\); run them again"):
        finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    first: list[int] = []
    report = consolidate_part(
        checkpoint, tmp_path / "out", "2/2", progress=lambda done, total: first.append(done), **OPTIONS
    )
    assert min(first) >= report.resumed_bytes >= 3 * MB
    finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_a_part_that_is_written_again_does_nothing(checkpoint: Path, tmp_path: Path) -> None:
    before = consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)
    again = consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)
    assert again.resumed_bytes == again.bytes_written == before.bytes_written
    assert before.resumed_bytes == 0


def test_given_up(checkpoint: Path, tmp_path: Path) -> None:
    consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)
    process = zeroconsolidate("convert", checkpoint, tmp_path / "out", "--abort")
    assert process.returncode == 0, process.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_parts_at_the_same_time_one_of_them_killed(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    # The command, which stops for good when it has written a megabyte.
    hanging = PROGRAM.replace(
        "from zeroconsolidate.cli import main",
        "import time\nfrom zeroconsolidate.cli import main\nfrom zeroconsolidate.write import part\n"
        "part.SYNC_BYTES = 1 << 20\nbefore = part.Part.reached\n"
        "def reached(self, upto):\n    before(self, upto)\n    upto - self.start < 1 << 20 or time.sleep(600)\n"
        "part.Part.reached = reached",
    )
    command = ["convert", str(checkpoint), str(out), "--max-shard-size", "5MB", "--digest", "sha256"]

    def start(program: str, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program.format(python=sys.executable), *command, "--part", f"{number}/3", "-q"],
            env=environment(),
            preexec_fn=signals(),
        )

    stuck = start(hanging, 2)
    journal = out / ".zeroconsolidate/parts/2-of-3"
    try:
        deadline = time.monotonic() + 60
        while not (journal.exists() and b"upto" in journal.read_bytes()):
            assert time.monotonic() < deadline
            assert stuck.poll() is None
            time.sleep(0.05)
        others = [start(PROGRAM, number) for number in (1, 3)]
        assert [other.wait(60) for other in others] == [0, 0]
        busy = zeroconsolidate(*command, "--part", "2/3")
        assert "another conversion is writing this output (process " in refusal(busy)
        assert "part 2/3" in busy.stderr
        assert "parts of this output are being written" in refusal(zeroconsolidate(*command, "--finish"))
        assert "parts of this output are being written" in refusal(zeroconsolidate(*command, "--restart"))
    finally:
        stuck.send_signal(signal.SIGKILL)
        stuck.wait()
    assert zeroconsolidate(*command, "--part", "2/3", "-q").returncode == 0
    assert zeroconsolidate(*command, "--finish", "-q").returncode == 0
    assert contents(out) == straight
    assert verify(out, against=checkpoint).ok


@pytest.mark.parametrize("after", ["adopt", "examined", "manifest", "rename"])
def test_who_finishes_may_die_at_any_point(
    after: str, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeroconsolidate.outputs.model import ModelDirectory
    from zeroconsolidate.write import stage

    owner, name = {
        "adopt": (stage.Stage, "adopt"),
        "examined": (ModelDirectory, "examined"),
        "manifest": (stage.Stage, "write"),
        "rename": (stage, "rename"),
    }[after]
    for number in (1, 2):
        consolidate_part(checkpoint, tmp_path / "out", f"{number}/2", **OPTIONS)
    true = getattr(owner, name)

    def dies(*arguments: Any, **how: Any) -> Any:
        true(*arguments, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dies)
        with pytest.raises(KeyboardInterrupt):
            finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


class TestRefused:
    def test_parts_that_are_not_there(self, checkpoint: Path, tmp_path: Path) -> None:
        consolidate_part(checkpoint, tmp_path / "out", "2/3")
        with pytest.raises(BadOption, match=r"2 of 3 parts are not finished: 1/3 \(not begun\), 3/3 \(not begun\)"):
            finish_parts(checkpoint, tmp_path / "out")
        assert (tmp_path / "out/.zeroconsolidate/parts/2-of-3").exists()

    def test_nothing_to_finish(self, checkpoint: Path, tmp_path: Path) -> None:
        process = zeroconsolidate("convert", checkpoint, tmp_path / "out", "--finish")
        assert "out has no parts to finish; expected an output whose parts have been written" in refusal(process)
        assert not (tmp_path / "out").exists()

    def test_a_conversion_in_one_piece(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parting, "SYNC_BYTES", MB)
        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, tmp_path / "out", progress=Interrupt(3 * MB))
        with pytest.raises(BadOption, match="an interrupted conversion that is not made in parts"):
            finish_parts(checkpoint, tmp_path / "out")
        with pytest.raises(BadOption, match="it is being made in one piece, not in 2 parts; run the earlier command"):
            consolidate_part(checkpoint, tmp_path / "out", "1/2")
        assert consolidate(checkpoint, tmp_path / "out").resumed_bytes > 0

    def test_another_number_of_parts(self, checkpoint: Path, tmp_path: Path) -> None:
        consolidate_part(checkpoint, tmp_path / "out", "1/2")
        with pytest.raises(BadOption, match="it is being made in 2 parts, not in 3 parts"):
            consolidate_part(checkpoint, tmp_path / "out", "1/3")
        with pytest.raises(BadOption, match="it is being made in 2 parts, not in one piece"):
            consolidate(checkpoint, tmp_path / "out")

    @pytest.mark.parametrize("last", ["part", "finish"])
    def test_other_options(self, checkpoint: Path, tmp_path: Path, last: str) -> None:
        consolidate_part(checkpoint, tmp_path / "out", "1/2", dtype="bf16")
        with pytest.raises(BadOption, match="dtype was 'bf16', is 'fp32'"):
            if last == "part":
                consolidate_part(checkpoint, tmp_path / "out", "2/2")
            else:
                finish_parts(checkpoint, tmp_path / "out")
        assert (tmp_path / "out/.zeroconsolidate/parts/1-of-2").exists()

    def test_a_checkpoint_that_has_changed(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        folder = synthetic.write(tmp_path / "checkpoint", values, stage=3, ranks=2)
        consolidate_part(tmp_path / "checkpoint", tmp_path / "out", "1/2")
        os.utime(folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")
        with pytest.raises(BadOption, match="interrupted conversion with other options or input"):
            consolidate_part(tmp_path / "checkpoint", tmp_path / "out", "2/2")

    def test_a_checkpoint_that_changes_meanwhile(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        folder = synthetic.write(tmp_path / "checkpoint", values, stage=3, ranks=2)

        def touch(done: int, total: int) -> None:
            if done == total:  # nothing is read any more, which would tell
                os.utime(folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")

        with pytest.raises(DamagedFile, match="the file was changed while it was being converted"):
            consolidate_part(tmp_path / "checkpoint", tmp_path / "out", "1/1", progress=touch)

    @pytest.mark.parametrize("how", ["removed", "cut"])
    @pytest.mark.parametrize("last", ["part", "finish"])
    def test_a_staged_file_that_is_not_as_it_was(self, checkpoint: Path, tmp_path: Path, how: str, last: str) -> None:
        """Made again, it would be full of zeros where other parts believe to have written."""
        consolidate_part(checkpoint, tmp_path / "out", "1/2")
        if last == "finish":
            consolidate_part(checkpoint, tmp_path / "out", "2/2")
        staged = tmp_path / "out/.zeroconsolidate/files/model.safetensors"
        if how == "removed":
            staged.unlink()
        else:
            os.truncate(staged, 5 * MB)
        message = "the staged file has been removed" if how == "removed" else "the staged file is not as it was made"
        with pytest.raises(OutputFailed, match=message):
            if last == "finish":
                finish_parts(checkpoint, tmp_path / "out")
            else:
                consolidate_part(checkpoint, tmp_path / "out", "2/2")

    def test_journals_of_an_earlier_conversion(self, checkpoint: Path, tmp_path: Path) -> None:
        """What they vouch for went with the journal that they belong to."""
        consolidate_part(checkpoint, tmp_path / "out", "1/2")
        (tmp_path / "out/.zeroconsolidate/journal").unlink()
        assert consolidate_part(checkpoint, tmp_path / "out", "2/2").resumed_bytes == 0
        with pytest.raises(BadOption, match=r"1 of 2 parts are not finished: 1/2 \(not begun\)"):
            finish_parts(checkpoint, tmp_path / "out")
        assert consolidate_part(checkpoint, tmp_path / "out", "1/2").resumed_bytes == 0

    def test_an_output_that_exists(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        with pytest.raises(OutputExists):
            consolidate_part(checkpoint, tmp_path / "out", "1/1", **OPTIONS)
        before = contents(tmp_path / "out")
        consolidate_part(checkpoint, tmp_path / "out", "1/1", overwrite=True, **OPTIONS)
        assert contents(tmp_path / "out").items() >= before.items()
        finish_parts(checkpoint, tmp_path / "out", overwrite=True, **OPTIONS)
        assert contents(tmp_path / "out") == straight

    @pytest.mark.parametrize("call", [lambda s, o: consolidate_part(s, o, "1/1", restart=True),
                                      lambda s, o: finish_parts(s, o, restart=True)])  # fmt: skip
    def test_starting_over(self, call: Any, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(BadOption, match="a part cannot start all parts over"):
            call(checkpoint, tmp_path / "out")

    def test_starting_over_in_one_piece_throws_parts_away(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)
        consolidate(checkpoint, tmp_path / "out", restart=True, **OPTIONS)
        assert contents(tmp_path / "out") == straight

    @pytest.mark.parametrize("given", ["3", "0/2", "3/2", "1/2/3", "a/b", "", "1/20000", "-1/2"])
    def test_what_is_no_part(self, given: str, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(BadOption, match="a part is its number and how many there are"):
            consolidate_part(checkpoint, tmp_path / "out", given)
        assert not (tmp_path / "out").exists()

    def test_what_a_loader_would_not_load(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before a byte is copied, and again by whoever finishes: then the parts stay."""
        from zeroconsolidate.errors import WrongNames
        from zeroconsolidate.outputs import prepared

        def refuse(*_: object) -> None:
            raise WrongNames("a loader would not find it")

        with monkeypatch.context() as patched:
            patched.setattr(prepared, "pass_or_refuse", refuse)
            with pytest.raises(WrongNames):
                consolidate_part(checkpoint, tmp_path / "out", "1/1")
        assert consolidate_part(checkpoint, tmp_path / "out", "1/1").resumed_bytes == 0
        with monkeypatch.context() as patched:
            patched.setattr(making, "pass_or_refuse", refuse)
            with pytest.raises(WrongNames):
                finish_parts(checkpoint, tmp_path / "out")
        assert finish_parts(checkpoint, tmp_path / "out").parts == 1

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--part", "1/2", "--finish"), "--part and --finish are of different commands; run --finish when all"),
            (("--part", "1/2", "--dry-run"), "--dry-run is about the whole conversion, not about --part; leave out"),
            (("--finish", "--dry-run"), "--dry-run is about the whole conversion, not about --finish; leave out"),
        ],
    )
    def test_flags_that_contradict_each_other(self, flags: tuple[str, ...], message: str, checkpoint: Path) -> None:
        assert message in refusal(zeroconsolidate("convert", checkpoint, "out", *flags))


def test_a_file_system_without_links(
    checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for number in (1, 2):
        consolidate_part(checkpoint, tmp_path / "out", f"{number}/2", **OPTIONS)
    finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_a_journal_that_is_just_being_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out/.zeroconsolidate").mkdir(parents=True)
    (tmp_path / "out/.zeroconsolidate/journal").write_bytes(b"0000")
    with pytest.raises(OutputBusy, match="another part is just beginning this output; run this part again"):
        consolidate_part(checkpoint, tmp_path / "out", "1/2")


def test_who_comes_second_makes_nothing_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
) -> None:
    """Two parts find nothing, both make the files; what the first has written meanwhile stays."""
    true = portion.Portion._make_files

    def late(self: portion.Portion) -> None:
        monkeypatch.setattr(portion.Portion, "_make_files", true)
        consolidate_part(checkpoint, tmp_path / "out", "1/2", **OPTIONS)  # all of it, while the second begins
        true(self)

    monkeypatch.setattr(portion.Portion, "_make_files", late)
    consolidate_part(checkpoint, tmp_path / "out", "2/2", **OPTIONS)
    finish_parts(checkpoint, tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == straight


def test_on_the_command_line(checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
    command = ["convert", checkpoint, tmp_path / "out", "--max-shard-size", "5MB", "--digest", "sha256"]
    first = zeroconsolidate(*command, "--part", "1/2")
    assert first.returncode == 0
    assert first.stderr.startswith("warning: no config.json in")
    assert first.stdout.startswith(f"{tmp_path}/out: part 1/2 is written\n  weights   5.85 MB of 12.0 MB\n")
    second = json.loads(zeroconsolidate(*command, "--part", "2/2", "--json").stdout)
    assert second["ok"]
    assert second["kind"] == "part"
    assert (second["part"], second["parts"]) == (2, 2)
    last = zeroconsolidate(*command, "--finish")
    assert last.returncode == 0
    assert "parts" in last.stdout
    assert "2, each written by a command of its own" in last.stdout
    assert contents(tmp_path / "out") == straight
