"""What was written is opened once more before it gets its name, even where its file cannot be mapped into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import safetensors
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file, save_file

from zeroconsolidate import consolidate
from zeroconsolidate.errors import PlanBroken
from zeroconsolidate.outputs import weights as convert
from zeroconsolidate.write.check import check

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.plan.layout import FilePlan

CHECKPOINT = FIXTURES / "z2_bf16/checkpoint"


@pytest.fixture(params=["mapped", "too large to map"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library maps the whole file; under a limit on the address space that can fail."""

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    if request.param != "mapped":
        monkeypatch.setattr(safetensors, "safe_open", refuse)


@pytest.fixture
def written(opened: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, FilePlan]:
    plans = []

    def remembering(path: str, plan: FilePlan) -> None:
        plans.append(plan)
        check(path, plan)

    monkeypatch.setattr(convert, "check_file", remembering)
    consolidate(CHECKPOINT, tmp_path / "out")
    (plan,) = plans
    return tmp_path / "out" / plan.name, plan


def test_what_is_right_passes(written: tuple[Path, FilePlan]) -> None:
    check(str(written[0]), written[1])


@pytest.mark.parametrize("wrong", ["name", "shape", "dtype", "missing"])
def test_what_is_not_planned_is_found(written: tuple[Path, FilePlan], wrong: str) -> None:
    path, plan = written
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensor = tensors.pop(name)
    if wrong == "name":
        tensors["other"] = tensor
    elif wrong != "missing":
        tensors[name] = tensor.T.contiguous() if wrong == "shape" else tensor.to(torch.float64)
    save_file(tensors, path)
    with pytest.raises(PlanBroken, match="does not hold the planned" if wrong in ("name", "missing") else name):
        check(str(path), plan)


def test_a_file_that_is_cut_off_is_found(written: tuple[Path, FilePlan]) -> None:
    path, plan = written
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises((PlanBroken, ValueError)):
        check(str(path), plan)
