"""Engines that train several models: each is named with the option that writes it, and what is written loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fixtures import FIXTURES
from safetensors.torch import load_file

from zeroconsolidate import consolidate, inspect, verify
from zeroconsolidate.errors import WrongNames
from zeroconsolidate.naming.several import parts_of

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FIXTURES / "several"
CASES = {"distillation_z3": ("student", "teacher"), "actor_critic_z2": ("actor", "critic")}


@pytest.mark.parametrize("case", CASES)
def test_inspect_lists_them(case: str) -> None:
    found = inspect(ROOT / case / "checkpoint")
    assert [module.prefix for module in found.modules] == [f"{name}." for name in CASES[case]]
    expected = load_file(ROOT / case / "expected.safetensors")
    assert sum(module.parameters for module in found.modules) == sum(value.numel() for value in expected.values())


def test_inspect_has_nothing_to_say_of_one_model() -> None:
    assert inspect(FIXTURES / "trainer_zero3_tied/checkpoint").modules == ()


class TestConversion:
    transformers = pytest.importorskip("transformers", minversion="5")

    @pytest.mark.parametrize("case", CASES)
    def test_the_error_has_the_option_for_each(self, case: str, tmp_path: Path) -> None:
        one, other = CASES[case]
        with pytest.raises(WrongNames, match="the checkpoint holds 2 models, and config") as caught:
            consolidate(ROOT / case / "checkpoint", tmp_path / "out")
        assert f"{one}: 5,968 parameters in 21 tensors (fits it)" in (caught.value.found or "")
        assert f"{other}: " in (caught.value.found or "")
        assert caught.value.remedies[0] == f'write {one} with include="{one}.*"'
        assert caught.value.remedies[1].startswith(
            f'write {other} with include="{other}.*" rename="{other}.=" allow_missing=True,'
        )
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("case", CASES)
    def test_the_one_that_config_describes(self, case: str, tmp_path: Path) -> None:
        one = CASES[case][0]
        report = consolidate(ROOT / case / "checkpoint", tmp_path, include=f"{one}.*")
        assert report.warnings == ()
        found = verify(tmp_path)
        assert found.ok
        assert not any("only part of a model" in note for note in found.notes)
        model, info = self.transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        expected = load_file(ROOT / case / "expected.safetensors")
        assert all(expected[f"{one}.{name}"].equal(value) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("case", CASES)
    def test_the_other_one(self, case: str, tmp_path: Path) -> None:
        other = CASES[case][1]
        report = consolidate(
            ROOT / case / "checkpoint", tmp_path, include=f"{other}.*", rename=f"{other}.=", allow_missing=True
        )
        assert report.warnings
        expected = load_file(ROOT / case / "expected.safetensors")
        written = load_file(tmp_path / "model.safetensors")
        assert {f"{other}.{name}" for name in written} == {name for name in expected if name.startswith(f"{other}.")}
        assert all(expected[f"{other}.{name}"].float().equal(value) for name, value in written.items())

    def test_a_part_of_one_is_still_called_a_part(self, tmp_path: Path) -> None:
        report = consolidate(ROOT / "actor_critic_z2/checkpoint", tmp_path, include="actor.model.layers.0.*")
        assert any("because of --include" in warning for warning in report.warnings)
        found = verify(tmp_path)
        assert any("only part of a model" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        (["a.h.0.w", "b.h.0.w"], ["a.", "b."]),
        (["m.a.h.0.w", "m.b.h.0.w", "m.c.w"], ["m.a.", "m.b."]),
        (["model.layers.0.w", "lm_head.weight"], []),
        (["layers.0.a.w", "layers.1.a.w"], []),
        (["0.a.h.0.w", "1.a.h.0.w"], []),
        (["w"], []),
        ([], []),
    ],
)
def test_what_counts_as_one_of_several(names: list[str], prefixes: list[str]) -> None:
    assert [part.prefix for part in parts_of(dict.fromkeys(names, (2, 3)))] == prefixes
