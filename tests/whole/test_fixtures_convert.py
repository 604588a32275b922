"""Every fixture, a real DeepSpeed checkpoint, becomes the values its live engine held: bit for bit, in every dtype."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
import torch
from fixtures import FIXTURES
from live_values import TORCH, assert_same, bits, consolidate, expected, provenance
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zeroconsolidate
from zeroconsolidate.dtypes import DType

if TYPE_CHECKING:
    from pathlib import Path

CASES = sorted(path.parent.name for path in FIXTURES.glob("*/provenance.json"))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / request.param


def test_there_are_fixtures():
    assert {"z1_bf16", "z2_bf16", "z3_bf16"} <= set(CASES)


@pytest.mark.parametrize("dtype", TORCH)
def test_converts_to_the_live_values(case: Path, dtype: str, tmp_path: Path):
    report = consolidate(case / "checkpoint", tmp_path / "out", dtype=dtype, check="all")
    written = load_file(tmp_path / "out" / "model.safetensors")
    truth = expected(case, TORCH[dtype])
    assert_same(written, truth)
    facts = provenance(case)
    assert not set(facts["ties"]) & set(written)
    assert report.dtype == str(TORCH[dtype]).removeprefix("torch.")
    assert report.parameters == sum(t.numel() for name, t in truth.items() if name not in facts["buffers"])
    if facts["stage"] != 3:
        assert report.checked > 0


def test_the_file_is_the_one_safetensors_writes(case: Path, tmp_path: Path):
    consolidate(case / "checkpoint", tmp_path / "out")
    save_file(expected(case, torch.float32), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_ties_can_be_copied(case: Path, tmp_path: Path):
    consolidate(case / "checkpoint", tmp_path / "out", ties="copy")
    truth = expected(case, torch.float32)
    truth |= {alias: truth[name] for alias, name in provenance(case)["ties"].items() if name in truth}
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), truth)


def test_auto_is_the_training_dtype(case: Path, tmp_path: Path):
    report = consolidate(case / "checkpoint", tmp_path / "out", dtype="auto")
    trained_in = TORCH[provenance(case)["dtype"]]
    assert report.dtype == str(trained_in).removeprefix("torch.")
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected(case, trained_in))


def test_frozen_parameters_can_be_left_out(case: Path, tmp_path: Path):
    facts = provenance(case)
    consolidate(case / "checkpoint", tmp_path / "out", exclude_frozen=True)
    written = load_file(tmp_path / "out" / "model.safetensors")
    trained = {n: t for n, t in expected(case, torch.float32).items() if n not in facts["frozen"]}
    # DeepSpeed 0.19.8 lists a parameter without elements with the frozen ones; nobody misses its values.
    assert set(trained) - set(written) <= {name for name, tensor in trained.items() if not tensor.numel()}
    assert_same(written, {name: tensor for name, tensor in trained.items() if name in written})


def test_opened_tensors_are_the_live_values(case: Path):
    checkpoint = zeroconsolidate.open_checkpoint(case / "checkpoint")
    facts, truth = provenance(case), load_file(case / "expected.safetensors")
    ties = {alias: name for alias, name in facts["ties"].items() if name in truth}
    assert set(checkpoint) == set(truth) | set(ties)
    assert dict(checkpoint.ties) == ties
    for name, view in checkpoint.items():
        tensor = view.load()
        stored = truth[ties.get(name, name)]
        assert (tuple(tensor.shape), tensor.dtype) == (view.shape, view.dtype)
        assert tensor.shape == stored.shape
        if tensor.numel():  # without elements there is no master: DeepSpeed keeps the 16-bit tensor
            assert tensor.dtype == stored.dtype, name
        assert bits(tensor) == bits(stored), name
        assert view.numel == stored.numel()
        assert bits(view.load(torch.bfloat16)) == bits(stored.to(torch.bfloat16))


def test_inspect_tells_what_was_trained(case: Path):
    info, facts = zeroconsolidate.inspect(case / "checkpoint"), provenance(case)
    truth = load_file(case / "expected.safetensors")
    assert info.stage == facts["stage"]
    assert info.world_size == facts["world_size"]
    assert info.step == facts["step"]
    assert info.ds_version == facts["versions"]["deepspeed"]
    assert info.training_dtype == str(TORCH[facts["dtype"]]).removeprefix("torch.")
    assert info.missing_files == ()
    assert info.tag in info.tags
    by_role: dict[str, set[str]] = {role: set() for role in ("trainable", "frozen", "buffer", "tie")}
    for tensor in info.tensors:
        by_role[tensor.role].add(tensor.name)
        stored = truth[tensor.tied_to or tensor.name]
        assert tensor.shape == tuple(stored.shape), tensor.name
        assert not tensor.numel or DType.of(tensor.dtype) is DType.of(str(stored.dtype).removeprefix("torch.")), (
            tensor.name
        )
        assert tensor.numel == stored.numel()
    saved = set(truth)
    empties = {name for name, tensor in truth.items() if not tensor.numel()}
    assert by_role["trainable"] | empties == (set(facts["trainable"]) & saved) | empties
    assert by_role["frozen"] - empties == (set(facts["frozen"]) & saved) - empties
    assert by_role["buffer"] == set(facts["buffers"])
    assert by_role["tie"] == {alias for alias, name in facts["ties"].items() if name in saved}
    assert {t.tied_to for t in info.tensors if t.tied_to} == {facts["ties"][alias] for alias in by_role["tie"]}
    assert info.counts == {role: len(names) for role, names in by_role.items()}
    assert info.parameters == {
        role: sum(truth[name].numel() for name in by_role[role]) for role in ("trainable", "frozen", "buffer")
    }
    json.dumps(info.to_dict())


def test_the_estimate_is_what_is_written(case: Path, tmp_path: Path):
    cost = zeroconsolidate.estimate(case / "checkpoint", names="stored", dtype="bf16", max_shard_size="1KB")
    report = consolidate(case / "checkpoint", tmp_path / "out", dtype="bf16", max_shard_size="1KB")
    weights = [path for path in (tmp_path / "out").iterdir() if path.name.startswith("model")]
    assert cost.output_bytes == sum(path.stat().st_size for path in weights) == report.bytes_written
    assert cost.files == len(weights)
    assert cost.tensors == report.tensors
    assert cost.input_bytes == report.bytes_read
    info = zeroconsolidate.inspect(case / "checkpoint")
    data = 0
    for path in weights:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                data += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert info.output_bytes["bfloat16"] == data


def test_the_checkpoint_is_not_touched(case: Path, tmp_path: Path):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (case / "checkpoint").rglob("*")}
    consolidate(case / "checkpoint", tmp_path / "out", check="all")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (case / "checkpoint").rglob("*")} == before


def test_the_fixture_is_as_it_was_made(case: Path):
    found = {
        path.relative_to(case).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in case.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }
    assert found == provenance(case)["sha256"]
