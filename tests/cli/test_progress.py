"""A sign of life: what is being done is said on a terminal, and now and then in a log."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, ClassVar

import pytest
import run_directories
from command import environment, python
from fixtures import FIXTURES

from zeroconsolidate import compare, consolidate, inspect, inspect_run, prune, universal, verify, verify_source
from zeroconsolidate.archive.load import Counted, load
from zeroconsolidate.archive.names import FileKind
from zeroconsolidate.cli import main, progress
from zeroconsolidate.cli.progress import Display
from zeroconsolidate.opening.open import find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAINER = FIXTURES / "trainer_zero3_tied/checkpoint"
LONG = 60


class Stream(io.StringIO):
    """A terminal, or a log, that says when something appears on it."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.awaited = ""
        self.appeared = threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.awaited and self.awaited in self.getvalue():
            self.appeared.set()
        return written

    def wait_for(self, text: str) -> None:
        self.appeared.clear()
        self.awaited = text
        if text not in self.getvalue():
            assert self.appeared.wait(LONG), self.getvalue()


class TestLine:
    def test_what_is_done_and_how_long_it_takes(self) -> None:
        display = Display(Stream(terminal=True), hidden=False)
        begun = display._since
        assert display.line(begun + 3) == "reading metadata (3 s)"
        display.status("checking names")
        assert display.line(display._since + 7.2) == "checking names (7 s)"

    def test_how_many_files_of_how_many(self) -> None:
        display = Display(Stream(terminal=True), hidden=False)
        display.watching["files_read"](37, 1024)
        assert display.line(display._since + 3) == "reading metadata, 37 of 1,024 files (3 s)"
        display.status("checking names")
        assert display.line(display._since + 1) == "checking names (1 s)"

    def test_how_far_it_is(self) -> None:
        display = Display(Stream(terminal=True), hidden=False)
        display.status("copying")
        display.progress(2 * 10**9, 280 * 10**9)  # which an earlier run had copied
        began = display._from[0]
        assert display.line(began) == "copying 2.00 GB of 280 GB, 1 %"
        display.progress(14 * 10**9, 280 * 10**9)
        assert display.line(began + 12) == "copying 14.0 GB of 280 GB, 5 %, 1.00 GB/s, 4 min 26 s left"
        display.progress(280 * 10**9, 280 * 10**9)
        display.status("syncing")
        assert display.line(began + 278) == "syncing 280 GB of 280 GB, 100 %, 1.00 GB/s"


class TestDisplay:
    def test_on_a_terminal_a_bar_is_redrawn_and_gone_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "FIRST_SECONDS", 0.01)
        monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.01)
        stream = Stream(terminal=True)
        with Display(stream, hidden=False) as display:
            stream.wait_for("reading metadata (")
            display.watching["files_read"](2, 4)
            stream.wait_for("reading metadata, 2 of 4 files (")
            display.status("checking names")
            stream.wait_for("checking names (")
            display.status("copying")
            display.progress(10**6, 4 * 10**6)
            stream.wait_for("copying  25 %|")
            stream.wait_for("| 1.00MB of 4.00MB [")
            display.progress(4 * 10**6, 4 * 10**6)
            display.status("syncing")
            stream.wait_for("syncing 100 %|")
        shown = stream.getvalue()
        assert "\n" not in shown
        assert re.search(r"\r {10,}\r$", shown)

    def test_what_an_earlier_run_did_is_not_counted_into_the_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "FIRST_SECONDS", 0.01)
        monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.01)
        stream = Stream(terminal=True)
        with Display(stream, hidden=False) as display:
            display.status("copying")
            display.progress(3 * 10**12, 4 * 10**12)
            stream.wait_for("copying  75 %|")
            stream.wait_for("| 3.00TB of 4.00TB [00:00<?, ?B/s]")

    def test_tqdm_is_imported_only_to_draw(self) -> None:
        code = (
            "import io, sys, time\nfrom zeroconsolidate.cli.progress import Display\n"
            "class Terminal(io.StringIO):\n    def isatty(self): return True\n"
            "with Display(io.StringIO(), hidden=False): time.sleep(0.8)\n"
            "print('tqdm' in sys.modules)\n"
            "with Display(Terminal(), hidden=False): time.sleep(0.8)\n"
            "print('tqdm' in sys.modules)"
        )
        assert python(code).stdout.split() == ["False", "True"]

    def test_what_is_done_at_once_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "FIRST_SECONDS", LONG)
        stream = Stream(terminal=True)
        with Display(stream, hidden=False) as display:
            display.progress(1, 2)
        assert stream.getvalue() == ""

    def test_in_a_log_it_is_a_line_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert progress.LINE_SECONDS == 30
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
        stream = Stream(terminal=False)
        with Display(stream, hidden=False) as display:
            stream.wait_for("zeroconsolidate: reading metadata (0 s)\n")
            display.status("copying")
            display.progress(10**9, 4 * 10**9)
            stream.wait_for("zeroconsolidate: copying 1.00 GB of 4.00 GB, 25 %")
        assert "\r" not in stream.getvalue()
        assert all(line.startswith("zeroconsolidate: ") for line in stream.getvalue().splitlines())

    def test_hidden_it_takes_no_thread(self) -> None:
        before = threading.active_count()
        with Display(Stream(terminal=True), hidden=True) as display:
            assert threading.active_count() == before
            assert display.watching == {"progress": None, "status": None, "files_read": None}

    def test_where_no_thread_can_be_started_the_work_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_room(_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", no_room)
        with Display(Stream(terminal=True), hidden=False) as display:
            display.progress(1, 2)

    def test_its_thread_takes_little_memory_and_others_what_they_took(self) -> None:
        def data_bytes() -> int:
            with open("/proc/self/status") as lines:
                return 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])

        before = threading.stack_size()
        held = data_bytes()
        with Display(Stream(terminal=True), hidden=False):
            assert data_bytes() - held < 4 << 20
        assert threading.stack_size() == before

    def test_a_terminal_that_hung_up_stops_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "FIRST_SECONDS", 0.01)
        asked = threading.Event()

        class Gone(Stream):
            def write(self, _: str) -> int:
                asked.set()
                raise OSError(5, "Input/output error")

        with Display(Gone(terminal=True), hidden=False):
            assert asked.wait(LONG)


