"""What cannot be told is refused: by its name, in one sentence, before a byte is written. And no more than that."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from zero_model import example, save, stripe

import zeroconsolidate
from zeroconsolidate.cli.command import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = "zero_quantized_partitions"
"""A key that no DeepSpeed writes, and that sounds as if weights depended on it."""


class Asked:
    """The command, asked to convert a checkpoint; its answer is read as a person would."""

    def __init__(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._output = output
        self._capsys = capsys

    def refuses(self, checkpoint: Path, *options: str) -> str:
        """The sentence on stderr; nothing is left where the output should be."""
        self._capsys.readouterr()  # what was said before
        code = main(["convert", str(checkpoint), str(self._output), "--names", "stored", *options])
        said = " ".join(self._capsys.readouterr().err.split())
        assert code == 2, said
        assert said.startswith("zeroconsolidate: "), said
        assert not self._output.exists()
        return said

    def writes(self, checkpoint: Path, *options: str) -> dict[str, torch.Tensor]:
        """The weights it wrote."""
        code = main(["convert", str(checkpoint), str(self._output), "--names", "stored", "--quiet", *options])
        assert code == 0, self._capsys.readouterr().err
        return load_file(self._output / "model.safetensors")


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(tmp_path / "out", capsys)


def same(written: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> bool:
    return written.keys() == truth.keys() and all(
        torch.equal(written[name], truth[name].to(written[name].dtype)) for name in truth
    )


def change(checkpoint: Path, kind: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Every file of a kind (`optim` or `model`) with its content edited."""
    for path in sorted(checkpoint.glob(f"*/*{kind}_states.pt")):
        content = torch.load(path, weights_only=False)
        edit(content)
        torch.save(content, path)
    return checkpoint


# --- keys that are not known ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("optim", lambda content: content),
        ("optim", lambda content: content["optimizer_state_dict"]),
        ("model", lambda content: content),
    ],
    ids=["optimizer file", "optimizer state", "model file"],
)
def test_an_unknown_key_of_the_layout_is_refused_by_its_name(
    stage: int, kind: str, place: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, ask: Asked
):
    run = example(stage)
    checkpoint = save(run, tmp_path / "c")
    assert same(ask.writes(checkpoint, "--ties", "drop"), run.truth)
    other = change(save(run, tmp_path / "d"), kind, lambda content: place(content).update({KEY: [1, 2]}))
    ask = Asked(tmp_path / "out2", ask._capsys)
    said = ask.refuses(other)
    assert f"the layout key '{KEY}' is not known: it may change the meaning of the others" in said
    assert f"{kind}_states.pt" in said
    # Not only the moments may depend on it.
    assert f"'{KEY}' is not known" in ask.refuses(other, "--weights-only")


def test_partitions_with_error_feedback_are_called_so(tmp_path: Path, ask: Asked):
    checkpoint = change(save(example(3), tmp_path / "c"), "model", lambda content: content.update(loco={}))
    assert "the layout key 'loco' is not known: partitions with error feedback (LoCo)" in ask.refuses(checkpoint)


def test_what_a_client_saved_beside_the_model_does_not_matter(tmp_path: Path, ask: Asked):
    run = example(2, extra={"epoch": 3, "sampler": {"seed": 1}, "parameters": 9})
    assert same(ask.writes(save(run, tmp_path / "c")), run.truth)


# --- optimizer states that cannot be placed -------------------------------------------------------------------------


