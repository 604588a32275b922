"""Experts as transformers 5 stacks them in memory, compared with experts that are listed as in files of the hub."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import python
from command import zeroconsolidate as run
from fixtures import FIXTURES
from safetensors.torch import load_file, save_file

from zeroconsolidate import compare, consolidate
from zeroconsolidate.audit import layouts
from zeroconsolidate.audit.sides import find_side, read_side

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("transformers", minversion="5")

MODELS = FIXTURES / "models"
Tensors = dict[str, torch.Tensor]
FIRST = {
    "mixtral": ("block_sparse_moe.experts", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp.experts", "gate_proj", "up_proj", "down_proj"),
}
"""How files list what is a stack in memory: gate and up are halves of one stack, down is the other."""


def listed_expert(kind: str, layer: int, expert: int, part: int) -> str:
    module, *parts = FIRST[kind]
    return f"model.layers.{layer}.{module}.{expert}.{parts[part]}.weight"


def written(folder: Path, tensors: Tensors, config: Path | None) -> Path:
    """A model directory that nobody says anything about, but its config.json."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        shutil.copy(config / "config.json", folder)
    return folder


@pytest.fixture(params=FIRST)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(kind: str) -> Path:
    return MODELS / f"{kind}_z3" / "checkpoint"


@pytest.fixture
def fused(checkpoint: Path, tmp_path: Path) -> Tensors:
    consolidate(checkpoint, tmp_path / "in-memory", names="in-memory")
    tensors = load_file(tmp_path / "in-memory" / "model.safetensors")
    assert sum("experts.gate_up_proj" in name for name in tensors) == 2
    return tensors


@pytest.fixture
def listed(checkpoint: Path, tmp_path: Path) -> Path:
    consolidate(checkpoint, tmp_path / "hub")
    return written(tmp_path / "listed", load_file(tmp_path / "hub" / "model.safetensors"), tmp_path / "hub")


def by_hand(kind: str, fused: Tensors) -> Tensors:
    """Stacks cut into the matrices that files have, with torch: [experts, gate and up, hidden], …"""
    found: Tensors = {}
    for name, tensor in fused.items():
        if ".experts." in name:
            layer = int(name.split(".")[2])
            for expert, matrix in enumerate(tensor):
                of_both = name.endswith("gate_up_proj")
                for part, cut in enumerate(matrix.chunk(2)) if of_both else [(2, matrix)]:
                    found[listed_expert(kind, layer, expert, part)] = cut
        else:
            gate = "mlp.gate." if kind == "mixtral" else "\0"
            found[name.replace(gate, "block_sparse_moe.gate.")] = tensor
    return found


class TestPaired:
    """Each matrix of the list is rows of the stack."""

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_the_same_values_are_equal(
        self, prefix: str, kind: str, fused: Tensors, listed: Path, checkpoint: Path, tmp_path: Path
    ) -> None:
        stacks = written(tmp_path / "stacks", {prefix + name: t for name, t in fused.items()}, checkpoint)
        for pair in ((stacks, listed), (listed, stacks)):
            found = compare(*pair)
            assert (found.only_a, found.only_b, found.whole.changed) == ((), (), 0)
            assert len(found.tensors) == len(load_file(listed / "model.safetensors"))
            assert {tensor.state for tensor in found.tensors} == {"equal"}
            assert any("as transformers holds them in memory, compared as the hub's files" in n for n in found.notes)
            assert found.equal
            assert {found.a.tensors, found.b.tensors} == {len(fused), len(found.tensors)}  # as they are stored

    def test_a_run_and_a_stacked_model_that_others_wrote(
        self, fused: Tensors, checkpoint: Path, tmp_path: Path
    ) -> None:
        found = compare(checkpoint, written(tmp_path / "stacks", fused, checkpoint))
        assert (found.equal, found.suspicions) == (True, ())

    def test_figures_are_torchs(self, kind: str, fused: Tensors, checkpoint: Path, tmp_path: Path) -> None:
        base = MODELS / "_bases" / kind
        found = compare(base, written(tmp_path / "stacks", fused, checkpoint))
        ours, theirs = load_file(base / "model.safetensors"), by_hand(kind, fused)
        assert (found.only_a, found.only_b) == ((), ())
        assert {tensor.name for tensor in found.tensors} == ours.keys() == theirs.keys()
        assert found.kinds["experts"].changed > 0
        for tensor in found.tensors:
            x, y = ours[tensor.name].double(), theirs[tensor.name].double()
            assert tensor.figures is not None
            assert tensor.figures.largest == float((x - y).abs().max())
            assert tensor.figures.changed == int((x != y).sum())
            assert tensor.figures.relative == pytest.approx(float((x - y).norm() / max(x.norm(), y.norm())), rel=1e-9)

    def test_a_quantized_list(self, fused: Tensors, kind: str, checkpoint: Path, tmp_path: Path) -> None:
        """Numbers and scales of each expert against rows of a stack that is not quantized."""
        consolidate(checkpoint, tmp_path / "fp8", quantize="fp8")
        found = compare(written(tmp_path / "stacks", fused, checkpoint), tmp_path / "fp8")
        assert (found.only_a, found.only_b, found.suspicions) == ((), (), ())
        name = listed_expert(kind, 1, 1, 2)
        assert 0 < next(tensor for tensor in found.tensors if tensor.name == name).figures.relative < 2**-4

    def test_the_command(self, fused: Tensors, listed: Path, checkpoint: Path, tmp_path: Path) -> None:
        done = run("compare", written(tmp_path / "stacks", fused, checkpoint), listed)
        assert done.returncode == 0, done.stderr
        assert "A and B are equal" in done.stdout


