"""What was trained beside adapters gets a file of its own, and no two tensors one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from adapted import PEFT, config, trained
from safetensors.torch import load_file

from zeroconsolidate import consolidate, verify
from zeroconsolidate.adapters import prompts
from zeroconsolidate.adapters.export import adapter_files
from zeroconsolidate.adapters.wrapping import Kind, of_one_model, take_apart
from zeroconsolidate.errors import Disagreement

pytest.importorskip("peft")

import peft
import transformers
from peft_runs import build, differing, llama, lora, tune
from zero_model import Run, save

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "non_lora_trainables.safetensors"
NORM = "base_model.model.model.norm.weight"


def run(
    tmp_path: Path, *, frozen: dict[str, torch.Tensor] | None = None, **around: torch.Tensor
) -> tuple[Path, object]:
    """A run behind `model.`, whose wrapper has parameters of its own."""
    tuned = tune(llama, default=lora())
    tuned.masters[NORM] = torch.linspace(1, 2, 16)
    with torch.no_grad():
        dict(tuned.model.named_parameters())[NORM].copy_(tuned.masters[NORM])
    groups = {f"model.{name}": value for name, value in tuned.masters.items()} | around
    order = [*groups, *(frozen or {})]
    root = save(
        Run(stage=2, world_size=2, groups=[groups], compute_dtype=torch.bfloat16, frozen=frozen or {}, order=order),
        tmp_path / "in",
    )
    tuned.model.peft_config["default"].save_pretrained(root)
    return root, tuned


def test_beside_an_adapter(tmp_path: Path) -> None:
    projection = torch.randn(4, 16)
    source, tuned = run(tmp_path, **{"projection.weight": projection})
    report = consolidate(source, tmp_path / "out")
    written = load_file(tmp_path / "out" / EXTRA)
    assert differing(written, {NORM: tuned.masters[NORM], "projection.weight": projection}) == []
    assert any(NORM in text and "load_state_dict" in text for text in report.warnings)
    assert any("projection.weight" in text and "around" in text for text in report.warnings)
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=source).problems == ()
    # As the report says how.
    model = peft.PeftModel.from_pretrained(build(llama), tmp_path / "out")
    model.load_state_dict(written, strict=False)
    values = dict(model.named_parameters())
    assert [name for name, value in tuned.masters.items() if not torch.equal(values[name], value)] == []


def test_in_a_merged_model(tmp_path: Path) -> None:
    """What has a place there is in it; TRL's head is where TRL looks; the rest is in a folder of its own."""
    projection, head = torch.randn(4, 16), torch.randn(1, 16)
    teacher = {"teacher.weight": torch.randn(3, 3).bfloat16()}
    source, tuned = run(tmp_path, frozen=teacher, **{"projection.weight": projection, "v_head.summary.weight": head})
    base = tuned.save_base(tmp_path / "base")
    report = consolidate(source, tmp_path / "out", lora="merge", base=base)
    assert differing(load_file(tmp_path / "out" / "trained_beside" / EXTRA), {"projection.weight": projection}) == []
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["v_head.summary.weight"], head)
    assert torch.equal(written["model.norm.weight"], tuned.masters[NORM])
    assert not {"projection.weight", "teacher.weight"} & written.keys()
    assert "teacher.weight" in report.left_out
    assert any("trained_beside" in text and "projection.weight" in text for text in report.warnings)
    assert any("v_head.summary.weight: TRL" in text for text in report.warnings)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.model.norm.weight, tuned.masters[NORM])
    assert verify(tmp_path / "out", against=source, base=base).problems == ()
    plain = consolidate(source, tmp_path / "out", lora="merge", base=base, overwrite=True, dtype="bf16")
    assert load_file(tmp_path / "out" / "trained_beside" / EXTRA)["projection.weight"].dtype is torch.bfloat16
    assert plain.load_line.startswith("AutoModelForCausalLM")


