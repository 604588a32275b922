"""What is printed: 100 columns, what matters first, sizes and times that mean something, nothing twice."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from command import zeroconsolidate
from fixtures import FIXTURES
from model_cases import ROOT

from zeroconsolidate import consolidate, inspect, verify, verify_source
from zeroconsolidate.cli.printing import cost_text, info_text, report_text
from zeroconsolidate.cli.problems import warnings_text
from zeroconsolidate.cli.rows import COLUMNS, time_text
from zeroconsolidate.cli.verified import verification_text
from zeroconsolidate.options import size_text
from zeroconsolidate.plan.build import Cost

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.outputs.report import Report

TRAINED = FIXTURES / "z2_w4/checkpoint"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A plain one, with a name of its own in place of a directory."""
    return replace(consolidate(TRAINED, tmp_path_factory.mktemp("out") / "m"), output="m", load_line="load()")


def labels(text: str) -> list[str]:
    """The labels of the rows, in order, each once."""
    return list(dict.fromkeys(re.findall(r"^  (\S+(?: \S+)*)  ", text, re.MULTILINE)))


class TestReport:
    def test_order(self, report: Report) -> None:
        """Where it is, whether it is right, details, how it is used."""
        text = report_text(replace(report, notes=("a note",), resumed_bytes=5, from_base=2))
        assert text.startswith("m\n")
        assert labels(text) == [
            "checked", "not checked", "from", "weights", "tied", "from base", "files", "note", "not copied", "resumed",
            "time",
        ]  # fmt: skip
        assert text.endswith("\n\nload()")

    def test_what_was_checked_and_what_was_not(self, report: Report) -> None:
        assert report.checks == (
            f"{report.checked} values against their second copy in the checkpoint (a sample): equal",
        )
        assert report.not_checked == ("names: no config.json",)

    @pytest.mark.parametrize(
        ("case", "options", "expected"),
        [
            ("z3_bf16", {}, "values: ZeRO stage 3 saves no second copy of the weights"),
            ("z2_bf16", {"check": "none"}, "values: not compared (--no-check)"),
            ("layouts/z0_fp32", {}, "values: the checkpoint has no second copy of the weights"),
        ],
    )
    def test_why_values_were_not_compared(
        self, case: str, options: dict[str, object], expected: str, tmp_path: Path
    ) -> None:
        report = consolidate(FIXTURES / case / "checkpoint", tmp_path / "out", names="stored", **options)  # type: ignore[arg-type]
        assert report.not_checked == ("names: no config.json", expected)
        assert report.checks == ()

    def test_all_values(self, tmp_path: Path) -> None:
        report = consolidate(TRAINED, tmp_path / "out", check="all")
        assert report.checks[-1].endswith("(all that have one): equal")

    def test_ties_are_not_called_left_out(self, report: Report) -> None:
        assert report.left_out == ("head.weight",)
        assert report.ties == {"head.weight": "embed.weight"}
        text = report_text(report)
        assert "tied         head.weight = embed.weight, stored once\n" in text
        assert "left out" not in text

    def test_what_was_left_out_on_purpose_is_folded(self, report: Report) -> None:
        left_out = (*report.left_out, *(f"layers.{i}.weight" for i in range(9)))
        text = " ".join(report_text(replace(report, left_out=left_out)).split())
        assert (
            " left out 9 tensors: layers.0.weight, layers.1.weight, layers.2.weight, layers.3.weight and 5 more "
            in text
        )

    def test_one_is_singular(self, report: Report) -> None:
        text = report_text(replace(report, parameters=1, tensors=1, world_size=1, from_base=1))
        assert "1 parameter in 1 tensor, float32" in text
        assert "1 frozen tensor that" in text
        assert ", 1 rank, " in text

    def test_files_are_folded(self, report: Report) -> None:
        files = {f"model-{i:05}-of-00040.safetensors": 5_000_000_000 for i in range(1, 41)}
        text = report_text(replace(report, files=files))
        assert "200 GB in 40 files" in text
        assert " and 32 more, see\n               zeroconsolidate.json\n" in text

    def test_only_what_someone_could_miss_is_named(self, tmp_path: Path) -> None:
        source = shutil.copytree(ROOT / "m3_z3/checkpoint", tmp_path / "in")
        (source / "notes.txt").write_text("mine")
        (source / "onnx").mkdir()
        report = consolidate(source, tmp_path / "out", names="stored")
        assert report.not_copied == ("onnx/",)
        assert {"global_step3/", "latest", "training_args.bin"} < set(report.left_behind)
        assert "not copied   onnx/; training state\n" in report_text(report)
        assert any("notes.txt" in warning for warning in report.warnings)

    def test_repeated_notes_are_one(self, report: Report) -> None:
        notes = tuple(f"layers.{i}.scale is not a tensor and is left out" for i in range(40))
        text = report_text(replace(report, notes=(*notes, "something else")))
        assert text.count("not a tensor") == 1
        assert "note         layers.0.scale is not a tensor and is left out (39 more like it)\n" in text
        assert "note         something else\n" in text

    def test_no_line_is_longer_than_it_may_be(self, report: Report) -> None:
        noted = replace(report, notes=("word " * 80,), names="names " * 50, load_line="x")
        lines = [*report_text(noted).splitlines(), *"\n".join(warnings_text(noted)).splitlines()]
        assert max(map(len, lines)) <= COLUMNS
        assert sum("word" in line for line in lines) > 1

    def test_a_rate_only_where_it_says_something(self, report: Report) -> None:
        def time_row(seconds: float, size_bytes: int) -> str:
            text = report_text(replace(report, seconds=seconds, bytes_written=size_bytes))
            return text[text.index("time") :].partition("\n")[0].split(None, 1)[1]

        assert time_row(0.4, 10**9) == "0.40 s"
        assert time_row(8.7, 56_000) == "8.7 s"
        assert time_row(2, 2 * 10**9) == "2.0 s, 1.00 GB/s"
        assert time_row(75, 10**11) == "1 min 15 s, 1.33 GB/s"

    def test_warnings_stand_apart(self, report: Report) -> None:
        warned = replace(report, missing=("no config.json",), warnings=("a.b is odd", "c.d is odd", "else"))
        assert warnings_text(warned) == [
            "warning: no config.json", "warning: a.b is odd (1 more like it)", "warning: else",
        ]  # fmt: skip
        assert "odd" not in report_text(warned)

    def test_warnings_are_printed_to_stderr_with_quiet_too(self, tmp_path: Path) -> None:
        done = zeroconsolidate("convert", "--quiet", TRAINED, tmp_path / "out")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith("warning: ")
        assert "config.json" in done.stderr
        assert "tokenizer" in done.stderr


