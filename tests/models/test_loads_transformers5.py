"""Every fully trained model of the fixtures, converted, loads in transformers 5 and answers as the live model did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import transformers
from model_cases import ModelCase, model_cases

from models.answers import LOADERS, answers, assert_equal_answers
from models.converted import convert

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not transformers.__version__.startswith("5."), reason="needs transformers 5")

CASES = [pytest.param(case, id=case.name) for case in model_cases(adapter=False)]
OPTIONS = [
    pytest.param("fp32", {}, id="fp32"),
    pytest.param("bf16", {}, id="bf16"),
    pytest.param("fp32", {"max_shard_size": "8KB"}, id="sharded"),
]


@pytest.mark.parametrize(("dtype", "options"), OPTIONS)
@pytest.mark.parametrize("case", CASES)
def test_no_key_is_missing_and_answers_are_the_live_models(
    case: ModelCase, dtype: str, options: dict[str, str], where: Path
) -> None:
    directory = convert(case, where, dtype, **options)
    model, info = LOADERS[case.recipe].from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    assert (directory / "model.safetensors.index.json").exists() == bool(options)
    found = answers(case, model, directory)
    if dtype == "fp32":
        assert_equal_answers(case, found, "float32")
    elif case.provenance["case"]["bf16"]:
        assert_equal_answers(case, found, "live")
