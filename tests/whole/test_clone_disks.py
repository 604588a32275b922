"""Clones on file systems that share blocks: the same tensors as when copied, without room of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import synthetic
import torch
from cloned import bend, checkpoint_in, consolidate, tensors
from command import REPOSITORY
from disks import MAKERS, Disk, disk
from fixtures import FIXTURES
from folders import contents

import zeroconsolidate
from zeroconsolidate.api.universal import dry_run_universal
from zeroconsolidate.errors import BadOption, OutputFailed, ZeroConsolidateError
from zeroconsolidate.plan import congruent, fragment
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

MB = 1 << 20
CASES = sorted(path.parent for path in FIXTURES.rglob("provenance.json") if (path.parent / "checkpoint").is_dir())
MODULES = [
    case
    for case in CASES
    if "_z2" in case.name or case.name.startswith("trainer_zero2")
    if case.parent.name in ("models", "sentence_transformers", "fixtures") and "lora" not in case.name
]
"""Those whose copy in 16 bits may have tensors of a block or more. Others are in test_clone_module.py."""


@pytest.fixture(scope="module", params=MAKERS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """One file system for all tests: a test takes a folder of its own in it."""
    yield from disk(request.param, tmp_path_factory.mktemp("disk"))


@pytest.fixture
def place(shared: Disk) -> Iterator[Path]:
    folder = shared.folder / "test"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of kilobytes are cloned, too."""
    monkeypatch.setattr(congruent, "LEAST_FILE_BYTES", 1)
    monkeypatch.setattr(congruent, "LEAST_SHARE", 0)


class TestTheSameTensors:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.relative_to(FIXTURES)))
    def test_of_every_fixture(self, case: Path, place: Path) -> None:
        shutil.copytree(case / "checkpoint", place / "checkpoint", dirs_exist_ok=True)
        made = {}
        for reflink in ("auto", "never"):
            try:
                report = consolidate(place / "checkpoint", place / reflink, reflink=reflink, weights_only=True)
            except ZeroConsolidateError as error:
                made[reflink] = (type(error), str(error).replace(reflink, ""))
                continue
            made[reflink] = tensors(place / reflink)
            assert reflink == "auto" or not report.cloned_bytes
        assert made["auto"] == made["never"]

    @pytest.mark.parametrize("case", MODULES, ids=lambda case: str(case.relative_to(FIXTURES)))
    def test_of_every_fixture_in_its_own_16_bits(self, case: Path, place: Path) -> None:
        """Cloned from the module, and cast from the masters."""
        shutil.copytree(case / "checkpoint", place / "checkpoint", dirs_exist_ok=True)
        made = {}
        for reflink in ("auto", "never"):
            try:
                report = consolidate(
                    place / "checkpoint", place / reflink, reflink=reflink, dtype="auto", weights_only=True
                )
            except ZeroConsolidateError as error:
                made[reflink] = (type(error), str(error).replace(reflink, ""))
                continue
            made[reflink] = tensors(place / reflink)
            assert not report.differing
        assert made["auto"] == made["never"]

    @pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
    @pytest.mark.parametrize("stage", [2, 3])
    def test_with_rests_at_both_ends_of_every_extent(self, place: Path, stage: int, ranks: int) -> None:
        """Odd sizes, odd numbers of ranks."""
        root = place / "checkpoint-5"
        synthetic.write(root, synthetic.values_of(synthetic.shapes_of(2)), stage=stage, ranks=ranks)
        report = consolidate(root, place / "out")
        consolidate(root, place / "copied", reflink="never")
        assert report.cloned_bytes > 0
        assert tensors(place / "out") == tensors(place / "copied")

    def test_some_fixtures_have_tensors_larger_than_a_block(self, place: Path) -> None:
        """So that the first test is one."""
        cloned = []
        for case in (FIXTURES / "models").glob("*_z[23]"):
            if "lora" not in case.name and "dora" not in case.name:
                shutil.copytree(case / "checkpoint", place / case.name / "checkpoint")
                cloned.append(consolidate(place / case.name / "checkpoint", place / case.name / "out").cloned_bytes)
        assert len(cloned) > 10
        assert all(cloned)

    def test_and_some_copies_in_16_bits_have(self, place: Path) -> None:
        """So that the second test is one."""
        for case in ("models/llm_untied_z2", "models/m3_z2", "trainer_zero2_bf16"):
            assert FIXTURES / case in MODULES
            shutil.copytree(FIXTURES / case / "checkpoint", place / case)
            report = consolidate(place / case, place / "out" / case, dtype="auto", reflink="always")
            assert report.cloned_bytes > 0