class TestOthers:
    def test_cost(self) -> None:
        cost = Cost(
            input_bytes=10**9, output_bytes=10**9, cloned_bytes=0, peak_memory_bytes=8_390_000, files=1, tensors=1
        )
        assert cost_text(cost).splitlines() == [
            "  reads   1.00 GB",
            "  writes  1.00 GB, 1 tensor in 1 file",
            "  memory  at most 8.39 MB on top of Python's own",
        ]

    def test_cost_of_what_is_cloned(self) -> None:
        cost = Cost(
            input_bytes=10**6, output_bytes=10**9, cloned_bytes=999 * 10**6, peak_memory_bytes=0, files=1, tensors=1
        )
        assert cost_text(cost).splitlines()[:3] == [
            "  reads   1.00 MB",
            "  writes  1.00 GB, 1 tensor in 1 file",
            "  clones  999 MB share the checkpoint's blocks on the disk; 1.00 MB are new",
        ]

    def test_inspect_says_nothing_of_what_there_is_not(self) -> None:
        text = info_text(inspect(TRAINED), tensors=False)
        assert "frozen" not in text
        assert labels(text) == [
            "resume", "tag", "step", "saved by", "layout", "trained in", "optimizer", "trainable", "buffers", "tied",
            "group", "output",
        ]  # fmt: skip

    def test_inspect_names_other_tags(self, tmp_path: Path) -> None:
        root = shutil.copytree(TRAINED, tmp_path / "in")
        shutil.copytree(root / "global_step2", root / "global_step9")
        text = info_text(inspect(root, tag="global_step9"), tensors=False)
        assert "tag         global_step9 (latest names global_step2)\n" in text

    def test_inspect_puts_losses_first(self, tmp_path: Path) -> None:
        root = shutil.copytree(TRAINED, tmp_path / "in")
        next(root.glob("*/*zero_pp_rank_2_*")).unlink()
        text = info_text(inspect(root), tensors=True)
        assert labels(text)[:3] == ["lost file", "lost", "resume"]
        assert "layers.1.scale                          trainable  float32   [1]  lost (100.0 %)" in text

    def test_problems_come_first(self, tmp_path: Path) -> None:
        consolidate(TRAINED, tmp_path / "out")
        (tmp_path / "out/model.safetensors").write_bytes(b"")
        first, second, *_ = verification_text(verify(tmp_path / "out")).splitlines()
        assert first.endswith(("problem", "problems"))
        assert second.startswith("  WRONG  ")

    def test_a_sound_checkpoint(self) -> None:
        found = verify_source(TRAINED)
        assert found.checks[0] == "metadata of all 5 files agrees"
        assert verification_text(found).splitlines()[0] == f"{TRAINED}/global_step2: all is well"

    def test_sizes_and_times(self) -> None:
        assert [size_text(n) for n in (0, 999, 1000, 9_994, 9_996, 99_950, 10**12)] == [
            "0 B", "999 B", "1.00 KB", "9.99 KB", "10.0 KB", "100 KB", "1.00 TB",
        ]  # fmt: skip
        assert [time_text(s) for s in (0, 0.999, 9.96, 59.4, 59.6, 3599, 3600)] == [
            "0.00 s", "1.00 s", "10 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min",
        ]  # fmt: skip