class TestFaults:
    """They are named by the names of files."""

    def faulty(
        self, change: Callable[[Tensors], Any], fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> Any:
        tensors = {name: tensor.clone() for name, tensor in fused.items()}
        change(tensors)
        return compare(listed, written(tmp_path / "stacks", tensors, checkpoint))

    def test_exchanged_experts(self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path) -> None:
        def exchange(tensors: Tensors) -> None:
            stack = tensors["model.layers.1.mlp.experts.down_proj"]
            stack[[0, 1]] = stack[[1, 0]]

        found = self.faulty(exchange, fused, checkpoint, listed, tmp_path)
        one, other = (listed_expert(kind, 1, expert, 2) for expert in (0, 1))
        assert set(found.beyond) == {one, other}
        assert f"{one} of B is {other} of A" in found.suspicions

    def test_gate_and_up_exchanged(
        self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> None:
        def exchange(tensors: Tensors) -> None:
            stack = tensors["model.layers.0.mlp.experts.gate_up_proj"]
            tensors["model.layers.0.mlp.experts.gate_up_proj"] = torch.cat([*stack.chunk(2, 1)][::-1], 1)

        found = self.faulty(exchange, fused, checkpoint, listed, tmp_path)
        gate, up = (listed_expert(kind, 0, 0, part) for part in (0, 1))
        assert f"{gate} of B is {up} of A" in found.suspicions

    def test_an_expert_of_zeros(
        self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> None:
        def zeros(tensors: Tensors) -> None:
            tensors["model.layers.0.mlp.experts.down_proj"][1] = 0

        found = self.faulty(zeros, fused, checkpoint, listed, tmp_path)
        assert f"all zeros in B only: {listed_expert(kind, 0, 1, 2)}" in found.suspicions

    def test_a_list_that_lacks_one(
        self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> None:
        tensors = load_file(listed / "model.safetensors")
        name = listed_expert(kind, 1, 0, 1)
        del tensors[name]
        short = written(tmp_path / "short", tensors, checkpoint)
        found = compare(written(tmp_path / "stacks", fused, checkpoint), short)
        assert (found.only_a, found.only_b) == ((name,), ())
        assert any("B does not load as it is" in text and name in text for text in found.suspicions)

    def test_a_stack_that_is_missing(
        self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> None:
        def remove(tensors: Tensors) -> None:
            del tensors["model.layers.1.mlp.experts.down_proj"]

        found = self.faulty(remove, fused, checkpoint, listed, tmp_path)
        lacking = {name for name in found.only_a if f"layers.1.{FIRST[kind][0]}" in name}
        assert lacking == set(found.only_a)
        assert all(name.endswith(f"{FIRST[kind][3]}.weight") for name in lacking)
        assert found.whole.changed == 0

    def test_a_stack_of_another_shape(
        self, kind: str, fused: Tensors, checkpoint: Path, listed: Path, tmp_path: Path
    ) -> None:
        """Which rows belong to which expert is then not known: it is compared with nothing."""
        name = "model.layers.1.mlp.experts.down_proj"

        def cut(tensors: Tensors) -> None:
            tensors[name] = tensors[name][:-1]

        found = self.faulty(cut, fused, checkpoint, listed, tmp_path)
        assert found.only_b == (name,)
        assert found.whole.changed == 0

    def test_without_a_config_it_is_said(self, fused: Tensors, listed: Path, tmp_path: Path) -> None:
        (listed / "config.json").unlink()
        found = compare(written(tmp_path / "stacks", fused, None), listed)
        assert not found.equal
        assert any("experts.down_proj is not known: no config.json" in note for note in found.notes)


def test_tensors_that_belong_together_are_turned_together(tmp_path: Path) -> None:
    """Of a conversion that cannot be made, whatever shares a tensor with it stays as it is."""
    checkpoint = MODELS / "mixtral_z3" / "checkpoint"
    consolidate(checkpoint, tmp_path / "stacks", names="in-memory")
    consolidate(checkpoint, tmp_path / "listed")
    one, other = find_side(tmp_path / "stacks"), find_side(tmp_path / "listed")
    side = read_side(one, other, base=None)
    known = layouts.in_table(str(tmp_path / "stacks"))
    assert known is not None
    every = layouts._whole(known, side, ("", ""))
    assert len(every) == len(known.conversions)
    first = next(each for each in every if each.inputs[0].endswith("gate_up_proj"))
    odd = [replace(each, opaque=True) if each is first else each for each in known.conversions]
    left = layouts._whole(replace(known, conversions=tuple(odd)), side, ("", ""))
    assert {each.output for each in every} - {each.output for each in left} == {
        each.output for each in every if each.inputs == first.inputs
    }


MEASURE = """
import sys
from zeroconsolidate import compare
assert compare(sys.argv[1], sys.argv[2]).equal
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_memory_does_not_depend_on_the_size_of_a_stack(tmp_path: Path) -> None:
    peaks = []
    for wide in (1 << 12, 1 << 17):
        config = json.loads((MODELS / "mixtral_z3" / "checkpoint" / "config.json").read_text())
        config |= {"num_hidden_layers": 1, "intermediate_size": wide}
        experts, hidden = config["num_local_experts"], config["hidden_size"]
        both, down = torch.zeros(experts, 2 * wide, hidden), torch.zeros(experts, hidden, wide)
        stacks = {"model.layers.0.mlp.experts.gate_up_proj": both, "model.layers.0.mlp.experts.down_proj": down}
        folders = []
        for name, tensors in (("stacks", stacks), ("listed", by_hand("mixtral", stacks))):
            folders.append(written(tmp_path / f"{name}-{wide}", tensors, None))
            (folders[-1] / "config.json").write_text(json.dumps(config))
        done = python(MEASURE, *folders)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 16 << 20
