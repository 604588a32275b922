"""transformers' conversions turned around: where the files of a base model have a tensor in memory, and back."""

from __future__ import annotations

from typing import Any

import pytest
from catalogs import BF16, tensor

from zeroconsolidate.errors import Disagreement, UnsupportedLayout
from zeroconsolidate.naming.base_layout import BaseLayout, base_layout
from zeroconsolidate.naming.expectation import Expectation
from zeroconsolidate.naming.hub_layout import Architecture, Conversion
from zeroconsolidate.plan.build import Source
from zeroconsolidate.plan.pieces import Rows, View

FILES = {
    "language_model.model.layers.0.q.weight": (4, 4),
    "language_model.lm_head.weight": (8, 4),
    "experts.0.gate.weight": (2, 4),
    "experts.0.up.weight": (2, 4),
    "experts.1.gate.weight": (2, 4),
    "experts.1.up.weight": (2, 4),
    "qkv.weight": (6, 4),
    "turned.weight": (4, 4),
}
MEMORY = {
    "model.language_model.layers.0.q.weight": (4, 4),
    "lm_head.weight": (8, 4),
    "experts.gate_up": (2, 4, 4),
    "attention.q.weight": (4, 4),
    "attention.kv.weight": (2, 4),
    "turned.weight": (4, 4),
}


def conversion(output: str, *inputs: str, runs: tuple[tuple[int, int, int], ...], opaque: bool = False) -> Conversion:
    return Conversion(output=output, shape=FILES[output], inputs=inputs, row_numel=4, runs=runs, opaque=opaque)


CONVERSIONS = (
    conversion("language_model.model.layers.0.q.weight", "model.language_model.layers.0.q.weight", runs=((0, 0, 4),)),
    conversion("language_model.lm_head.weight", "lm_head.weight", runs=((0, 0, 8),)),
    *(
        conversion(f"experts.{expert}.{part}.weight", "experts.gate_up", runs=((0, 4 * expert + first, 2),))
        for expert in (0, 1)
        for part, first in (("gate", 0), ("up", 2))
    ),
    conversion("qkv.weight", "attention.q.weight", "attention.kv.weight", runs=((0, 0, 2), (1, 0, 2), (0, 2, 2))),
    conversion("turned.weight", "turned.weight", runs=(), opaque=True),
)


def architecture() -> Architecture:
    def expectation(origin: str, shapes: dict[str, Any], layout: str) -> Expectation:
        return Expectation(origin=origin, shapes=shapes, ties={}, exact=True, layout=layout)

    return Architecture(
        expectation=expectation("Model", MEMORY, "stored"),
        hub=expectation("Model's files", FILES, "hub"),
        conversions=CONVERSIONS,
    )


TENSORS = {name: tensor(*shape, key=name) for name, shape in FILES.items()}


def layout(paths: list[str] | None = None, files: dict[str, Any] | None = None) -> BaseLayout:
    shapes = {name: t.shape for name, t in (files or TENSORS).items()}
    found = base_layout(architecture(), shapes, paths or list(MEMORY))
    assert found is not None
    return found


def new(name: str) -> Source:
    return Source(name=name, shape=MEMORY[name], recipe=View(tensor(*MEMORY[name], key="new")), role="trainable")


def test_what_is_called_otherwise_in_files():
    found = layout().source("model.language_model.layers.0.q.weight", TENSORS)
    assert found is not None
    assert found.recipe == View(TENSORS["language_model.model.layers.0.q.weight"])
    assert layout().in_files({"lm_head.weight": new("lm_head.weight")}, TENSORS).keys() == {
        "language_model.lm_head.weight"
    }