class TestWhatIsShared:
    @pytest.mark.parametrize("stage", [2, 3])
    def test_takes_next_to_no_room(self, shared: Disk, place: Path, stage: int) -> None:
        checkpoint = checkpoint_in(place, stage=stage)
        before = shared.used_bytes()
        report = consolidate(checkpoint, place / "out", reflink="always")
        assert report.cloned_bytes > 0.85 * report.bytes_written
        assert shared.used_bytes() - before < 0.25 * report.bytes_written
        assert report.bytes_read < 0.15 * report.bytes_written

    def test_so_does_a_copy_in_16_bits(self, shared: Disk, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=2)
        before = shared.used_bytes()
        report = consolidate(checkpoint, place / "out", dtype="bf16", reflink="always", digest="sha256")
        assert report.cloned_bytes > 0.85 * report.bytes_written
        assert shared.used_bytes() - before < 0.25 * report.bytes_written
        consolidate(checkpoint, place / "copied", dtype="bf16", reflink="never")
        shutil.rmtree(checkpoint)
        for path in (place / "out").rglob("*.safetensors"):
            shared.forget(path)
        assert tensors(place / "out") == tensors(place / "copied")
        assert zeroconsolidate.verify(place / "out").ok

    def test_where_one_bit_of_it_differs_the_masters_are_written(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=2)
        straight = consolidate(checkpoint, place / "straight", dtype="bf16")
        bend(checkpoint, "layers.2.up.weight", 100_000)
        report = consolidate(checkpoint, place / "out", dtype="bf16")
        assert tensors(place / "out") == tensors(place / "straight")
        assert report.differing == {"layers.2.up.weight": 1}
        assert 0 < straight.cloned_bytes - report.cloned_bytes <= 2 * MB
        assert zeroconsolidate.verify(place / "out", against=checkpoint).ok

    def test_never_shares_nothing(self, shared: Disk, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        before = shared.used_bytes()
        report = consolidate(checkpoint, place / "out", reflink="never")
        assert report.cloned_bytes == 0
        assert shared.used_bytes() - before > 0.95 * report.bytes_written
        assert [path.name for path in (place / "out").glob("*.safetensors")] == ["model.safetensors"]

    def test_needs_no_room_for_what_is_shared(self, shared: Disk, place: Path) -> None:
        if shared.kind == "btrfs":
            pytest.skip("a full Btrfs has no room for metadata either")
        checkpoint = checkpoint_in(place, stage=3)
        shared.used_bytes()
        status = os.statvfs(place)
        with (place / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - 16 * MB)
        shared.used_bytes()
        with pytest.raises(OutputFailed, match="the disk has too little room"):
            consolidate(checkpoint, place / "copied", reflink="never")
        assert consolidate(checkpoint, place / "out").cloned_bytes > 16 * MB

    @pytest.mark.parametrize("gone", ["checkpoint", "out"])
    def test_each_outlives_the_other(self, shared: Disk, place: Path, gone: str) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        consolidate(checkpoint, place / "out", reflink="always")
        kept = checkpoint if gone == "out" else place / "out"
        before = contents(kept)
        if gone == "out":
            shutil.rmtree(place / "out")
        else:
            for path in sorted(checkpoint.rglob("*.pt")):  # overwritten first, as a run that goes on would
                path.write_bytes(b"\xff" * path.stat().st_size)
            shutil.rmtree(checkpoint)
        for path in kept.rglob("*"):
            if path.is_file():
                shared.forget(path)
        assert contents(kept) == before

    def test_the_checkpoint_is_as_it_was(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=2)
        before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in checkpoint.rglob("*")}
        consolidate(checkpoint, place / "out", reflink="always")
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in checkpoint.rglob("*")} == before

    def test_is_what_was_announced(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        cost = zeroconsolidate.estimate(checkpoint, place / "out", names="stored")
        report = consolidate(checkpoint, place / "out")
        assert cost.cloned_bytes == report.cloned_bytes > 0
        assert (cost.output_bytes, cost.input_bytes) == (report.bytes_written, report.bytes_read)
        assert zeroconsolidate.estimate(checkpoint, names="stored").cloned_bytes == 0
        assert sorted(path.name for path in place.iterdir()) == ["out", "z3"]


class TestUniversal:
    """Fragments are cloned where a tensor is larger than a block, and files beside them that are copied whole."""

    @pytest.fixture(autouse=True)
    def small_ones_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fragment, "LEAST_SHARED_BYTES", 1)

    @pytest.mark.parametrize("case", ["llm_untied_z2", "m3_z3", "mixtral_z3"])
    def test_torch_finds_the_same_in_it(self, shared: Disk, place: Path, case: str) -> None:
        checkpoint = place / "checkpoint"
        shutil.copytree(FIXTURES / "models" / case / "checkpoint", checkpoint)
        shared.used_bytes()
        report = zeroconsolidate.universal(checkpoint, place / "out", digest="sha256")
        assert not zeroconsolidate.universal(checkpoint, place / "copied", reflink="never").cloned_bytes
        assert zeroconsolidate.verify(place / "out").ok
        assert zeroconsolidate.verify(place / "out", against=checkpoint).ok
        shutil.rmtree(checkpoint)
        for path in (place / "out").rglob("*.pt"):
            shared.forget(path)
        assert zeroconsolidate.verify(place / "out").ok
        assert report.cloned_bytes
        names = sorted(path.relative_to(place / "out") for path in (place / "out").rglob("zero/*/*.pt"))
        assert names == sorted(path.relative_to(place / "copied") for path in (place / "copied").rglob("zero/*/*.pt"))
        for name in names:
            found, copied = (torch.load(place / root / name, weights_only=False) for root in ("out", "copied"))
            if name.name == "step.pt":
                assert found == copied
                continue
            assert torch.equal(found.pop("param"), copied.pop("param"))
            assert found == copied

    def test_says_what_is_cloned_beforehand(self, place: Path) -> None:
        checkpoint = place / "checkpoint"
        shutil.copytree(FIXTURES / "models" / "m3_z3" / "checkpoint", checkpoint)
        expected = dry_run_universal(checkpoint, place / "out", reflink="always").cost
        report = zeroconsolidate.universal(checkpoint, place / "out", reflink="always")
        assert report.cloned_bytes == expected.cloned_bytes > 0

    def test_always_says_why_not(self, place: Path, tmp_path: Path) -> None:
        checkpoint = place / "checkpoint"
        shutil.copytree(FIXTURES / "models" / "m3_z3" / "checkpoint", checkpoint)
        with pytest.raises(BadOption, match="cannot share blocks with the checkpoint"):
            zeroconsolidate.universal(checkpoint, tmp_path / "out", reflink="always")
        assert not (tmp_path / "out").exists()


