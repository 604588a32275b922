"""`zeroconsolidate.zero_to_fp32` in the place of DeepSpeed's: the same results, and where not, a reason."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from command import REPOSITORY, environment
from drop_in import SCENARIOS, Scenario, case, differing, outcome
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import zero_to_fp32 as ours
from zeroconsolidate.errors import BadOption, OutputFailed

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    pytest.importorskip("deepspeed")
    from deepspeed.utils import zero_to_fp32

    return zero_to_fp32


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenarios(scenario: Scenario, theirs: ModuleType, tmp_path: Path) -> None:
    expected, found = outcome(scenario, theirs, tmp_path / "theirs"), outcome(scenario, ours, tmp_path / "ours")
    if not scenario.differs:
        expected = json.loads(json.dumps(expected, default=repr).replace(str(tmp_path / "theirs"), ""))
        found = json.loads(json.dumps(found, default=repr).replace(str(tmp_path / "ours"), ""))
        assert found == expected
        return
    assert found != expected
    for result, stated in ((expected, scenario.theirs), (found, scenario.ours)):
        if isinstance(result, str) and result.startswith("error: "):
            assert stated == result.removeprefix("error: ")
        else:
            assert not stated.endswith("Error")


def test_the_page_lists_what_differs() -> None:
    """docs/zero-to-fp32.md has a row for each scenario that differs."""
    page = (REPOSITORY / "docs/zero-to-fp32.md").read_text()
    for scenario in differing():
        assert f"| {scenario.name} | {scenario.theirs} | {scenario.ours} | {scenario.why} |" in page
    assert page.count("\n| ") >= len(list(differing()))
    assert f"{len(SCENARIOS)} scenarios" in page
    assert f"{len(SCENARIOS) - len(list(differing()))} have the same result" in page


def test_signatures(theirs: ModuleType) -> None:
    """The same names, order and defaults; only more can be said, and less need be."""
    for name in (
        "get_fp32_state_dict_from_zero_checkpoint",
        "convert_zero_checkpoint_to_fp32_state_dict",
        "convert_zero_checkpoint_to_state_dict",
        "load_state_dict_from_zero_checkpoint",
        "_get_fp32_state_dict_from_zero_checkpoint",
        "to_torch_tensor",
        "parse_model_states",
        "parse_optim_states",
        "get_model_state_file",
        "get_checkpoint_files",
        "get_optim_files",
        "get_model_state_files",
        "natural_keys",
        "atoi",
        "zero3_partitioned_param_info",
        "_resolve_output_dtype",
    ):
        own = [
            parameter
            for parameter in inspect.signature(getattr(ours, name)).parameters.values()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        other = list(inspect.signature(getattr(theirs, name)).parameters.values())
        assert [parameter.name for parameter in own] == [parameter.name for parameter in other], name
        for mine, its in zip(own, other, strict=True):
            assert mine.default == its.default or mine.name == "output_dir", (name, mine)
    home = theirs.__name__
    public = {name for name, value in vars(theirs).items() if getattr(value, "__module__", "") == home}
    inner = (
        "_get_fp32_state_dict_from_zero2",
        "_get_fp32_state_dict_from_zero3",
        "_zero2_",
        "_zero3_",
        "_has_",
        "_raise_",
    )
    merged = {name for name in public if name.startswith(inner)}
    assert public - merged <= {*vars(ours)}


@pytest.mark.parametrize("name", ["z1_frozen", "z2_w3", "z3_w4", "models/mixtral_z3", "z3_empty", "z3_scalar"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_files_of_torch(name: str, dtype: str, tmp_path: Path) -> None:
    """They hold the live values, load in every way torch has, and are sound zip files without bloat."""
    ours.convert_zero_checkpoint_to_state_dict(case(name), tmp_path, dtype=dtype)
    path = tmp_path / "pytorch_model.bin"
    assert os.listdir(tmp_path) == ["pytorch_model.bin"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for how in ({}, {"weights_only": False}, {"mmap": True}):
        found = torch.load(path, **how)
        for key, tensor in load_file(FIXTURES / name / "expected.safetensors").items():
            want = tensor.to(kind) if tensor.is_floating_point() else tensor
            assert found[key].dtype == want.dtype
            assert torch.equal(found[key], want), key
    nbytes = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in found.values()}.values())
    assert path.stat().st_size < nbytes + 1000 * len(found)


class TestCommand:
    def run(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zeroconsolidate.zero_to_fp32", *arguments],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def test_in_the_folder_of_the_checkpoint(self, tmp_path: Path) -> None:
        done = self.run(".", str(tmp_path / "out"), "--safe_serialization", folder=case("z3_bf16"))
        assert done.returncode == 0, done.stderr
        assert "head.weight is written once, as embed.weight" in done.stderr
        found = load_file(tmp_path / "out/model.safetensors")
        for name, tensor in load_file(FIXTURES / "z3_bf16/expected.safetensors").items():
            assert torch.equal(found[name], tensor)

    @pytest.mark.parametrize(
        ("arguments", "files"),
        [
            (["out"], ["pytorch_model.bin"]),
            (["out", "--dtype", "fp16", "--max_shard_size", "5GB", "-t", "global_step2"], ["pytorch_model.bin"]),
            (["out", "--max_shard_size=2KB", "--exclude_frozen_parameters", "-d"], None),
        ],
    )
    def test_arguments(
        self, arguments: list[str], files: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert ours.main([str(case("z2_frozen")), *arguments]) == 0
        assert files is None or os.listdir(tmp_path / "out") == files

    def test_a_file_as_output(self, tmp_path: Path) -> None:
        assert ours.main([str(case("z2_bf16")), str(tmp_path / "pytorch_model.bin")]) == 0
        assert "embed.weight" in torch.load(tmp_path / "pytorch_model.bin")
        assert ours.main([str(case("z2_bf16")), str(tmp_path / "m.safetensors")]) == 0
        assert "embed.weight" in load_file(tmp_path / "m.safetensors")

    def test_errors_are_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert ours.main([str(tmp_path), str(tmp_path / "out")]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


class TestWriting:
    def test_what_fails_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputFailed, match="the disk is full") as caught:
            ours.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"), tmp_path / "out")
        assert caught.value.errno == 28
        assert os.listdir(tmp_path / "out") == []

    def test_other_files_stay(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        ours.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"), tmp_path)
        ours.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"), tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["config.json", "pytorch_model.bin"]

    def test_no_output(self) -> None:
        with pytest.raises(BadOption, match="there is no output to write to"):
            ours.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"))


def test_deepspeed_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from zeroconsolidate.zero_to_fp32 import main;"
        f"main([{str(case('z2_bf16'))!r}, {str(tmp_path / 'out')!r}]);"
        "print(sorted({'deepspeed', 'transformers', 'huggingface_hub', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_index_never_names_files_of_two_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Written into a directory that has the shards of an earlier save, and cut off between two of them."""
    from zeroconsolidate.outputs import state_dict_files

    source, out = FIXTURES / "z3_bf16/checkpoint", tmp_path / "out"
    for safe in (True, False):
        ours.convert_zero_checkpoint_to_state_dict(source, out, max_shard_size="0.4KB", safe_serialization=safe)
    before = sorted(path.name for path in out.iterdir())
    assert sum(name.endswith(".index.json") for name in before) == 2
    assert "model-00001-of-" in caplog.text  # of the first, beside the second
    true, written = state_dict_files.write_file, list[str]()

    def once(path: str, *arguments: object) -> None:
        if written:
            raise KeyboardInterrupt
        true(path, *arguments)
        written.append(path)

    monkeypatch.setattr(state_dict_files, "write_file", once)
    with pytest.raises(KeyboardInterrupt):
        ours.convert_zero_checkpoint_to_state_dict(source, out, max_shard_size="0.4KB", safe_serialization=True)
    assert sorted(path.name for path in out.iterdir()) == [n for n in before if n != "model.safetensors.index.json"]
    monkeypatch.undo()
    ours.convert_zero_checkpoint_to_state_dict(source, out, max_shard_size="0.4KB", safe_serialization=True)
    assert sorted(path.name for path in out.iterdir()) == before