def test_a_stack_is_made_of_matrices_and_written_as_such():
    found = layout().source("experts.gate_up", TENSORS)
    assert found is not None
    assert isinstance(found.recipe, Rows)
    assert (found.shape, found.recipe.runs) == ((2, 4, 4), ((0, 0, 2), (1, 0, 2), (2, 0, 2), (3, 0, 2)))
    written = layout().in_files({"experts.gate_up": new("experts.gate_up")}, TENSORS)
    assert {name: source.recipe.runs for name, source in written.items()} == {  # type: ignore[attr-defined]
        "experts.0.gate.weight": ((0, 0, 2),), "experts.0.up.weight": ((0, 2, 2),),
        "experts.1.gate.weight": ((0, 4, 2),), "experts.1.up.weight": ((0, 6, 2),),
    }  # fmt: skip
    lacking = {name: t for name, t in TENSORS.items() if name != "experts.1.up.weight"}
    assert layout().source("experts.gate_up", lacking) is None
    other = TENSORS | {"experts.1.up.weight": tensor(2, 4, dtype=BF16)}
    assert layout().source("experts.gate_up", other) is None


def test_what_shares_a_tensor_of_the_files_with_something_untrained():
    found = layout().source("attention.q.weight", TENSORS)
    assert found is not None
    assert found.recipe == Rows((View(TENSORS["qkv.weight"]),), 4, ((0, 0, 2), (0, 4, 2)))
    (written,) = layout().in_files({"attention.q.weight": new("attention.q.weight")}, TENSORS).values()
    assert written.role == "trainable"
    assert isinstance(written.recipe, Rows)
    assert written.recipe.runs == ((0, 0, 2), (1, 0, 2), (0, 2, 2))
    assert written.recipe.of == (
        new("attention.q.weight").recipe,
        Rows((View(TENSORS["qkv.weight"]),), 4, ((0, 2, 2),)),
    )


def test_another_order_of_elements_is_refused_where_it_would_be_written():
    assert layout().is_opaque("turned.weight")
    assert layout().source("turned.weight", TENSORS) is None
    with pytest.raises(UnsupportedLayout, match="in another order"):
        layout().in_files({"turned.weight": new("turned.weight")}, TENSORS)


def test_a_run_with_the_names_of_files():
    """transformers 4 has them in memory."""
    found = layout(list(FILES))
    assert found.name_of("language_model.lm_head.weight") == "language_model.lm_head.weight"
    assert found.source("experts.0.gate.weight", TENSORS) is not None
    assert found.name_of("lm_head.weight") is None


def test_a_base_with_the_names_in_memory():
    tensors = {name: tensor(*shape) for name, shape in MEMORY.items()}
    found = layout(files=tensors)
    source = found.source("experts.gate_up", tensors)
    assert source is not None
    assert source.recipe == View(tensors["experts.gate_up"])


def test_a_base_with_another_prefix():
    """As a class with a head has it before all names, and one without has not."""
    found = layout(files={f"model.{name}": tensor(*shape) for name, shape in FILES.items()})
    assert found.renamed["model.qkv.weight"] == "qkv.weight"


def test_a_grown_vocabulary_keeps_its_rows():
    grown = Source(name="h", shape=(9, 4), recipe=View(tensor(9, 4)), role="trainable")
    (written,) = layout().in_files({"lm_head.weight": grown}, TENSORS).values()
    assert written.shape == (9, 4)


def test_the_base_of_another_model():
    assert base_layout(architecture(), {"a.weight": (1,), "b.weight": (1,), "lm_head.weight": (8, 4)}, ["a"]) is None
    assert base_layout(architecture(), {name: t.shape for name, t in TENSORS.items()}, ["nothing.like.it"]) is None


def test_what_may_be_either_of_two_modules_is_refused():
    shapes = {f"{tower}.layers.0.q.weight": (4, 4) for tower in ("text", "vision")}
    towers = Expectation(origin="Model", shapes=shapes, ties={}, exact=True)
    both = Architecture(expectation=towers, hub=towers, conversions=())
    with pytest.raises(Disagreement, match=r"may be text\.layers\.0\.q\.weight or vision\.layers\.0\.q\.weight"):
        base_layout(both, shapes, ["layers.0.q.weight"])
    assert base_layout(both, shapes, ["vision.layers.0.q.weight"]) is not None