class TestElsewhere:
    def test_auto_copies_to_another_file_system(self, place: Path, tmp_path: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        report = consolidate(checkpoint, tmp_path / "out")
        assert report.cloned_bytes == 0
        assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]

    def test_always_says_why_not(self, place: Path, tmp_path: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        with pytest.raises(BadOption, match="cannot share blocks with the checkpoint"):
            consolidate(checkpoint, tmp_path / "out", reflink="always")
        assert not (tmp_path / "out").exists()


class TestAfterAPowerCut:
    @pytest.mark.parametrize(("stage", "dtype"), [(2, "fp32"), (3, "fp32"), (2, "bf16")])
    def test_what_is_published_is_whole(self, shared: Disk, place: Path, stage: int, dtype: str) -> None:
        """Even if the checkpoint itself was only in memory."""
        checkpoint = checkpoint_in(place, stage=stage)
        report = consolidate(checkpoint, place / "out", reflink="always", dtype=dtype)
        before = contents(place / "out")
        shared.lose_power()
        after = contents(place / "out")
        assert report.cloned_bytes
        assert {name: after[name] for name in before} == before

    def test_the_end_of_the_staging_folder_is_made_again(self, shared: Disk, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3)
        shared.used_bytes()  # which syncs it
        consolidate(checkpoint, place / "out", reflink="always", digest="sha256")
        before = contents(place / "out")
        shared.lose_power()
        if contents(place / "out") != before:
            consolidate(checkpoint, place / "out", reflink="always", digest="sha256")
        assert contents(place / "out") == before
        assert zeroconsolidate.verify(place / "out").ok

    @pytest.mark.parametrize("share", [0.3, 0.8])
    def test_the_rest_is_made_again(
        self, shared: Disk, place: Path, share: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(part, "SYNC_BYTES", 4 << 10)
        checkpoint = checkpoint_in(place, stage=3)
        consolidate(checkpoint, place / "straight", reflink="always")
        shared.used_bytes()  # which syncs the checkpoint and the other model: they are old
        straight = contents(place / "straight")

        class Cut(BaseException):
            pass

        def cut(done: int, total: int) -> None:
            if done > share * total:
                monkeypatch.setattr(part.Part, "sync", lambda self: None)
                raise Cut

        with pytest.raises(Cut):
            consolidate(checkpoint, place / "out", reflink="always", progress=cut)
        shared.lose_power()
        report = consolidate(checkpoint, place / "out", reflink="always")
        assert report.resumed_bytes > 0
        assert contents(place / "out") == straight


def test_killed_conversions_go_on(place: Path) -> None:
    """`tools/kill_rounds.py` makes more rounds."""
    tool = REPOSITORY / "tools/kill_rounds.py"
    options = ["--verb", "clone", "--rounds", "8", "--megabytes", "6", "--dir", str(place)]
    done = subprocess.run([sys.executable, str(tool), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