WAITING = """
import os, sys
from zeroconsolidate.cli import main, progress
from zeroconsolidate.naming import asking, sources

def ask(_):
    os.read(0, 1)  # until stdin is closed
    return None, "transformers was not asked"

asking.ask = ask
sources.looked_up = lambda _: None  # the built-in table has this model
progress.LINE_SECONDS = 0.05
sys.exit(main(sys.argv[1:]))
"""
"""The command, which waits where it would ask transformers; and does not wait half a minute in a log."""


class TestCommand:
    def command(self, tmp_path: Path, *options: str) -> list[str]:
        return [sys.executable, "-c", WAITING, "convert", str(TRAINER), str(tmp_path / "out"), *options]

    def test_on_a_terminal_that_does_not_say_how_wide_it_is(self, tmp_path: Path) -> None:
        ours, theirs = os.openpty()
        with subprocess.Popen(
            self.command(tmp_path), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            while b"checking names (" not in shown:
                shown += os.read(ours, 1024)
            process.stdin.close()
            assert process.wait(LONG) == 0
        os.close(ours)

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_in_a_log(self, tmp_path: Path, options: list[str]) -> None:
        with subprocess.Popen(
            self.command(tmp_path, *options), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            line = process.stderr.readline()
            while "checking names" not in line:
                assert line.startswith("zeroconsolidate: ")
                line = process.stderr.readline()
            _, rest = process.communicate(timeout=LONG)
        assert re.fullmatch(r"zeroconsolidate: checking names \(\d+ s\)\n", line)
        assert process.returncode == 0, rest

    def test_quiet_says_nothing(self, tmp_path: Path) -> None:
        done = subprocess.run(
            self.command(tmp_path, "--quiet", "--names", "stored"), env=environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("", "")


class TestStatus:
    def test_a_conversion(self, tmp_path: Path) -> None:
        begun: list[str] = []
        consolidate(FIXTURES / "z2_bf16/checkpoint", tmp_path / "out", status=begun.append, max_shard_size="2KB")
        assert begun[:4] == ["reading metadata", "checking names", "comparing values", "copying"]
        assert begun[4:] == ["syncing", "copying", "syncing"]

    def test_verifications(self, tmp_path: Path) -> None:
        consolidate(FIXTURES / "z2_bf16/checkpoint", tmp_path / "out")
        begun: list[str] = []
        verify(tmp_path / "out", status=begun.append)
        verify(tmp_path / "out", against=FIXTURES / "z2_bf16/checkpoint", status=begun.append)
        verify_source(FIXTURES / "z2_bf16/checkpoint", status=begun.append)
        assert begun == ["reading back", "checking names", "comparing values", "reading all values"]


class TestFilesRead:
    """Each file is counted once, and the last of them makes it complete."""

    def counted(self, function: Callable[..., object], *args: object, **options: object) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        function(*args, **options, files_read=lambda done, total: told.append((done, total)))
        return told

    def test_of_a_conversion_and_of_a_verification(self, tmp_path: Path) -> None:
        checkpoint = FIXTURES / "z3_bf16/checkpoint"
        expected = [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert self.counted(consolidate, checkpoint, tmp_path / "out") == expected
        assert self.counted(verify, tmp_path / "out", against=checkpoint) == expected
        assert self.counted(verify_source, checkpoint) == expected
        assert self.counted(universal, checkpoint, tmp_path / "universal") == expected
        assert self.counted(inspect, checkpoint) == expected

    def test_of_two_that_are_compared(self, tmp_path: Path) -> None:
        one, other = FIXTURES / "z3_bf16/checkpoint", FIXTURES / "z2_bf16/checkpoint"
        of_one, of_other = [(1, 4), (2, 4), (3, 4), (4, 4)], [(1, 3), (2, 3), (3, 3)]
        assert self.counted(compare, one, other) == of_one + of_other
        consolidate(other, tmp_path / "out")
        assert self.counted(compare, tmp_path / "out", other) == of_other

    OF_ONE: ClassVar[list[tuple[int, int]]] = [(1, 3), (2, 3), (3, 3)]

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """Two saves, the older one of which is converted."""
        for step in (2, 4):
            run_directories.age(run_directories.save(tmp_path / "run", step), 100 * step)
        consolidate(tmp_path / "run/checkpoint-2", tmp_path / "run-models/checkpoint-2")
        return tmp_path / "run"

    def test_of_a_run_directory_each_save_is_counted_by_itself(self, run: Path, tmp_path: Path) -> None:
        assert self.counted(inspect_run, run) == 2 * self.OF_ONE
        assert self.counted(prune, run, keep=1) == 2 * self.OF_ONE
        # Which of them is meant, and what it holds.
        assert self.counted(inspect, run) == (2 + 1) * self.OF_ONE
        assert self.counted(inspect, run, checkpoint=2) == (2 + 1) * self.OF_ONE
        assert self.counted(consolidate, run, tmp_path / "out", checkpoint="last-complete") == (2 + 1) * self.OF_ONE
        assert self.counted(consolidate, run, tmp_path / "mean", average="uniform", last=2) == (2 + 2) * self.OF_ONE

    def test_and_of_those_that_a_training_can_resume_from_instead(self, run: Path) -> None:
        (run / "checkpoint-4/scheduler.pt").unlink()
        assert self.counted(inspect, run / "checkpoint-4") == (1 + 2) * self.OF_ONE

    def test_of_a_save_that_is_verified_before_it_is_removed(self, run: Path) -> None:
        assert self.counted(prune, run, keep=1, yes=True) == (2 + 1) * self.OF_ONE

    @pytest.mark.parametrize(
        "words",
        [
            ["convert", "{0}", "{out}"], ["universal", "{0}", "{out}"], ["verify", "{0}"],
            ["compare", "{0}", "{0}"], ["inspect", "{0}"], ["inspect", "{run}"], ["prune", "{run}"],
        ],
        ids=" ".join,
    )  # fmt: skip
    def test_every_command_shows_it(
        self, words: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[tuple[int, int]] = []
        monkeypatch.setattr(Display, "_count", lambda _, done, total: shown.append((done, total)))
        assert main([word.format(run / "checkpoint-4", out=tmp_path / "out", run=run) for word in words]) == 0
        assert shown[:3] == shown[-3:] == self.OF_ONE

    def test_of_a_universal_checkpoint(self, tmp_path: Path) -> None:
        checkpoint = FIXTURES / "z3_bf16/checkpoint"
        universal(checkpoint, tmp_path / "out")
        told = self.counted(verify, tmp_path / "out", against=checkpoint)
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        files = len(list((tmp_path / "out").rglob("*.pt")))
        told = self.counted(consolidate, tmp_path / "out", tmp_path / "model")
        assert [done for done, _ in told] == list(range(1, len(told) + 1))
        assert {total for _, total in told} == {told[0][1]}
        assert len(told) <= told[0][1] <= files

    def test_a_rescue_counts_what_can_be_read(self, tmp_path: Path) -> None:
        shutil.copytree(FIXTURES / "z2_bf16/checkpoint", tmp_path / "in")
        lost = next((tmp_path / "in").rglob("*zero_pp_rank_1_*optim_states.pt"))
        lost.write_bytes(b"")
        told = self.counted(consolidate, tmp_path / "in", tmp_path / "out", rescue=True, allow_missing=True)
        assert told == [(1, 3), (2, 3)]

    def test_a_file_that_is_read_again_is_not_counted_again(self) -> None:
        files, told = find(str(FIXTURES / "z3_bf16/checkpoint"), None), []
        counted = Counted(load, lambda done, total: told.append((done, total)))
        for _ in range(2):
            assert len(list(counted(files, FileKind.OPTIMIZER))) == 2
        assert told == [(1, 4), (2, 4), (2, 4), (2, 4)]

    def test_with_a_mean_each_checkpoint_is_counted_by_itself(self, tmp_path: Path) -> None:
        checkpoint = FIXTURES / "z3_bf16/checkpoint"
        told = self.counted(consolidate, [checkpoint, checkpoint], tmp_path / "out", average="uniform")
        assert told == 2 * [(1, 4), (2, 4), (3, 4), (4, 4)]
