"""What an output lacks or holds less of is said, with the option that changes it; and nothing that is not so."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from command import zeroconsolidate
from fixtures import FIXTURES

from zeroconsolidate import consolidate, verify
from zeroconsolidate.api.converting import dry_run
from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor
from zeroconsolidate.dtypes import DType
from zeroconsolidate.options import Options
from zeroconsolidate.outputs import remarks
from zeroconsolidate.plan.build import ModelPlan, Selection, Source, build
from zeroconsolidate.plan.pieces import View

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = FIXTURES / "trainer_zero3_tied/checkpoint"
PLAIN = FIXTURES / "z3_bf16/checkpoint"


class TestATagsFolder:
    """`global_stepN` itself was given."""

    @pytest.fixture
    def alone(self, tmp_path: Path) -> Path:
        """A tag that was copied out of its checkpoint."""
        shutil.copytree(PLAIN / "global_step2", tmp_path / "srv/global_step2")
        return tmp_path / "srv/global_step2"

    def test_the_shards_are_no_unknown_files(self, alone: Path, tmp_path: Path) -> None:
        report = consolidate(alone, tmp_path / "out")
        assert report.warnings == ()
        assert report.left_behind == ()
        (alone / "strange.txt").touch()
        report = consolidate(alone, tmp_path / "again")
        assert report.warnings == ("not copied, because not known to belong to a model: strange.txt",)

    @pytest.mark.parametrize("folder", ["offloaded_tensors", "zero"])
    def test_nor_are_deepspeeds_folders(self, tmp_path: Path, folder: str) -> None:
        layout = {"offloaded_tensors": "nvme_z3", "zero": "universal_z2"}[folder]
        found = next((FIXTURES / "layouts").glob(f"{layout}*/checkpoint/*/{folder}"), None)
        if found is None:
            pytest.skip("there is no such fixture")
        shutil.copytree(found.parent, tmp_path / "srv" / found.parent.name)
        assert dry_run(tmp_path / "srv" / found.parent.name, tmp_path / "out").warnings == ()

    def test_what_adds_a_config_is_said(self, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        above = alone.parent
        lacks = "no config.json and no tokenizer in {} or {}: from_pretrained will fail; add them with --base DIR"
        assert consolidate(alone, tmp_path / "a").missing == (lacks.format(alone, above),)
        monkeypatch.chdir(alone)
        assert consolidate(".", tmp_path / "b").missing == (lacks.format(".", ".."),)
        monkeypatch.chdir(above)
        assert consolidate("global_step2", tmp_path / "c").missing == (lacks.format("global_step2", "."),)

    def test_one_in_the_folder_above_is_named_but_not_taken(self, alone: Path, tmp_path: Path) -> None:
        """It may be another run's: nothing there says that this is its checkpoint."""
        above = alone.parent
        (above / "config.json").write_text("{}")
        report = consolidate(alone, tmp_path / "a")
        assert report.missing[0].endswith(f"add them with --base {above}")
        assert "config.json" not in report.files
        (above / "latest").write_text("global_step2")
        report = consolidate(alone, tmp_path / "b")
        assert "config.json" in report.files
        assert report.missing == (f"no tokenizer in {above}: AutoTokenizer will fail; add it with --base DIR",)


class TestMissing:
    def test_nothing(self, tmp_path: Path) -> None:
        assert consolidate(TRAINER, tmp_path / "out").missing == ()

    def test_the_base_was_looked_into_too(self, tmp_path: Path) -> None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base/config.json").write_text("{}")
        report = consolidate(PLAIN, tmp_path / "out", base=tmp_path / "base", names="stored")
        assert report.missing == (
            f"no tokenizer in {PLAIN} or {tmp_path / 'base'}: AutoTokenizer will fail; add it with --base DIR",
        )


