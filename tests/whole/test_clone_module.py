"""Models in 16 bits whose bytes are the blocks of the 16-bit module that training saved: only where they are what the
masters round to. The disk only pretends to share blocks; what real file systems do is in test_clone_disks.py.
"""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import live_values
import pytest
import torch
from cloned import bend, checkpoint_in, consolidate, tensors
from disks import pretend
from fixtures import FIXTURES
from folders import contents
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import DamagedFile, OutputFailed, WitnessMismatch, ZeroConsolidateError
from zeroconsolidate.plan import congruent
from zeroconsolidate.run import execute, local_output
from zeroconsolidate.run.clone import CANNOT
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20
LAYOUTS = [path for path in sorted(FIXTURES.glob("layouts/*")) if "z3" not in path.name]
LARGE = "layers.1.up.weight"
"""A tensor of which the default check compares both ends only."""


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares blocks, and models of kilobytes are cloned, too."""
    pretend(monkeypatch, 64)
    monkeypatch.setattr(congruent, "LEAST_FILE_BYTES", 1)
    monkeypatch.setattr(congruent, "LEAST_SHARE", 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoint_in(tmp_path, stage=2, megabytes=6)


class TestTheSameTensors:
    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    @pytest.mark.parametrize("case", sorted(FIXTURES.glob("z[12]_*")), ids=lambda case: case.name)
    def test_as_in_the_engine(self, case: Path, dtype: str, tmp_path: Path) -> None:
        report = consolidate(case / "checkpoint", tmp_path / "out", dtype=dtype, check="all")
        written: dict[str, torch.Tensor] = {}
        for path in (tmp_path / "out").glob("*.safetensors"):
            written |= load_file(path)
        live_values.assert_same(written, live_values.expected(case, live_values.TORCH[dtype]))
        consolidate(case / "checkpoint", tmp_path / "copied", dtype=dtype, reflink="never")
        assert tensors(tmp_path / "out") == tensors(tmp_path / "copied")
        assert zeroconsolidate.verify(tmp_path / "out", against=case / "checkpoint").ok
        assert not report.differing

    @pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.name)
    def test_as_when_copied(self, case: Path, tmp_path: Path) -> None:
        dtype, made = "fp16" if "fp16" in case.name else "bf16", {}
        for reflink in ("auto", "never"):
            try:
                report = consolidate(
                    case / "checkpoint", tmp_path / reflink, dtype=dtype, reflink=reflink, weights_only=True
                )
            except ZeroConsolidateError as error:
                made[reflink] = (type(error), str(error).replace(reflink, ""))
                continue
            assert not report.differing
            made[reflink] = tensors(tmp_path / reflink)
        assert made["auto"] == made["never"]

    @pytest.mark.parametrize(
        "case", ["z1_bf16", "z2_bf16", "z2_groups", "z1_fp16", "z2_fp16", "layouts/z0_bf16", "layouts/z0_fp16"]
    )
    def test_some_are_cloned(self, case: str, tmp_path: Path) -> None:
        """So that the first test is one."""
        dtype = "fp16" if case.endswith("fp16") else "bf16"
        report = consolidate(FIXTURES / case / "checkpoint", tmp_path / "out", dtype=dtype, reflink="always")
        assert report.cloned_bytes
        assert any("against the copy in 16 bits that was cloned: equal" in text for text in report.checks)

    def test_both_are_read(self, checkpoint: Path, tmp_path: Path) -> None:
        before = zeroconsolidate.estimate(checkpoint, tmp_path / "out", names="stored", dtype="bf16")
        report = consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        copied = consolidate(checkpoint, tmp_path / "copied", dtype="bf16", reflink="never")
        assert report.cloned_bytes > 0.98 * report.bytes_written
        assert 1.48 < report.bytes_read / copied.bytes_read < 1.5
        assert (before.input_bytes, before.cloned_bytes) == (report.bytes_read, report.cloned_bytes)

    def test_another_dtype_than_the_module_has_is_cast(self, checkpoint: Path, tmp_path: Path) -> None:
        report = consolidate(checkpoint, tmp_path / "out", dtype="fp16", reflink="auto")
        copied = consolidate(checkpoint, tmp_path / "copied", dtype="fp16", reflink="never")
        assert report.cloned_bytes < 200
        assert report.bytes_read == copied.bytes_read - report.cloned_bytes

    @pytest.mark.parametrize("stage", [1, 2])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_of_any_number_of_threads(
        self, tmp_path: Path, stage: int, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execute, "PIECE_BYTES", 1 << 16)
        root = checkpoint_in(tmp_path, stage=stage, megabytes=6)
        straight = consolidate(root, tmp_path / "straight", dtype="bf16", workers=2)
        report = consolidate(root, tmp_path / "out", dtype="bf16", workers=workers, digest="sha256")
        consolidate(root, tmp_path / "copied", dtype="bf16", reflink="never")
        assert report.cloned_bytes == straight.cloned_bytes
        assert tensors(tmp_path / "out") == tensors(tmp_path / "copied")
        assert zeroconsolidate.verify(tmp_path / "out").ok


class TestThatDiffers:
    """The masters are the truth."""

    def test_one_bit_of_one_tensor(self, checkpoint: Path, tmp_path: Path) -> None:
        straight = consolidate(checkpoint, tmp_path / "straight", dtype="bf16")
        bend(checkpoint, LARGE, 10_000)
        report = consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert tensors(tmp_path / "out") == tensors(tmp_path / "straight")
        assert report.differing == {LARGE: 1}
        assert report.warnings == (
            (
                "the checkpoint's copy in 16 bits differs from the rounded master weights, which were written, in "
                f"1 value: {LARGE}"
            ),
        )
        assert not any("that was cloned: equal" in text for text in report.checks)
        assert 0 < straight.cloned_bytes - report.cloned_bytes <= 2 * MB
        assert 0 <= report.bytes_read - straight.bytes_read < 200
        assert zeroconsolidate.verify(tmp_path / "out").ok

    @pytest.mark.parametrize("reflink", ["auto", "always"])
    def test_all_of_them(self, checkpoint: Path, tmp_path: Path, reflink: str) -> None:
        shapes = consolidate(checkpoint, tmp_path / "copied", dtype="bf16", reflink="never")
        model = torch.load(checkpoint / "global_step5/mp_rank_00_model_states.pt", weights_only=False)
        model["module"] = {
            name: value * 2 + 1 if value.is_floating_point() else value for name, value in model["module"].items()
        }
        torch.save(model, checkpoint / "global_step5/mp_rank_00_model_states.pt")
        report = consolidate(checkpoint, tmp_path / "out", dtype="bf16", reflink=reflink, check="none")
        assert tensors(tmp_path / "out") == tensors(tmp_path / "copied")
        assert report.cloned_bytes < 200
        assert sum(report.differing.values()) > 0.99 * shapes.parameters

    def test_where_the_default_check_sees_it_is_an_error_as_ever(self, checkpoint: Path, tmp_path: Path) -> None:
        bend(checkpoint, LARGE, 0)
        with pytest.raises(WitnessMismatch):
            consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert not (tmp_path / "out").exists()
        assert consolidate(checkpoint, tmp_path / "out", dtype="bf16", check="none").differing == {LARGE: 1}

    def test_where_an_interrupted_run_has_counted_it_already(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(part, "SYNC_BYTES", 1)
        monkeypatch.setattr(execute, "PIECE_BYTES", 1 << 16)
        for element in (10_000, 100_000, 120_000):
            bend(checkpoint, LARGE, element)
        consolidate(checkpoint, tmp_path / "straight", dtype="bf16")
        for share in (0.2, 0.4, 0.5, 0.7):

            def stop(done: int, total: int, share: float = share) -> None:
                if done > share * total:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                consolidate(checkpoint, tmp_path / "out", dtype="bf16", progress=stop)
        report = consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert report.resumed_bytes > 0.6 * report.bytes_written
        assert report.differing == {LARGE: 3}
        assert contents(tmp_path / "out") == contents(tmp_path / "straight")

    def test_by_many_workers(self, checkpoint: Path, tmp_path: Path) -> None:
        for element in (10_000, 120_000):
            bend(checkpoint, LARGE, element)
        straight = consolidate(checkpoint, tmp_path / "straight", dtype="bf16")
        with ThreadPoolExecutor(2) as executor:
            spread = consolidate(checkpoint, tmp_path / "spread", dtype="bf16", executor=executor)
        for number in (1, 2, 3):
            zeroconsolidate.consolidate_part(
                checkpoint, tmp_path / "parts", f"{number}/3", names="stored", dtype="bf16"
            )
        parts = zeroconsolidate.finish_parts(checkpoint, tmp_path / "parts", names="stored", dtype="bf16")
        for report, where in ((spread, "spread"), (parts, "parts")):
            assert report.differing == straight.differing == {LARGE: 2}
            assert straight.cloned_bytes - MB < report.cloned_bytes <= straight.cloned_bytes
            assert contents(tmp_path / where) == contents(tmp_path / "straight")


class TestOtherMeanings:
    """Where the values that are written are not the masters of one whole checkpoint, no copy stands for them."""

    def test_a_mean_is_of_no_copy(self, checkpoint: Path, tmp_path: Path) -> None:
        shutil.copytree(checkpoint, tmp_path / "other")
        options = {"dtype": "bf16", "average": "uniform"}
        report = zeroconsolidate.consolidate(
            [checkpoint, tmp_path / "other"], tmp_path / "out", names="stored", **options
        )
        assert report.cloned_bytes < 200
        assert not report.differing

    def test_what_was_rescued_is_of_no_copy(self, checkpoint: Path, tmp_path: Path) -> None:
        next((checkpoint / "global_step5").glob("*rank_2_*optim*")).unlink()
        made = {}
        for reflink in ("auto", "never"):
            report = consolidate(checkpoint, tmp_path / reflink, dtype="bf16", reflink=reflink, rescue=True)
            made[reflink] = tensors(tmp_path / reflink)
            assert not report.differing
        assert made["auto"] == made["never"]

    def test_merged_adapters(self, tmp_path: Path) -> None:
        case, base = FIXTURES / "models/lora_z2/checkpoint", FIXTURES / "models/_bases/llama"
        made = {}
        for reflink in ("auto", "never"):
            options = {"lora": "merge", "base": base, "dtype": "bf16", "reflink": reflink}
            report = zeroconsolidate.consolidate(case, tmp_path / reflink, **options)
            made[reflink] = tensors(tmp_path / reflink)
            assert not report.differing
        assert made["auto"] == made["never"]


class TestTheCall:
    @pytest.mark.parametrize("number", sorted(CANNOT), ids=lambda number: errno.errorcode[number])
    def test_what_cannot_be_cloned_is_copied(
        self, checkpoint: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = consolidate(checkpoint, tmp_path / "straight", dtype="bf16")
        refuse(monkeypatch, number)
        report = consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert straight.cloned_bytes > 0 == report.cloned_bytes
        assert 0 <= report.bytes_read - straight.bytes_read < 200
        assert contents(tmp_path / "out") == contents(tmp_path / "straight")

    def test_always_fails_where_one_block_cannot(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(monkeypatch, errno.EXDEV, after=1)
        with pytest.raises(OutputFailed, match="the file system does not share blocks of this file"):
            consolidate(checkpoint, tmp_path / "out", dtype="bf16", reflink="always")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_what_fails_is_an_error(
        self, checkpoint: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        consolidate(checkpoint, tmp_path / "straight", dtype="bf16")
        with monkeypatch.context() as patch:
            refuse(patch, number, after=3)
            with pytest.raises(OutputFailed) as raised:
                consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert raised.value.errno == number
        consolidate(checkpoint, tmp_path / "out", dtype="bf16")
        assert contents(tmp_path / "out") == contents(tmp_path / "straight")

    @pytest.mark.parametrize("reflink", ["auto", "always"])
    def test_a_module_that_has_become_shorter_is_damaged(self, checkpoint: Path, tmp_path: Path, reflink: str) -> None:
        def shorten(what: str) -> None:
            if what == "copying":
                os.truncate(checkpoint / "global_step5/mp_rank_00_model_states.pt", MB)

        with pytest.raises(DamagedFile, match="the file was changed while it was being read"):
            consolidate(checkpoint, tmp_path / "out", dtype="bf16", status=shorten, reflink=reflink)
        assert not (tmp_path / "out/config.json").exists()
        assert not list((tmp_path / "out").glob("*.safetensors"))

    def test_a_module_that_is_written_to_meanwhile_is_noticed(self, checkpoint: Path, tmp_path: Path) -> None:
        """Behind the comparison, before the end."""

        def overwrite(what: str) -> None:
            if what == "syncing":
                bend(checkpoint, LARGE, 10_000)

        with pytest.raises(DamagedFile, match="the file was changed while it was being converted"):
            consolidate(checkpoint, tmp_path / "out", dtype="bf16", status=overwrite)
        assert not list((tmp_path / "out").glob("*.safetensors"))


def refuse(patch: pytest.MonkeyPatch, number: int, *, after: int = 0) -> None:
    """Have calls fail, all after so many."""
    real, calls = local_output.clone, list[int]()

    def clone(source: int, *ranges: int) -> None:
        calls.append(source)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        real(source, *ranges)

    patch.setattr(local_output, "clone", clone)
