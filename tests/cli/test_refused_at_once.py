"""What cannot work is refused before transformers is asked and before a value is read; a dry run refuses the same."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zero_model
from command import WITHOUT_PRIVILEGES, python, refusal
from fixtures import FIXTURES

from zeroconsolidate import consolidate
from zeroconsolidate.api.converting import dry_run
from zeroconsolidate.cli import main
from zeroconsolidate.errors import (
    BadOption,
    MissingPackage,
    OutputExists,
    OutputFailed,
    WrongNames,
    ZeroConsolidateError,
)
from zeroconsolidate.naming import asking
from zeroconsolidate.run import inputs
from zeroconsolidate.write import refusals

if TYPE_CHECKING:
    from collections.abc import Callable

TRAINER = FIXTURES / "trainer_zero3_tied/checkpoint"
UNNAMED = FIXTURES / "layouts/legacy_z0/checkpoint"
"""Of stage 0: which master is which parameter, only values tell."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking transformers and opening a file for its values are errors here: they may take seconds or minutes."""

    def never(*_: object) -> Any:
        raise AssertionError("this takes too long to come before a refusal")

    monkeypatch.setattr(asking, "ask", never)
    monkeypatch.setattr(inputs.Inputs, "__enter__", never)


def taken(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").touch()
    return tmp_path / "out"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"include": "nothing*"}, r'include="nothing\*" matches no tensor'),
    ({"include": ["*", "model.embed_tokns.weight"]}, r'include="model.embed_tokns.weight" matches no .*nearest names '
     r"are model\.embed_tokens\.weight and"),
    ({"exclude": "*"}, "nothing is left to write: the options exclude every tensor"),
    ({"max_shard_size": "5"}, "a size needs a unit"),
    ({"lora": "merge"}, "the checkpoint has no PEFT adapters: lora and adapters do not apply"),
    ({"adapters": "default"}, "the checkpoint has no PEFT adapters"),
    ({"rename": "no rule"}, "rename takes FROM=TO"),
    ({"base": "no/such/base/model"}, "no such directory: no/such/base/model"),
    ({"digest": "xxh3"}, "the digest xxh3 needs xxhash, which is not installed"),
]  # fmt: skip


