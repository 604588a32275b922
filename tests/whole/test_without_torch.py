"""An installation without extras has no torch: what converts and what is said instead of the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from command import refusal, zeroconsolidate
from fixtures import FIXTURES
from lacking import command_without, without_packages
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

MODELS = FIXTURES / "models"
PLAIN = FIXTURES / "z3_bf16/checkpoint"
LORA = MODELS / "lora_z3/checkpoint"
SENTENCE = "needs torch, which is not installed; pip install 'zeroconsolidate[torch]'"


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("z2_bf16", ["--dtype", "bf16", "--digest", "sha256", "--check"]),
        ("z3_bf16", ["--optimizer", "--max-shard-size", "1KB"]),
        ("trainer_zero3_tied", []),
        ("models/lora_z2", []),
        ("models/llm_tied_z3", ["--workers", "2", "--dtype", "fp16"]),
        ("models/reranker_z2", []),
    ],
)
def test_it_writes_the_same_files(case: str, options: list[str], tmp_path: Path) -> None:
    done = command_without("convert", FIXTURES / case / "checkpoint", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    done = zeroconsolidate("convert", FIXTURES / case / "checkpoint", tmp_path / "with", *options)
    assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file())
    for name in files:
        if name.name != "zeroconsolidate.json":
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "with" / name).read_bytes(), name
    weights = [name for name in files if name.suffix == ".safetensors"]
    assert weights


def test_the_heads_of_bge_m3_are_written_and_load_in_torch(tmp_path: Path) -> None:
    done = command_without("convert", MODELS / "m3_z3/checkpoint", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = load_file(MODELS / "m3_z3/expected.safetensors")
    for head in ("colbert_linear", "sparse_linear"):
        path = tmp_path / "out" / f"{head}.pt"
        found = torch.load(path, weights_only=True)
        assert list(found) == ["weight", "bias"]
        again = torch.load(path, weights_only=True, mmap=True)
        for key, tensor in found.items():
            assert tensor.dtype is torch.float32 and tensor.is_contiguous()
            assert torch.equal(tensor, again[key])
            assert torch.equal(tensor, expected[f"{head}.{key}"])


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_other_commands(verb: str, tmp_path: Path) -> None:
    done = command_without(verb, FIXTURES / "z2_bf16/checkpoint")
    assert done.returncode == 0, done.stderr


def test_a_universal_checkpoint(tmp_path: Path) -> None:
    done = command_without("universal", PLAIN, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    done = command_without("verify", tmp_path / "out", PLAIN)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--json"]])
def test_a_merge_says_what_it_needs_before_it_writes(more: list[str], tmp_path: Path) -> None:
    base = MODELS / "_bases/llama"
    done = command_without("convert", LORA, tmp_path / "out", "--lora", "merge", "--base", base, *more)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    if more == ["--json"]:
        assert json.loads(done.stdout)["error"]["kind"] == "MissingPackage"
    else:
        assert refusal(done) == f"merging adapters {SENTENCE}"


SAID = """
import sys, zeroconsolidate
try:
    {line}
except zeroconsolidate.MissingPackage as error:
    print(error)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        ("zeroconsolidate.state_dict(sys.argv[1])", "a dict of torch's tensors"),
        (
            "zeroconsolidate.open_checkpoint(sys.argv[1])['embed.weight'].load()",
            "a tensor of torch, which numpy() gives as an array,",
        ),
        (
            "zeroconsolidate.open_checkpoint(sys.argv[1])['embed.weight'][0]",
            "a tensor of torch, which numpy() gives as an array,",
        ),
        ("zeroconsolidate.open_checkpoint(sys.argv[1])['embed.weight'].dtype", "a dtype of torch"),
        ("import zeroconsolidate.zero_to_fp32", "DeepSpeed's converter, which speaks of torch's dtypes,"),
        (
            "import zeroconsolidate.lightning as l; l.convert_zero_checkpoint_to_fp32_state_dict(sys.argv[1], '')",
            "Lightning's converter, which returns tensors,",
        ),
    ],
)
def test_functions_that_give_tensors_say_it(line: str, subject: str) -> None:
    done = without_packages(SAID.format(line=line), PLAIN)
    assert (done.stdout, done.stderr) == (f"{subject} {SENTENCE}\n", "")


def test_arrays_need_no_torch() -> None:
    code = (
        "import sys, zeroconsolidate\n"
        "checkpoint = zeroconsolidate.open_checkpoint(sys.argv[1])\n"
        "lazy = zeroconsolidate.state_dict(sys.argv[1], lazy=True)\n"
        "array = checkpoint['embed.weight'].numpy()\n"
        "print(array.dtype, array.shape, (array == lazy['embed.weight'].numpy()).all())"
    )
    assert without_packages(code, PLAIN).stdout == "float32 (13, 7) True\n"


def test_deepspeeds_command_says_it_in_one_line(tmp_path: Path) -> None:
    code = "import runpy, sys; runpy.run_module('zeroconsolidate.zero_to_fp32', run_name='__main__')"
    done = without_packages(code, PLAIN, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == f"zeroconsolidate: DeepSpeed's converter, which speaks of torch's dtypes, {SENTENCE}\n"


def test_transformers_without_torch_is_not_asked(tmp_path: Path) -> None:
    """It can read a config then, and build no model."""
    out = tmp_path / "out"
    source = MODELS / "embedder_z2/checkpoint"
    done = command_without("convert", source, out, "--no-cache", hidden=("torch",))
    assert done.returncode == 0, done.stderr


def test_an_engine_needs_deepspeed() -> None:
    code = "import sys, zeroconsolidate; zeroconsolidate.load_into_engine(object(), sys.argv[1])"
    done = without_packages(code, PLAIN)
    assert done.returncode == 1
    said = "needs deepspeed, which is not installed; pip install 'zeroconsolidate[deepspeed]'"
    assert (
        done.stderr.splitlines()[-1] == f"zeroconsolidate.errors.request.MissingPackage: loading into an engine {said}"
    )
