"""What is kept on this machine of files in a store: all that their reader reads, and little else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES

from zeroconsolidate.archive.load import load_file
from zeroconsolidate.archive.names import parse
from zeroconsolidate.plan.fragment import fragment
from zeroconsolidate.plan.layout import TensorPlan
from zeroconsolidate.plan.whole_file import bytes_of, whole_file
from zeroconsolidate.write.check import check
from zeroconsolidate.write.kept import Kept

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.plan.layout import FilePlan

NAME = "mp_rank_00_model_states.pt"
PLAIN = FIXTURES / "z2_bf16/checkpoint/global_step2" / NAME
LEGACY = FIXTURES / "z2_legacy/checkpoint/global_step2" / NAME


def begun(folder: Path, plan: FilePlan) -> Kept:
    kept = Kept(str(folder), [plan])
    kept.begin()
    return kept


@pytest.mark.parametrize("source", [PLAIN, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("step", [1 << 20, 100, None])
def test_a_copy_of_a_model_file(source: Path, step: int | None, tmp_path: Path):
    """Sent in blocks of any size, or by an earlier run."""
    data = source.read_bytes()
    kept = begun(tmp_path, whole_file(NAME, str(source), len(data)))
    if step is None:
        kept.restore(NAME, None)
    else:
        with kept.copying(NAME) as copy:
            assert copy is not None
            for start in range(0, len(data), step):
                copy(memoryview(data)[start : start + step], start)
    parsed = parse(NAME)
    assert parsed is not None
    there, here = load_file(str(source), *parsed), load_file(kept.path(NAME), *parsed)
    assert str(here.content).replace(kept.path(NAME), str(source)) == str(there.content)
    assert os.path.getsize(kept.path(NAME)) == len(data)


def test_values_are_not_kept(tmp_path: Path):
    """A fragment of 64 MiB takes a few blocks of the disk."""
    size_bytes = 64 << 20
    data = tmp_path / "data"
    with data.open("wb") as file:
        file.truncate(size_bytes)
    tensor = TensorPlan(
        name="w", dtype=bytes_of("", 1).dtype, shape=(size_bytes,), recipe=bytes_of(str(data), size_bytes),
        is_parameter=False,
    )  # fmt: skip
    plan = fragment("w/fp32.pt", tensor, {"cat_dim": 0})
    kept = begun(tmp_path, plan)
    block, tail = memoryview(b"x" * (1 << 20)), plan.tail(7)
    with kept.copying(plan.name) as copy:
        assert copy is not None
        for start in range(0, size_bytes, len(block)):
            copy(block, len(plan.header) + start)
        copy(memoryview(tail), plan.tail_start)
        copy(memoryview(plan.header), 0)
    check(kept.path(plan.name), plan)
    status = os.stat(kept.path(plan.name))
    assert status.st_size == plan.size_bytes
    assert status.st_blocks * 512 <= 64 << 10
    kept = begun(tmp_path, plan)
    kept.restore(plan.name, 7)
    check(kept.path(plan.name), plan)


def test_files_that_nobody_reads(tmp_path: Path):
    data = tmp_path / "rng_state_0.pth"
    data.write_bytes(b"no file of torch")
    kept = begun(tmp_path, whole_file("rng_state_0.pth", str(data), 16))
    with kept.copying("rng_state_0.pth") as copy:
        assert copy is None
    kept.restore("rng_state_0.pth", None)
    assert os.path.getsize(kept.path("rng_state_0.pth")) == 16