class TestAtOnce:
    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("verb", [consolidate, dry_run])
    @pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
    def test_options(
        self, tmp_path: Path, verb: Callable[..., Any], options: dict[str, Any], message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setitem(__import__("sys").modules, "xxhash", None)
        with pytest.raises((BadOption, MissingPackage), match=message):
            verb(TRAINER, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("verb", [consolidate, dry_run])
    def test_an_output_that_is_not_empty(self, tmp_path: Path, verb: Callable[..., Any]) -> None:
        with pytest.raises(
            OutputExists, match=r"the output directory is not empty \(x\); replace its model with overwrite=True"
        ):
            verb(TRAINER, taken(tmp_path))

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("verb", [consolidate, dry_run])
    @pytest.mark.parametrize("option", ["base", "fill"])
    def test_an_output_that_is_read(self, tmp_path: Path, verb: Callable[..., Any], option: str) -> None:
        """It would be replaced by what is made of it, and nothing could be compared with it or continued."""
        model = taken(tmp_path)
        options = {"base": {"base": model}, "fill": {"fill": model, "rescue": True}}[option]
        with pytest.raises(BadOption, match="which is read to make it; name another directory"):
            verb(TRAINER, f"{model}/../{model.name}", overwrite=True, **options)

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("verb", [consolidate, dry_run])
    def test_an_output_that_is_a_file(self, tmp_path: Path, verb: Callable[..., Any]) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(OutputExists, match="the output is a file; expected a directory or nothing"):
            verb(TRAINER, tmp_path / "out")

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("verb", [consolidate, dry_run])
    @pytest.mark.parametrize("where", [".", "out", "global_step3/out"])
    def test_an_output_in_the_checkpoint(self, tmp_path: Path, verb: Callable[..., Any], where: str) -> None:
        shutil.copytree(TRAINER, tmp_path / "c")
        with pytest.raises(BadOption, match=r"lies in the checkpoint .*, which is never modified; name another"):
            verb(tmp_path / "c", tmp_path / "c" / where)

    @pytest.mark.usefixtures("patient")
    def test_pooling_without_a_size(self, tmp_path: Path) -> None:
        shutil.copytree(TRAINER, tmp_path / "c")
        for config, found in (
            ("{}", "a config.json without hidden_size"),
            (None, "no config.json; add one with base="),
        ):
            if config is None:
                (tmp_path / "c/config.json").unlink()
            else:
                (tmp_path / "c/config.json").write_text(config)
            with pytest.raises(BadOption, match=f"sentence-transformers needs the size of an embedding; got {found}"):
                consolidate(tmp_path / "c", tmp_path / "out", sentence_transformers="cls")

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("options", [{"include": "nothing*"}, {}])
    def test_before_values_tell_which_parameter_is_which(self, tmp_path: Path, options: dict[str, Any]) -> None:
        out = tmp_path / "out" if options else taken(tmp_path)
        with pytest.raises(ZeroConsolidateError, match=r"matches no tensor|is not empty"):
            consolidate(UNNAMED, out, **options)

    def test_in_a_fraction_of_a_second(self, tmp_path: Path) -> None:
        """Counted in processor time, of a process that has imported the package: a busy machine is no error."""
        timed = (
            "import sys, time; from zeroconsolidate import api; from zeroconsolidate.cli import main\n"
            "before = time.process_time(); code = main(sys.argv[1:])\n"
            "print(code, time.process_time() - before < 0.2)"
        )
        for words in ([TRAINER, taken(tmp_path)], [TRAINER, tmp_path / "new", "--include", "nothing*"]):
            assert python(timed, "convert", *words).stdout == "2 True\n"


class TestDryRun:
    def test_it_writes_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert main(["convert", str(FIXTURES / "z3_bf16/checkpoint"), str(tmp_path / "new/out"), "--dry-run"]) == 0
        assert sorted(tmp_path.rglob("*")) == before
        assert "19 tensors" in capsys.readouterr().out

    @staticmethod
    def full(path: Any, real: Callable[[Any], os.statvfs_result] = os.statvfs) -> os.statvfs_result:
        """What a disk says that has no room."""
        found = list(real(path))
        found[4] = 0  # f_bavail
        return os.statvfs_result(found)

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        groups = [{"weight": torch.zeros(50_000)}]
        return zero_model.save(zero_model.example(2, groups=groups, ties={}), tmp_path / "c")

    def test_a_disk_that_is_too_small(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(refusals.os, "statvfs", self.full)
        with pytest.raises(
            OutputFailed, match=r"the disk has too little room; expected 203 KB free, got 0 B \(at .*/a/b"
        ):
            dry_run(checkpoint, tmp_path / "a/b")
        with pytest.raises(OutputFailed, match="the disk has too little room; expected 203 KB free, got "):
            consolidate(checkpoint, tmp_path / "a/b")
        assert not (tmp_path / "a").exists()

    def test_what_is_staged_is_counted_in(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "out/.zeroconsolidate/files").mkdir(parents=True)
        (tmp_path / "out/.zeroconsolidate/files/model.safetensors").write_bytes(bytes(300_000))
        monkeypatch.setattr(refusals.os, "statvfs", self.full)
        assert dry_run(checkpoint, tmp_path / "out").cost.files == 1

    def test_work_of_another_conversion_that_is_staged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint, out = FIXTURES / "z3_bf16/checkpoint", tmp_path / "out"

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("zeroconsolidate.outputs.make.refuse_changed", interrupted)
            consolidate(checkpoint, out)
        assert dry_run(checkpoint, out).cost.tensors == 19
        for verb in (dry_run, consolidate):
            with pytest.raises(BadOption) as refused:
                verb(checkpoint, out, dtype="bf16")
            said = str(refused.value)
            assert "with other options or input: dtype was 'fp32', is 'bf16'; start over with restart=True" in said
            assert "header" not in said
        assert dry_run(checkpoint, out, dtype="bf16", restart=True).cost.tensors == 19
        (out / "mine.txt").touch()
        for verb in (dry_run, consolidate):
            with pytest.raises(OutputExists, match=r"is not empty \(mine\.txt\)"):
                verb(checkpoint, out)

    def test_names_that_a_loader_would_not_find(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        shutil.copytree(TRAINER, tmp_path / "c")
        config = json.loads((tmp_path / "c/config.json").read_text())
        (tmp_path / "c/config.json").write_text(json.dumps(config | {"num_hidden_layers": 9, "layer_types": None}))
        for verb in (dry_run, consolidate):
            with pytest.raises(WrongNames, match=r"num_hidden_layers=2, by their layers"):
                verb(tmp_path / "c", tmp_path / "out")

    def test_a_folder_that_may_not_be_written(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            zero_model.save(zero_model.example(2), folder / "c")
            for path in folder.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            folder.chmod(0o555)
            said = refusal(python(WITHOUT_PRIVILEGES, "convert", folder / "c", folder / "new/out", "--dry-run"))
        assert said == f"the output cannot be written: permission denied (at {folder}/new/out)"

    def test_a_path_through_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputFailed, match="the output cannot be written: not a directory"):
            dry_run(FIXTURES / "z3_bf16/checkpoint", tmp_path / "file/out")
