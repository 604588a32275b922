"""The model fixtures are what they say they are: digests hold, and the Trainer's own files agree with the truth.

Nothing of the package is used here: this is the evidence other tests stand on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from model_cases import ModelCase, model_cases
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = [pytest.param(case, id=case.name) for case in model_cases()]


@pytest.mark.parametrize("case", CASES)
def test_files_have_the_digests_of_their_making(case: ModelCase) -> None:
    for name, digest in case.provenance["sha256"].items():
        assert hashlib.sha256((case.folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("case", CASES)
def test_live_outputs_are_those_of_the_masters_rounded(case: ModelCase) -> None:
    """Without this, a test that demands a difference of zero from a reloaded model would demand the impossible."""
    assert case.provenance["truth"]["live_equals_rounded_copy"]


@pytest.mark.parametrize("case", [case for case in CASES if not case.values[0].has_adapter])
def test_the_weights_a_trainer_wrote_are_the_rounded_masters(case: ModelCase) -> None:
    """By content, not by name: trainers rename and split on the way out. Files of empty tensors say nothing."""
    path = case.checkpoint / "model.safetensors"
    if not path.exists():
        pytest.skip("the Trainer wrote no weights")
    written = {name: tensor for name, tensor in load_file(path).items() if tensor.numel()}
    dtypes = {tensor.dtype for tensor in written.values()}
    known = {
        _content(piece) for dtype in dtypes for master in case.expected.values() for piece in _pieces(master.to(dtype))
    }
    assert [name for name, tensor in written.items() if _content(tensor) not in known] == []


def _content(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor whole, and the matrices that fused experts [E, 2I, H] and [E, H, I] are written as."""
    yield tensor
    if tensor.ndim == 3:
        for expert in tensor:
            yield from (expert, *expert.chunk(2, dim=0))
