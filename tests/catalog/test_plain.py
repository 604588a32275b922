"""One tensor under two names in one save: what wraps a module is in the lists of parameters, not in the state dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from zero_model import Run, save

from zeroconsolidate import consolidate, inspect, open_checkpoint
from zeroconsolidate.catalog.plain import WRAPPERS, plain, plain_names, without_modules

if TYPE_CHECKING:
    from pathlib import Path


def checkpoint(root: Path, stage: int, wrapper: str, *, outer: str = "", **facts: Any) -> Run:
    """A model whose second layer is wrapped, twice; `outer`: a wrapper that the state dict has, too."""
    inside = f"layers.1.{wrapper}mlp.{wrapper}"
    generator = torch.Generator().manual_seed(1)

    def value(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    names = [f"{outer}{name}" for name in ("embed.weight", "layers.0.up.weight", f"{inside}up.weight")]
    trained = {name: value(5, 3) for name in names}
    frozen = {
        f"{outer}{inside}down.weight": value(7, 2).bfloat16(),
        f"{outer}layers.0.down.weight": value(3).bfloat16(),
    }
    run = Run(
        stage=stage,
        world_size=2,
        groups=[trained],
        frozen=frozen,
        buffers={f"{outer}{inside}scale": value(4)},
        ties={f"{outer}layers.2.{wrapper}up.weight": f"{outer}{inside}up.weight"},
        state_dict_name=lambda name: outer + plain(name),
        **facts,
    )
    save(run, root)
    return run


@pytest.mark.parametrize("outer", ["", "_orig_mod."])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_state_dict_s_names_are_the_names(stage: int, wrapper: str, outer: str, tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "in", stage, wrapper, outer=outer)
    with_names = {outer + plain(name): value for name, value in run.truth.items()}
    info = inspect(tmp_path / "in")
    assert (info.counts["trainable"], info.counts["frozen"], info.counts["buffer"]) == (3, 2, 1)
    assert info.notes == ()
    tensors = open_checkpoint(tmp_path / "in")
    found = {name: tensors[name].load() for name in tensors}
    assert found.pop(f"{outer}layers.2.up.weight").equal(with_names[f"{outer}layers.1.mlp.up.weight"])
    assert found.keys() == with_names.keys()
    assert [name for name, value in with_names.items() if not torch.equal(found[name], value)] == []
    consolidate(tmp_path / "in", tmp_path / "out", check="all")  # masters against the module's copies


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_frozen_parameters_that_were_left_out(stage: int, tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "in", stage, WRAPPERS[1], exclude_frozen=True)
    tensors = open_checkpoint(tmp_path / "in")
    assert {plain(name) for name in run.truth} <= set(tensors) == {plain(name) for name in tensors}


def test_a_rank_that_is_lost(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "in", 3, WRAPPERS[1])
    (tmp_path / "in" / "global_step7" / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    consolidate(tmp_path / "in", tmp_path / "out", rescue="zeros")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == {plain(name) for name in run.truth}


def test_names_that_only_a_wrapper_tells_apart_stay(tmp_path: Path) -> None:
    trained = {"a.weight": torch.zeros(3), "a._orig_mod.weight": torch.ones(3)}
    save(Run(stage=2, world_size=2, groups=[trained]), tmp_path / "in")
    tensors = open_checkpoint(tmp_path / "in")
    assert {name: float(tensors[name].load()[0]) for name in tensors} == {"a.weight": 0, "a._orig_mod.weight": 1}
    assert plain_names(trained) == {name: name for name in trained}


def test_where_the_state_dict_has_two_such_names_nothing_is_brought_together(tmp_path: Path) -> None:
    """Either could be the one that the lists mean."""
    trained, frozen = "a._fsdp_wrapped_module.weight", "b.weight"
    called = {trained: "a._orig_mod.weight", frozen: "a._checkpoint_wrapped_module.weight"}
    run = Run(
        stage=2,
        world_size=2,
        groups=[{trained: torch.zeros(3)}],
        frozen={frozen: torch.ones(3).bfloat16()},
        state_dict_name=called.__getitem__,
    )
    save(run, tmp_path / "in")
    assert trained in set(open_checkpoint(tmp_path / "in"))


def test_wrappers_are_undone_at_any_depth_and_nothing_else() -> None:
    assert plain("_orig_mod._fsdp_wrapped_module.a._checkpoint_wrapped_module.b._orig_mod.c") == "a.b.c"
    assert plain("a._orig_mod._orig_mod.b") == "a.b"
    assert plain("a.my_orig_mod.b_orig_mod") == "a.my_orig_mod.b_orig_mod"
    assert plain("module.a") == "module.a"


@pytest.mark.parametrize(
    ("names", "expected", "without"),
    [
        (["a.module.w", "b.module.module.w"], ["a.w"], ["a.w", "b.w"]),
        (["a.w", "module.w"], ["a.w"], None),  # none inside
        (["a.module.w", "a.w"], ["a.w"], None),  # two would become one
        (["a.module.w"], ["a.module.w"], None),  # the target has such modules
    ],
)
def test_names_without_modules_inside(names: list[str], expected: list[str], without: list[str] | None) -> None:
    found = without_modules({f"stored {name}": name for name in names}, expected)
    assert found == (without and dict(zip([f"stored {name}" for name in names], without, strict=True)))
