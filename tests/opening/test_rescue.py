"""Incomplete checkpoints: what is lost is told exactly, and a rescue writes what it says, from where it says."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import hostile
import pytest
import safetensors.torch
import synthetic
import torch
from command import zeroconsolidate as zeroconsolidate_command
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate import ZeroConsolidateError, consolidate, inspect
from zeroconsolidate.errors import (
    BadOption,
    DamagedFile,
    Disagreement,
    MissingFiles,
    NotACheckpoint,
    UnsafePickle,
    WrongNames,
)

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.opening.rescue_report import RescueReport


def ranks_to_lose(case: str) -> list[int]:
    """The first, the last and one between of a fixture's ranks; none if it cannot be converted at all."""
    try:
        ranks = inspect(FIXTURES / case / "checkpoint").world_size
    except ZeroConsolidateError:
        return []
    return sorted({0, ranks // 2, ranks - 1}) if ranks > 1 else []


CASES = sorted(path.parent.name for path in FIXTURES.glob("z[123]_*/checkpoint"))
LOSSES = [(case, rank) for case in CASES for rank in ranks_to_lose(case)]


def load(directory: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(directory / "model.safetensors")


def files_of(root: Path, rank: int) -> list[Path]:
    return sorted(root.glob(f"*/*zero_pp_rank_{rank}_mp_rank_00_*_states.pt"))


def copied(case: str, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / case / "checkpoint", tmp_path / "c")
    return tmp_path / "c"


def elements(report: RescueReport, name: str, *sources: str) -> list[tuple[int, int]]:
    return [(e.start, e.stop) for e in report.tensors[name] if e.source in sources]


def marked(numel: int, intervals: list[tuple[int, int]]) -> torch.Tensor:
    mask = torch.zeros(numel, dtype=torch.bool)
    for start, stop in intervals:
        mask[start:stop] = True
    return mask


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8).reshape(tensor.numel(), tensor.element_size())


class TestOneRankLost:
    @pytest.fixture
    def lost(self, case: str, rank: int, tmp_path: Path) -> tuple[Path, int]:
        return copied(case, tmp_path), rank

    @pytest.mark.parametrize(("case", "rank"), LOSSES)
    def test_what_is_lost_is_what_that_rank_held(self, lost: tuple[Path, int], tmp_path: Path) -> None:
        """The oracle: change every value the rank holds, and see which elements of the model change."""
        root, rank = lost
        consolidate(root, tmp_path / "before", ties="copy")
        changed = tmp_path / "changed"
        shutil.copytree(root, changed)
        optimizer, *model = sorted(files_of(changed, rank), key=lambda path: "optim" not in path.name)
        content = torch.load(optimizer, weights_only=False)
        for key in ("fp32_flat_groups", "single_partition_of_fp32_groups"):
            for group in content["optimizer_state_dict"].get(key, ()):
                group.detach().view(torch.int32).bitwise_xor_(0x55)
        torch.save(content, optimizer)
        for path in model:
            content = torch.load(path, weights_only=False)
            for fragment in (content["frozen_param_fragments"] or {}).values():
                fragment.detach().view(torch.int16).bitwise_xor_(0x55)
            torch.save(content, path)
        consolidate(changed, tmp_path / "after", ties="copy", check="none")

        for path in files_of(root, rank):
            path.unlink()
        report = consolidate(root, tmp_path / "rescued", rescue="zeros", ties="copy").rescue
        assert report is not None
        before, after, rescued = (load(tmp_path / name) for name in ("before", "after", "rescued"))
        unknown_ties = {tensor.name for tensor in inspect(tmp_path / "changed").tensors if tensor.tied_to}
        assert before.keys() - rescued.keys() == (unknown_ties if rank == 0 and inspect(root).stage == 3 else set())
        for name, extents in report.tensors.items():
            assert extents[0].start == 0
            assert extents[-1].stop == before[name].numel()
            assert all(one.stop == other.start for one, other in itertools.pairwise(extents))
            held_by_rank = (bits(before[name]) != bits(after[name])).any(1)
            gone = marked(before[name].numel(), elements(report, name, "module", "zeros"))
            assert torch.equal(gone, held_by_rank), name
            assert torch.equal(bits(rescued[name])[~gone], bits(before[name])[~gone]), name
            for extent in extents:
                here = rescued[name].reshape(-1)[extent.start : extent.stop]
                there = before[name].reshape(-1)[extent.start : extent.stop]
                if extent.source == "module":
                    half = getattr(torch, extent.dtype)
                    assert torch.equal(here, there.to(half).float()), name
                elif extent.source == "zeros":
                    assert not here.any(), name
        losses = {loss.name: loss for loss in inspect(root).losses}
        for name in report.tensors:
            assert losses[name].lost_numel == int((bits(before[name]) != bits(after[name])).any(1).sum())

    @pytest.mark.parametrize(("case", "rank"), [(c, r) for c, r in LOSSES if re.fullmatch("z[123]_(w4|frozen)", c)])
    def test_without_zeros_only_whole_tensors_are_written(self, lost: tuple[Path, int], tmp_path: Path) -> None:
        root, rank = lost
        consolidate(root, tmp_path / "before", ties="copy")
        for path in files_of(root, rank):
            path.unlink()
        report = consolidate(root, tmp_path / "rescued", rescue=True, ties="copy").rescue
        assert report is not None
        before, rescued = load(tmp_path / "before"), load(tmp_path / "rescued")
        written = {name for name in report.tensors if name not in report.not_written}
        assert written <= set(rescued) <= set(before)
        assert not set(report.not_written) & set(rescued)
        for name in written:
            if not elements(report, name, "module"):
                assert torch.equal(bits(rescued[name]), bits(before[name]))
        if inspect(root).stage < 3:
            assert report.not_written == ()
        assert sum(report.by_source.values()) == report.numel


class TestDiagnosis:
    @pytest.fixture(params=[2, 3])
    def run(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """Two saves of four ranks, the second is what `latest` names."""
        root = tmp_path / "run"
        shapes = synthetic.shapes_of(0.5)
        for step in (5, 10):
            synthetic.write(root, synthetic.values_of(shapes, seed=step), stage=request.param, ranks=4, step=step)
        return root

    @staticmethod
    def optimizer(run: Path, rank: int, step: int = 10) -> Path:
        return run / f"global_step{step}/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"

    @pytest.mark.parametrize(
        ("damage", "kind", "reason", "clause"),
        [
            (lambda path: path.unlink(), MissingFiles, "missing", "is missing"),
            (
                lambda path: os.truncate(path, path.stat().st_size // 2),
                DamagedFile,
                "the file is truncated; expected the zip directory that torch writes last, got the end after ",
                "is truncated",
            ),
            (lambda path: path.write_bytes(b""), DamagedFile, "the file is empty", "is empty"),
            (
                lambda path: shutil.copy(TestDiagnosis.optimizer(path.parent.parent, 2, 5), path),
                Disagreement,
                "from another save: step 5, not 10",
                "is from another save: step 5, not 10",
            ),
        ],
        ids=["missing", "truncated", "empty", "stale"],
    )
    def test_the_error_tells_all(
        self, run: Path, tmp_path: Path, damage: Any, kind: Any, reason: str, clause: str
    ) -> None:
        damage(self.optimizer(run, 2))
        with pytest.raises(kind) as failed:
            consolidate(run, tmp_path / "out")
        error, name = failed.value, "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt"
        said = str(error)
        assert f"1 of 4 ranks is incomplete: {name} {clause};" in said
        # Only what shows that a file is of another save names it a second time, and says where.
        assert said.count(name) == (2 if kind is Disagreement else 1)
        assert error.files == (name,)
        assert {loss.fate for loss in error.losses} >= {"whole", "partly lost"}
        lost, held = (sum(getattr(loss, size) for loss in error.losses) for size in ("lost_bytes", "nbytes"))
        assert f"{100 * lost / held:.1f} % of all bytes are lost;" in said
        assert error.remedies[0] == 'tag="last-complete" takes global_step5, the newest complete tag'
        if inspect(run).stage == 2:
            assert error.consequence.endswith(
                "3 of 14 tensors are lost, 2 partly lost, 9 whole; 25.0 % of all bytes are lost"
            )
            assert error.remedies[1:] == (
                "rescue=True writes all tensors: 75.0 % of the values exactly, 25.0 % in 16 bits",
            )
        else:
            assert error.consequence.endswith("13 of 14 tensors are partly lost, 1 whole; 25.0 % of all bytes are lost")
            assert error.remedies[1:] == ('rescue="zeros" writes all that is left, with zeros where values are lost',)
        assert not (tmp_path / "out").exists()
        info = inspect(run)
        assert info.missing_files == ("bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt",)
        assert info.reasons[info.missing_files[0]].startswith(reason)
        assert consolidate(run, tmp_path / "rescued", rescue="zeros").rescue is not None

    def test_last_complete_is_the_newest_whole_one(self, run: Path, tmp_path: Path) -> None:
        assert consolidate(run, tmp_path / "whole", tag="last-complete").tag == "global_step10"
        os.truncate(self.optimizer(run, 0), 1000)
        assert consolidate(run, tmp_path / "older", tag="last-complete").tag == "global_step5"
        os.truncate(self.optimizer(run, 0, 5), 1000)
        with pytest.raises(NotACheckpoint, match="no tag is complete; tried global_step5, global_step10"):
            inspect(run, tag="last-complete")

    def test_latest_may_name_a_tag_that_was_never_begun(self, run: Path) -> None:
        (run / "latest").write_text("global_step15")
        with pytest.raises(NotACheckpoint, match='tag="last-complete" takes global_step10, the newest complete tag'):
            inspect(run)

    def test_trainers_older_checkpoints_are_looked_at(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        for step in (5, 10, 15):
            synthetic.write(tmp_path / f"checkpoint-{step}", values, stage=3, ranks=2, step=step)
        for step in (10, 15):
            files_of(tmp_path / f"checkpoint-{step}", 1)[0].unlink()
        with pytest.raises(MissingFiles) as failed:
            consolidate(tmp_path / "checkpoint-15", tmp_path / "out")
        assert failed.value.remedies[0] == f"zeroconsolidate convert {tmp_path / 'checkpoint-5'} OUTPUT"
        assert "tag=" not in str(failed.value)
        with pytest.raises(NotACheckpoint, match="no tag is complete; tried global_step15; zeroconsolidate conv"):
            consolidate(tmp_path / "checkpoint-15", tmp_path / "out", tag="last-complete")

    def test_the_line_to_type_is_complete(self, tmp_path: Path) -> None:
        """As the paths were given, quoted for a shell."""
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        for step in (5, 10):
            synthetic.write(tmp_path / f"a run/checkpoint-{step}", values, stage=3, ranks=2, step=step)
        files_of(tmp_path / "a run/checkpoint-10", 1)[0].unlink()
        done = zeroconsolidate_command("convert", "a run/checkpoint-10", "my model", cwd=tmp_path)
        line = "  zeroconsolidate convert 'a run/checkpoint-5' 'my model'"
        assert line in done.stderr.splitlines()
        done = zeroconsolidate_command(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    def test_where_nothing_is_left_no_rescue_is_offered(self, tmp_path: Path) -> None:
        root = copied("z3_w4", tmp_path)
        for path in root.glob("*/*optim_states.pt"):
            path.unlink()
        with pytest.raises(MissingFiles) as failed:
            consolidate(root, tmp_path / "out")
        assert failed.value.remedy is None
        assert "4 of 4 ranks are incomplete (0, 1, 2, 3)" in str(failed.value)
        assert failed.value.consequence.endswith("; no parameter can be rescued")
        # At stage 2 the model file has all of them in 16 bits.
        root = copied("z2_w4", tmp_path / "z2")
        for path in root.glob("*/*optim_states.pt"):
            path.unlink()
        with pytest.raises(MissingFiles) as failed:
            consolidate(root, tmp_path / "out")
        assert failed.value.remedies == ("rescue=True writes all tensors, in 16 bits",)

    def test_most_files_decide_which_save_it_is(self, tmp_path: Path) -> None:
        """A save over an older one of the same tag died after one, two or three ranks of four."""
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        old = synthetic.write(tmp_path / "old", values, stage=3, ranks=4, step=5, tag="t")
        synthetic.write(tmp_path / "new", values, stage=3, ranks=4, step=10, tag="t")
        for rank, decided in enumerate((5, 10, 10)):  # of two and two the newer
            for path in files_of(tmp_path / "new", rank):
                shutil.copy(path, old / path.name)
            assert inspect(tmp_path / "old").step == decided
            lost = {path.name for other in range(4) if (other <= rank) is (decided == 5)
                    for path in files_of(tmp_path / "old", other)}  # fmt: skip
            assert set(inspect(tmp_path / "old").missing_files) == lost

    def test_of_two_that_are_equally_common_the_one_is_taken_that_the_other_files_are_of(self, tmp_path: Path) -> None:
        """Nothing of rank 0 is left but the masters of a later save: the model states that are left are not of it."""
        shapes = synthetic.shapes_of(0.2)
        old, new = (
            synthetic.write(
                tmp_path / str(step), synthetic.values_of(shapes, seed=step), stage=3, ranks=2, step=step, tag="t"
            )
            for step in (5, 10)
        )
        name = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
        shutil.copy(new / name, old / name)
        (old / "zero_pp_rank_0_mp_rank_00_model_states.pt").unlink()
        info = inspect(tmp_path / "5")
        assert info.reasons[name] == "from another save: step 10, not 5"
        assert "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt" not in info.missing_files
        consolidate(tmp_path / "5", tmp_path / "out", rescue="zeros")
        found, truth = (
            safetensors.torch.load_file(tmp_path / "out/model.safetensors"),
            synthetic.values_of(shapes, seed=5),
        )
        for tensor_name, tensor in truth.items():
            kept = found[tensor_name] == tensor
            assert bool((kept | (found[tensor_name] == 0)).all()), tensor_name
            assert bool(kept.any())

    def test_other_disagreements_stay_what_they_are(self, tmp_path: Path) -> None:
        shapes = synthetic.shapes_of(0.2)
        one = synthetic.write(tmp_path / "one", synthetic.values_of(shapes), stage=3, ranks=2)
        shapes["layers.0.norm.weight"] = torch.Size([3])
        other = synthetic.write(tmp_path / "other", synthetic.values_of(shapes), stage=3, ranks=2)
        name = "zero_pp_rank_1_mp_rank_00_model_states.pt"
        shutil.copy(other / name, one / name)
        for rescue in (False, "zeros"):
            with pytest.raises(Disagreement) as failed:
                consolidate(tmp_path / "one", tmp_path / "out", rescue=rescue)
            assert "rescue=" not in str(failed.value)
        (one / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(Disagreement, match="'param_shapes' differs"):
            consolidate(tmp_path / "one", tmp_path / "out", rescue="zeros")

    def test_an_attack_is_not_a_loss(self, run: Path, tmp_path: Path) -> None:
        """Whoever asks for a rescue asks for one of what is damaged."""
        hostile.checkpoint(tmp_path / "forged", hostile.Zip(hostile.records(b"cos\nsystem\n.")).build())
        shutil.copy(tmp_path / "forged" / hostile.MODEL, self.optimizer(run, 2))
        for look in (inspect, lambda run: consolidate(run, tmp_path / "out", rescue="zeros")):
            with pytest.raises(UnsafePickle, match=r"'os\.system'"):
                look(run)

    def test_the_command_lists_the_worst(self, run: Path) -> None:
        self.optimizer(run, 1).unlink()
        done = zeroconsolidate_command("convert", run, run.parent / "out")
        assert done.returncode == 2
        first, place, cost, *rest = done.stderr.splitlines()
        assert first.startswith("zeroconsolidate: 1 of 4 ranks is incomplete: ")
        assert place == f"  at {run}/{inspect(run).tag}"
        assert cost.startswith("  ") and cost.endswith("; 25.0 % of all bytes are lost")
        assert rest[0].startswith("  --tag last-complete takes")
        rows = [line for line in rest if line.startswith("    ")]
        assert re.match(r"    \S.* +(partly )?lost +[0-9.]+ %  [0-9.]+ KB of ", rows[0]), done.stderr
        assert len(rows) <= 13
        if inspect(run).stage == 3:
            # Thirteen tensors have lost about a quarter: no thirteen rows say so.
            assert [re.split("  +", row.strip())[0] for row in rows[:-1]] == [
                "embed.weight and 8 more",
                "layers.0.norm.weight and 3 more",
            ]
            assert rows[-1] == f"    zeroconsolidate inspect --tensors {run} lists them all"

    def test_where_all_tensors_fare_alike_none_is_listed(self, tmp_path: Path) -> None:
        root = copied("z3_w4", tmp_path)
        for path in root.glob("*/*optim_states.pt"):
            path.unlink()
        done = zeroconsolidate_command("convert", root, tmp_path / "out")
        assert len(done.stderr.splitlines()) == 3, done.stderr  # what is missing, where, what is lost


class TestRescue:
    def test_a_whole_checkpoint_is_simply_converted(self, tmp_path: Path) -> None:
        report = consolidate(FIXTURES / "z3_w3/checkpoint", tmp_path / "out", rescue="zeros")
        assert report.rescue is None
        assert not (tmp_path / "out/rescue-report.json").exists()
        consolidate(FIXTURES / "z3_w3/checkpoint", tmp_path / "plain")
        assert load(tmp_path / "out").keys() == load(tmp_path / "plain").keys()

    @pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
    def test_the_report_is_written_returned_and_true(self, tmp_path: Path, dtype: str) -> None:
        root = copied("z2_w4", tmp_path)
        files_of(root, 1)[0].unlink()
        report = consolidate(root, tmp_path / "out", rescue=True, dtype=dtype).rescue
        assert report is not None
        assert json.loads((tmp_path / "out/rescue-report.json").read_text()) == json.loads(json.dumps(report.to_dict()))
        assert report.lost_files == {"bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt": "missing"}
        assert report.percent("checkpoint") + report.percent("module") == pytest.approx(100)
        assert zeroconsolidate.verify(tmp_path / "out").problems == ()

    def test_all_masters_lost_leaves_the_copies(self, tmp_path: Path) -> None:
        root = copied("z2_w4", tmp_path)
        consolidate(root, tmp_path / "whole", dtype="bf16")
        for path in root.glob("*/*optim_states.pt"):
            path.unlink()
        report = consolidate(root, tmp_path / "out", rescue=True, dtype="bf16").rescue
        assert report is not None
        assert report.by_source["module"] > 0
        whole, rescued = load(tmp_path / "whole"), load(tmp_path / "out")
        assert all(torch.equal(bits(whole[name]), bits(rescued[name])) for name in whole)

    def test_the_model_file_of_stage_2_cannot_be_done_without(self, tmp_path: Path) -> None:
        root = copied("z2_w4", tmp_path)
        next(root.glob("*/mp_rank_00_model_states.pt")).unlink()
        with pytest.raises(MissingFiles, match="model states are missing"):
            consolidate(root, tmp_path / "out", rescue="zeros")

    def test_ties_are_not_guessed_when_rank_0_is_lost(self, tmp_path: Path) -> None:
        root = copied("z3_w4", tmp_path)
        for path in files_of(root, 0):
            path.unlink()
        report = consolidate(root, tmp_path / "out", rescue="zeros", ties="copy")
        assert "head.weight" not in load(tmp_path / "out")
        assert any(
            note.startswith("head.weight is left out, because only rank 0's lost file says") for note in report.notes
        )

    def test_fill_comes_from_where_it_says(self, tmp_path: Path) -> None:
        """An earlier consolidated step, and a base model for what that has in another shape."""
        shapes = synthetic.shapes_of(0.5)
        values, older = (synthetic.values_of(shapes, seed=seed) for seed in (1, 2))
        synthetic.write(tmp_path / "c5", older, stage=3, ranks=3, step=5)
        consolidate(tmp_path / "c5", tmp_path / "step5", exclude=["layers.0.*"])
        base = {name: torch.full(shape, 3.0, dtype=torch.float16) for name, shape in shapes.items()}
        base["layers.0.up.weight"] = torch.zeros(2, 2)
        (tmp_path / "base").mkdir()
        safetensors.torch.save_file(base, tmp_path / "base/model.safetensors")
        folder = synthetic.write(tmp_path / "c10", values, stage=3, ranks=4, step=10)
        (folder / "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
        fill = [tmp_path / "step5", tmp_path / "base"]
        report = consolidate(tmp_path / "c10", tmp_path / "out", rescue=True, fill=fill).rescue
        assert report is not None
        rescued = load(tmp_path / "out")
        assert report.not_written == ("layers.0.up.weight",)
        for name, extents in report.tensors.items():
            if name in ("position", "layers.0.up.weight"):
                continue
            directory, step, dtype, source = (
                (str(tmp_path / "base"), None, "float16", base)
                if name.startswith("layers.0")
                else (str(tmp_path / "step5"), 5, "float32", older)
            )
            assert [e.source for e in extents].count("fill") == 1
            for extent in extents:
                truth = values[name]
                if extent.source == "fill":
                    assert (extent.directory, extent.step, extent.dtype) == (directory, step, dtype)
                    truth = source[name].float()
                else:
                    assert (extent.source, extent.step) == ("checkpoint", 10)
                here = slice(extent.start, extent.stop)
                assert torch.equal(rescued[name].reshape(-1)[here], truth.reshape(-1)[here])

    @pytest.mark.parametrize(("case", "source"), [("z2_w4", "module"), ("z3_w4", "fill")])
    def test_the_order_of_stand_ins(self, tmp_path: Path, case: str, source: str) -> None:
        """All three are there: a copy of this step in 16 bits, the values of another model, zeros."""
        consolidate(FIXTURES / case / "checkpoint", tmp_path / "older")
        root = copied(case, tmp_path)
        files_of(root, 2)[0].unlink()
        report = consolidate(root, tmp_path / "out", rescue="zeros", fill=tmp_path / "older").rescue
        assert report is not None
        assert {name for name, numel in report.by_source.items() if numel} == {"checkpoint", source}

    def test_fill_of_another_kind_of_numbers_is_not_used(self, tmp_path: Path) -> None:
        root = copied("z3_w4", tmp_path)
        files_of(root, 2)[0].unlink()
        whole = consolidate(FIXTURES / "z3_w4/checkpoint", tmp_path / "older")
        assert whole.rescue is None
        weights = {name: value.to(torch.int32) for name, value in load(tmp_path / "older").items()}
        safetensors.torch.save_file(weights, tmp_path / "older/model.safetensors")
        report = consolidate(root, tmp_path / "out", rescue=True, fill=tmp_path / "older").rescue
        assert report is not None
        assert not report.by_source.get("fill")
        assert report.not_written

    def test_options_that_make_no_sense(self, tmp_path: Path) -> None:
        root = FIXTURES / "z3_w4/checkpoint"
        with pytest.raises(BadOption, match="used only with rescue=True"):
            consolidate(root, tmp_path / "out", fill=tmp_path)
        with pytest.raises(BadOption, match="rescue must be False, True or 'zeros'; got"):
            consolidate(root, tmp_path / "out", rescue="ones")  # type: ignore[arg-type]
        broken = copied("z3_w4", tmp_path)
        files_of(broken, 1)[0].unlink()
        with pytest.raises(BadOption, match="cannot be used: there are no weights"):
            consolidate(broken, tmp_path / "out", rescue=True, fill=tmp_path)

    def test_exit_codes(self, tmp_path: Path) -> None:
        root = copied("z3_w4", tmp_path)
        files_of(root, 3)[0].unlink()

        def run(*arguments: str) -> int:
            return zeroconsolidate_command("convert", *arguments).returncode

        assert run(str(root), str(tmp_path / "out")) == 2
        assert run("--rescue", str(root), str(tmp_path / "out")) == 3
        assert run(str(root), str(tmp_path / "zeros"), "--rescue=zeros") == 3
        assert run("--rescue", str(FIXTURES / "z3_w4/checkpoint"), str(tmp_path / "whole")) == 0

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(0.2))
        folder = synthetic.write(tmp_path / "c", values, stage=3, ranks=2)
        files_of(tmp_path / "c", 1)[0].unlink()
        for path in folder.glob("*model_states.pt"):
            content = torch.load(path, weights_only=False)
            content["module"].pop("position")
            torch.save(content, path)
        with pytest.raises(BadOption, match="nothing can be rescued"):
            consolidate(tmp_path / "c", tmp_path / "out", rescue=True)


class TestSeveralRoots:
    @pytest.fixture(params=["z2_w4", "z3_w4"])
    def nodes(self, request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
        """Two nodes of two ranks; only the first wrote `latest`."""
        source = FIXTURES / request.param / "checkpoint"
        for node in (0, 1):
            shutil.copytree(source, tmp_path / f"node{node}")
            for rank in (0, 1) if node else (2, 3):
                for path in files_of(tmp_path / f"node{node}", rank):
                    path.unlink()
        (tmp_path / "node1/latest").unlink()
        for path in tmp_path.glob("node1/*/mp_rank_00_model_states.pt"):
            path.unlink()
        consolidate(source, tmp_path / "whole")
        return [tmp_path / "node0", tmp_path / "node1"]

    def test_ranks_are_gathered(self, nodes: list[Path], tmp_path: Path) -> None:
        for order in (nodes, nodes[::-1]):
            out = tmp_path / f"out-{order[0].name}"
            consolidate(order, out)
            assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
        assert inspect(nodes).missing_files == ()
        assert inspect(nodes[0]).missing_files != ()
        assert len(zeroconsolidate.open_checkpoint(nodes)) > 10
        assert zeroconsolidate.verify(tmp_path / "whole", against=nodes).ok

    def test_tag_folders_do_as_well(self, nodes: list[Path], tmp_path: Path) -> None:
        consolidate([next(node.glob("global_step*")) for node in nodes], tmp_path / "out")
        assert load(tmp_path / "out").keys() == load(tmp_path / "whole").keys()

    def test_copies_of_a_file_must_be_equal(self, nodes: list[Path], tmp_path: Path) -> None:
        there = next(nodes[0].glob("*/*rank_1_*optim_states.pt"))
        copy = nodes[1] / there.parent.name / there.name
        shutil.copy(there, copy)
        consolidate(nodes, tmp_path / "out")
        content = torch.load(copy, weights_only=False)
        state = content["optimizer_state_dict"]
        (state.get("fp32_flat_groups") or state["single_partition_of_fp32_groups"])[0].detach()[0] += 1
        torch.save(content, copy)
        with pytest.raises(Disagreement, match="two directories have this file, and they differ"):
            inspect(nodes)
        os.truncate(copy, 100)
        with pytest.raises(Disagreement, match="two directories have this file, and they differ"):
            inspect(nodes)

    @pytest.mark.parametrize("how", ["no checksums", "legacy", "damaged"])
    def test_copies_without_checksums_are_compared_byte_by_byte(
        self, nodes: list[Path], tmp_path: Path, how: str
    ) -> None:
        """`set_crc32_options(False)` writes zeros for checksums: they are equal for whatever is of equal size."""
        there = next(nodes[0].glob("*/*rank_1_*optim_states.pt"))
        copy = nodes[1] / there.parent.name / there.name
        content = torch.load(there, weights_only=False)
        # The id of a save is drawn anew each time: both files must be of one.
        torch.serialization.set_crc32_options(how != "no checksums")
        try:
            torch.save(content, there, _use_new_zipfile_serialization=how != "legacy")
        finally:
            torch.serialization.set_crc32_options(True)
        if how == "damaged":
            os.truncate(there, 100)
        shutil.copy(there, copy)
        assert bool(inspect(nodes).missing_files) is (how == "damaged")
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        with pytest.raises(Disagreement, match="two directories have this file, and they differ"):
            inspect(nodes)

    def test_directories_of_different_saves_are_refused(self, nodes: list[Path]) -> None:
        folder = next(nodes[1].glob("global_step*"))
        folder.rename(folder.with_name("global_step99"))
        with pytest.raises(Disagreement, match=r"expected one tag, got global_step\d+, global_step99"):
            inspect(nodes)

    def test_the_command_takes_several(self, nodes: list[Path], tmp_path: Path) -> None:
        assert zeroconsolidate_command("convert", *nodes, tmp_path / "out").returncode == 0
        assert load(tmp_path / "out").keys() == load(tmp_path / "whole").keys()


class TestFrozenFromBase:
    @pytest.fixture(params=[1, 2, 3])
    def stage(self, request: pytest.FixtureRequest) -> int:
        stage: int = request.param
        return stage

    @pytest.fixture
    def base(self, stage: int, tmp_path: Path) -> Path:
        consolidate(FIXTURES / f"z{stage}_frozen/checkpoint", tmp_path / "base")
        return tmp_path / "base"

    def test_excluded_parameters_come_from_it_exactly(self, stage: int, base: Path, tmp_path: Path) -> None:
        partial = FIXTURES / f"z{stage}_exclude_frozen/checkpoint"
        report = consolidate(partial, tmp_path / "out", base=base)
        out, theirs = load(tmp_path / "out"), load(base)
        frozen = {tensor.name for tensor in inspect(FIXTURES / f"z{stage}_frozen/checkpoint").tensors if
                  tensor.role == "frozen"}  # fmt: skip
        assert out.keys() == theirs.keys()
        assert report.from_base == len(frozen) > 0
        assert all(torch.equal(bits(out[name]), bits(theirs[name])) for name in frozen)
        consolidate(partial, tmp_path / "without")
        assert load(tmp_path / "without").keys() == theirs.keys() - frozen

    @pytest.mark.parametrize("change", ["shape", "name"])
    def test_another_model_is_not_mixed_in(self, stage: int, base: Path, tmp_path: Path, change: str) -> None:
        weights = load(base)
        if change == "shape":
            weights["layers.0.norm.weight"] = torch.ones(3)
        else:
            weights["layers.0.norm.gain"] = weights.pop("layers.0.norm.weight")
        safetensors.torch.save_file(weights, base / "model.safetensors")
        source = FIXTURES / f"z{stage}_exclude_frozen/checkpoint"
        with pytest.raises(WrongNames, match="do not fit the base model"):
            consolidate(source, tmp_path / "out", base=base)
        report = consolidate(source, tmp_path / "out", base=base, names="stored")
        assert report.from_base == 0
        (warning,) = [w for w in report.warnings if "the weights in --base were not used" in w]
        assert "layers.0.norm.weight" in warning

    def test_a_complete_checkpoint_takes_nothing(self, stage: int, base: Path, tmp_path: Path) -> None:
        report = consolidate(FIXTURES / f"z{stage}_frozen/checkpoint", tmp_path / "out", base=base)
        assert report.from_base == 0