class TestPartialModels:
    @pytest.mark.parametrize(
        ("options", "written", "flags"),
        [
            ({"include": "*embed*"}, 1, "--include"),
            ({"exclude": "*embed*", "include": "*layers*"}, 24, "--include and --exclude"),
        ],
    )
    def test_what_a_loader_fills_with_random_values_is_said(
        self, tmp_path: Path, options: dict[str, str], written: int, flags: str
    ) -> None:
        warnings = consolidate(TRAINER, tmp_path / "out", **options).warnings
        assert warnings[-1] == (
            f"only part of the model: {written} of 26 tensors are written, because of {flags}: from_pretrained will "
            "give the others random values"
        )
        assert dry_run(TRAINER, tmp_path / "dry", **options).warnings == warnings

    def test_whole_models_and_models_nobody_loads(self, tmp_path: Path) -> None:
        assert consolidate(TRAINER, tmp_path / "a", include="*").warnings == ()
        assert consolidate(TRAINER, tmp_path / "b", exclude="*v_head*").warnings == (
            "--exclude '*v_head*' matches no tensor of the checkpoint",
        )
        assert consolidate(PLAIN, tmp_path / "c", include="embed*").warnings == ()

    def test_verify_says_so_too(self, tmp_path: Path) -> None:
        consolidate(TRAINER, tmp_path / "a", include="*embed*")
        notes = verify(tmp_path / "a").notes
        assert "only part of a model: it was written with --include *embed*" in notes
        printed = zeroconsolidate("verify", tmp_path / "a").stdout
        assert printed.startswith(f"{tmp_path}/a: nothing is wrong, but it is only part of a model\n")
        consolidate(TRAINER, tmp_path / "b")
        assert not any("whole model" in note for note in verify(tmp_path / "b").notes)


class TestLargeModels:
    @staticmethod
    def planned(options: Options, gigabytes: int) -> ModelPlan:
        """A model of tensors of 10 GB each."""
        numel = 10**10 // 4
        storage = LocatedStorage(file="r0", key="0", start=0, numel=numel, dtype=DType.F32, big_endian=False)
        recipe = View(LocatedTensor(storage, 0, (numel,), (1,)))
        named = {
            f"w{i}": Source(name=f"w{i}", shape=(recipe.numel,), recipe=recipe, role="trainable")
            for i in range(gigabytes // 10)
        }
        selection = Selection(named=named, left_out=())
        return build(selection, dtype=None, max_shard_bytes=options.max_shard_bytes, padding_bytes=0)

    def test_more_than_50_gb_are_split_and_it_is_said(self) -> None:
        plan = self.planned(Options(), 280)
        assert max(file.size_bytes for file in plan.files) < 50.1e9
        assert remarks.notes(Options(), plan) == (
            "280 GB in 6 files of at most 50GB; --max-shard-size none writes one file",
        )

    @pytest.mark.parametrize("given", ["none", None, "100GB", "5GB"])
    def test_whoever_asked_for_something_is_told_nothing(self, given: str | None) -> None:
        options = Options(max_shard_size=given)
        plan = self.planned(options, 280)
        assert len(plan.files) == {"none": 1, None: 1, "100GB": 3, "5GB": 28}[given]
        assert remarks.notes(options, plan) == ()

    def test_less_is_one_file(self) -> None:
        plan = self.planned(Options(), 50)
        assert [file.name for file in plan.files] == ["model.safetensors"]
        assert remarks.notes(Options(), plan) == ()

    def test_one_file_of_any_size(self, tmp_path: Path) -> None:
        for number, given in enumerate((None, "none")):
            report = consolidate(PLAIN, tmp_path / str(number), max_shard_size=given)
            assert [name for name in report.files if name.startswith("model")] == ["model.safetensors"]
            manifest = json.loads((tmp_path / str(number) / "zeroconsolidate.json").read_text())
            assert manifest["options"]["max_shard_size"] is None


def test_the_working_directory_is_a_place_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(PLAIN, tmp_path / "c")
    monkeypatch.chdir(tmp_path / "c")
    assert consolidate(".", os.fspath(tmp_path / "out")).missing[0].startswith("no config.json and no tokenizer in .: ")
