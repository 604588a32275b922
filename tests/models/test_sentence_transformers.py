"""sentence-transformers loads what we write of its Trainers' checkpoints, and answers as the live model:
tools/test_flagembedding.sh.

The same class is given the live engine's weights in the same process: answers must be equal to the last bit. Those that
were recorded when the fixture was made, maybe on another processor, are equal but for rounding.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate

pytest.importorskip("sentence_transformers")

import make_sentence_transformers_fixtures as made
import sentence_transformers as st
from model_fixtures.outputs import aligned
from model_fixtures.rounding import terms
from witnesses import assert_equal, assert_within_rounding, notices

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FIXTURES / "sentence_transformers"
CASES = sorted(path.name for path in ROOT.iterdir())


def true_model(case: str) -> Any:
    """The untrained model with the live engine's weights."""
    model = made.build(made.CASES[case][0]).float().eval()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(ROOT / case / "expected.safetensors").items():
            own[name].copy_(value)
    return aligned(model)


def loaded(case: str, folder: Path) -> Any:
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    return aligned(getattr(st, config["model_type"])(str(folder), device="cpu").eval())


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_the_live_model(case: str, tmp_path: Path) -> None:
    consolidate(ROOT / case / "checkpoint", tmp_path)
    model, true = loaded(case, tmp_path), true_model(case)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == dict(true.named_parameters()).keys()
    assert all(parameters[name].equal(value) for name, value in true.named_parameters())
    found = made.answers(made.CASES[case][0], model)
    assert_equal(found, made.answers(made.CASES[case][0], true))
    recorded = load_file(ROOT / case / "answers.safetensors")
    assert_within_rounding(found, recorded, torch.float32, terms(model.parameters()))


@pytest.mark.parametrize("case", ["dense_z3", "router_z3"])
def test_a_unit_in_the_last_place_is_noticed(case: str) -> None:
    true, off = true_model(case), true_model(case)
    with torch.no_grad():
        for parameter in off.parameters():
            parameter.copy_(torch.nextafter(parameter, torch.tensor(torch.inf)))
    assert notices(assert_equal, made.answers(made.CASES[case][0], off), made.answers(made.CASES[case][0], true))