def blockwise(content: dict[str, Any], *, wrapped: bool = False) -> None:
    """Moments as bitsandbytes keeps them: a byte an element, a scale for each block of 256, a table of 256 values.

    `wrapped`: as 0.50 saves them, in a dict of their own.
    """
    content = content["optimizer_state_dict"]
    base = content["optimizer_state_dict" if content["zero_stage"] == 3 else "base_optimizer_state"]
    for state in base["state"].values():
        numel = state.pop("exp_avg").numel()
        del state["exp_avg_sq"]
        state["state1"] = torch.zeros(numel, dtype=torch.uint8)
        state["absmax1"] = torch.zeros(-(-numel // 256) + 1)
        state["qmap1"] = torch.zeros(256)
        if wrapped:
            quantized = {key: state.pop(key) for key in ("state1", "absmax1", "qmap1")}
            state["__bnb_optimizer_quant_state__"] = quantized


@pytest.mark.parametrize(
    ("wrapped", "named"),
    [(False, "'absmax1', 'qmap1' is"), (True, "'__bnb_optimizer_quant_state__' is")],
    ids=["flat", "wrapped"],
)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_moments_that_cannot_be_placed_are_named_and_weights_can_be_had(
    stage: int, wrapped: bool, named: str, tmp_path: Path, ask: Asked
):
    # One group, large enough that its scales are fewer than its elements.
    weights = {"w": torch.randn(40, 30), "b": torch.randn(7)}
    run = example(stage, groups=[weights], ties={})
    checkpoint = change(save(run, tmp_path / "c"), "optim", lambda content: blockwise(content, wrapped=wrapped))
    said = ask.refuses(checkpoint)
    assert f"the optimizer's state {named} not laid out like the parameters" in said
    assert "the weights do not depend on it --weights-only writes them" in said
    assert zeroconsolidate.inspect(checkpoint).counts["trainable"] == 2
    assert same(ask.writes(checkpoint, "--weights-only"), run.truth)


def test_moments_of_stage_0_that_cannot_be_placed(tmp_path: Path, ask: Asked):
    weights = {"w": torch.randn(40, 30), "b": torch.randn(7)}
    moments = {0: {"exp_avg_sq_row": torch.zeros(40)}, 1: {"blocks": [torch.zeros(2)], "betas": (0.9, 0.99)}}
    checkpoint = stage0(tmp_path / "c", weights, state=moments)
    assert "the optimizer's state 'blocks', 'exp_avg_sq_row' is not laid out" in ask.refuses(checkpoint)
    assert same(ask.writes(checkpoint, "--weights-only"), weights)


# --- masters without names ------------------------------------------------------------------------------------------


def stage0(
    root: Path,
    module: dict[str, torch.Tensor],
    *,
    masters: list[str] | None = None,
    state: dict[int, Any] | None = None,
    fused: bool = False,
) -> Path:
    """A checkpoint of stage 0 whose optimizer holds these masters, in this order, without their names."""
    (root / "global_step7").mkdir(parents=True)
    held = [module[name] for name in masters or module]
    flat = torch.cat([master.reshape(-1) for master in held])
    wrapped = {"state": state or {}, "param_groups": [{"lr": 0.1, "params": list(range(len(held)))}]}
    optimizer = {"fp32_groups_flat": [flat]} if fused else {"fp32_groups": [held]}
    content = {
        "module": OrderedDict((name, tensor.bfloat16()) for name, tensor in module.items()),
        "buffer_names": [],
        "optimizer": optimizer | {"optimizer_state_dict": wrapped},
        "param_shapes": None,
        "frozen_param_shapes": None,
        "shared_params": {},
        "global_steps": 7,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": 0}},
        "ds_version": "0.19.8",
    }
    torch.save(content, root / "global_step7/mp_rank_00_model_states.pt")
    (root / "latest").write_text("global_step7")
    return root


def norms(*names: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of norms near 1: they differ, and all round to 1."""
    for number, name in enumerate(names):
        yield name, torch.ones(4) + number * 1e-4


def test_masters_that_look_alike_are_told_by_their_order(tmp_path: Path, ask: Asked):
    weights = {"a": torch.randn(3), **dict(norms("n1", "n2")), "z": torch.randn(3)}
    assert same(ask.writes(stage0(tmp_path / "c", weights)), weights)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_masters_that_nothing_tells_apart_are_refused_and_not_guessed(fused: bool, tmp_path: Path, ask: Asked):
    """Two of three norms are trained, one is frozen, and no known neighbour stands between them."""
    weights = dict(norms("n1", "n2", "n3"))
    said = ask.refuses(stage0(tmp_path / "c", weights, masters=["n1", "n3"], fused=fused))
    if fused:
        assert "the flat master may hold n" in said
        assert "or another parameter whose copy in the module is equal" in said
    else:
        assert "master 0 of group 0 may be any of n1, n2, n3: their copies in the module are equal" in said
        assert "the order does not tell which one it is" in said
    assert "mp_rank_00_model_states.pt" in said


def test_masters_that_nothing_tells_apart_may_be_had_if_it_makes_no_difference(tmp_path: Path, ask: Asked):
    weights = {name: torch.ones(4) for name in ("n1", "n2", "n3")}
    assert same(ask.writes(stage0(tmp_path / "c", weights, masters=["n1", "n3"])), weights)


def test_a_master_of_another_save_is_no_parameters(tmp_path: Path, ask: Asked):
    checkpoint = stage0(tmp_path / "c", {"a": torch.randn(3), "b": torch.randn(2, 2)})
    edited = torch.load(checkpoint / "global_step7/mp_rank_00_model_states.pt", weights_only=False)
    edited["optimizer"]["fp32_groups"][0][1] += 1
    torch.save(edited, checkpoint / "global_step7/mp_rank_00_model_states.pt")
    said = ask.refuses(checkpoint)
    assert "master 1 of group 0, of shape (2, 2), does not round to any copy in the module" in said


# --- masters on NVMe ------------------------------------------------------------------------------------------------

SWAPPED = {"a": torch.randn(5, 3), "b": torch.randn(4), "c": torch.randn(3)}


def swapped(root: Path, *, first: int = 0, last: int = 2, padding_bytes: int = 1024 - 4 * 12) -> Path:
    """Stage 3 whose only group was swapped out: empty in the file, its master beside it."""
    checkpoint = save(example(3, groups=[SWAPPED], frozen={}, ties={}), root)

    def empty(content: dict[str, Any]) -> None:
        content["optimizer_state_dict"]["fp32_flat_groups"] = [torch.empty(0)]

    change(checkpoint, "optim", empty)
    for rank in (0, 1):
        folder = checkpoint / f"global_step7/offloaded_tensors/rank{rank:02d}"
        folder.mkdir(parents=True)
        flat = torch.cat([stripe(tensor, rank, 2) for tensor in SWAPPED.values()])
        raw = flat.numpy().tobytes()
        (folder / f"{first}_{last}.tensor.swp").write_bytes(raw + bytes(max(padding_bytes, 0)))
        if padding_bytes < 0:
            (folder / f"{first}_{last}.tensor.swp").write_bytes(raw[:padding_bytes])
    return checkpoint


def test_a_master_on_nvme_is_found_by_the_order_of_the_module(tmp_path: Path, ask: Asked):
    written = ask.writes(swapped(tmp_path / "c"))
    assert same({name: written[name] for name in SWAPPED}, SWAPPED)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"first": 3, "last": 5}, "got nothing"),  # places given in another order, as by zero.Init
        ({"last": 1}, "got nothing"),
        ({"padding_bytes": -4}, "got 44 bytes"),
        ({"padding_bytes": 1 << 20}, f"got {48 + (1 << 20)} bytes"),
    ],
    ids=["other places", "another last", "too short", "too long"],
)
def test_a_swap_file_that_cannot_be_placed_is_refused(changes: dict[str, int], got: str, tmp_path: Path, ask: Asked):
    said = ask.refuses(swapped(tmp_path / "c", **changes))
    assert "the flat group was swapped out to NVMe, and nothing says which swap file holds it" in said
    assert "expected 0_2.tensor.swp of 48 bytes in the rank's folder of 'offloaded_tensors'" in said
    assert got in said
    assert "rank_0" in said and "group 0" in said


def test_swap_files_of_all_ranks_are_needed(tmp_path: Path, ask: Asked):
    checkpoint = swapped(tmp_path / "c")
    (checkpoint / "global_step7/offloaded_tensors/rank01/0_2.tensor.swp").unlink()
    said = ask.refuses(checkpoint)
    assert "swapped out to NVMe" in said and "got nothing" in said and "pp_rank_1" in said
