"""Two witnesses that a loaded model is the trained one.

The first is a model with the true weights, built in this process (`true_models.py`): weights and answers must be equal
bit for bit, on every machine. The second is what the live engine answered when the fixture was made, maybe on another
kind of processor: answers must be equal but for rounding (`model_fixtures/rounding.py`). `test_witnesses.py` shows what
each of them notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from answers import answers
from model_fixtures.rounding import distance, rounding, terms
from true_models import HEADS, head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from model_cases import ModelCase


def loaded(model: torch.nn.Module, directory: Path) -> torch.nn.ModuleDict:
    """`model` and the heads of BGE-M3 that are in `directory`, loaded as FlagEmbedding loads them."""
    dtype = next(model.parameters()).dtype
    heads = {
        name: head(torch.load(directory / f"{name}.pt", weights_only=True), dtype)
        for name in HEADS
        if (directory / f"{name}.pt").exists()
    }
    return torch.nn.ModuleDict({"model": model} | heads)


def assert_same_weights(found: torch.nn.Module, truth: torch.nn.Module) -> None:
    """Every parameter and buffer that is saved, bit for bit."""
    assert_equal(found.state_dict(), truth.state_dict())


def assert_equal(found: Mapping[str, torch.Tensor], truth: Mapping[str, torch.Tensor]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == truth.keys(), found.keys() ^ truth.keys()
    differing = [name for name, tensor in truth.items() if not _equal(found[name], tensor)]
    assert not differing, differing


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    same = (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    return same and torch.equal(_bits(ours), _bits(theirs))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_is_the_true_model(
    case: ModelCase, model: torch.nn.Module, directory: Path, truth: torch.nn.ModuleDict
) -> dict[str, torch.Tensor]:
    """The first witness, of `model` that was loaded from `directory`; returns what it answers."""
    ours = loaded(model, directory)
    assert_same_weights(ours, truth)
    found = answers(case, ours, directory)
    assert_equal(found, answers(case, truth, case.base))
    return found


def assert_as_recorded(case: ModelCase, found: Mapping[str, torch.Tensor], kind: str, model: torch.nn.Module) -> None:
    """The second witness: `found` is what `model` answers.

    kind: `live` (in the dtype of training), `float32` (the masters), or `merged` (the masters, adapters merged).
    """
    recorded = {name.removeprefix(f"{kind}."): t for name, t in case.outputs.items() if name.startswith(f"{kind}.")}
    assert found.keys() == recorded.keys(), found.keys() ^ recorded.keys()
    weights = list(model.parameters())
    assert_within_rounding(found, recorded, weights[0].dtype, terms(weights))


def assert_within_rounding(
    found: Mapping[str, torch.Tensor], recorded: Mapping[str, torch.Tensor], dtype: torch.dtype, terms: int
) -> None:
    """`found` are the `recorded` answers, as nearly as another processor computes them."""
    distances = {name: distance(found[name], tensor) for name, tensor in recorded.items()}
    assert max(distances.values()) <= rounding(dtype, terms), distances


def notices(check: Callable[..., None], *arguments: object) -> bool:
    """Whether one of the above fails."""
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False