def test_a_second_name_of_the_model_s_own_is_not_beside(tmp_path: Path) -> None:
    """A wrapper that keeps the embedding under a name of its own, which comes first."""
    tuned = tune(llama, default=lora())
    own = {f"model.{name}": value for name, value in tuned.masters.items()}
    inside = "model.base_model.model.model.norm.weight"
    value = torch.linspace(1, 2, 16)
    source = save(
        Run(
            stage=3,
            world_size=2,
            groups=[{"norm.weight": value} | own],
            compute_dtype=torch.bfloat16,
            ties={inside: "norm.weight"},
            order=["norm.weight", inside, *own],
        ),
        tmp_path / "in",
    )
    tuned.model.peft_config["default"].save_pretrained(source)
    consolidate(source, tmp_path / "out")
    assert differing(load_file(tmp_path / "out" / EXTRA), {NORM: value}) == []
    consolidate(source, tmp_path / "merged", lora="merge", base=tuned.save_base(tmp_path / "base"))
    assert not (tmp_path / "merged" / "trained_beside").exists()
    assert torch.equal(load_file(tmp_path / "merged" / "model.safetensors")["model.norm.weight"], value)


def factors(side: str) -> list[str]:
    return [f"{side}.{PEFT}q.lora_{half}.default.weight" for half in "AB"]


class TestSeveralModels:
    def test_two_are_refused(self) -> None:
        parts = take_apart([*factors("query"), *factors("passage")], ("lora_",))
        with pytest.raises(Disagreement, match=r"behind 'passage\.' and 'query\.'.*--include 'query\.\*'"):
            of_one_model(parts, {})

    def test_one_under_two_names_is_one(self) -> None:
        names = [*factors("query"), *factors("passage"), "passage.extra"]
        parts = take_apart(names, ("lora_",))
        ties = dict(zip(factors("passage"), factors("query"), strict=True))
        kept = of_one_model(parts, ties)
        assert list(kept) == [*factors("query"), "passage.extra"]
        assert kept["passage.extra"].kind is Kind.BESIDE

    def test_two_with_prompts_are_refused(self) -> None:
        names = [f"{side}.{name}" for side in ("teacher", "model") for name in (
            "base_model.wte.weight", "prompt_encoder.default.embedding.weight")]  # fmt: skip
        parts = prompts.take_apart(names)
        assert {part.wrapper for part in parts.values()} == {"teacher.", "model."}
        with pytest.raises(Disagreement, match=r"behind 'model\.' and 'teacher\.'"):
            of_one_model(parts, {})

    def test_two_tensors_of_one_name(self) -> None:
        """Whatever made them so: none is written over the other."""
        names = [f"{side}{PEFT}q.lora_A.default.weight" for side in ("", "query.")]
        parts = take_apart(names, ("lora_",))
        named = {name: trained(2, 3, key=name) for name in names}
        named = {name: type(source)(name=name, shape=source.shape, recipe=source.recipe, role=source.role)
                 for name, source in named.items()}  # fmt: skip
        with pytest.raises(Disagreement, match="two tensors of the checkpoint would have the name"):
            adapter_files(named, parts, {}, {"default": config()})

    @pytest.mark.parametrize("way", [None, "merge"])
    def test_a_conversion(self, way: str | None, tmp_path: Path) -> None:
        tuned = tune(llama, default=lora())
        both = {f"{side}.{name}": value for side in ("lm_q", "lm_p") for name, value in tuned.masters.items()}
        source = save(
            Run(stage=3, world_size=2, groups=[both], compute_dtype=torch.bfloat16, order=list(both)),
            tmp_path / "in",
        )
        tuned.model.peft_config["default"].save_pretrained(source)
        base = tuned.save_base(tmp_path / "base")
        with pytest.raises(Disagreement, match="several PEFT models"):
            consolidate(source, tmp_path / "out", lora=way, base=base)
        report = consolidate(source, tmp_path / "out", lora="keep", include=["lm_q.*"])
        assert report.tensors == len(tuned.masters)
