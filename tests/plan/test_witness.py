"""Which copies may stand in a file in place of rounded masters: those that are whole, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fixtures import FIXTURES

from zeroconsolidate.dtypes import DType
from zeroconsolidate.opening.opened import open_to_convert
from zeroconsolidate.options import Options
from zeroconsolidate.plan.build import tensor_plans
from zeroconsolidate.plan.pieces import Rows, View
from zeroconsolidate.plan.witness import witnesses

if TYPE_CHECKING:
    from zeroconsolidate.catalog.facts import Catalog
    from zeroconsolidate.opening.opened import Opened


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_to_convert(str(FIXTURES / "z2_frozen/checkpoint"), Options())


def with_module(catalog: Catalog, **copies: Any) -> Catalog:
    """With other copies of some parameters."""
    (part,) = catalog.parts
    module = dict(part.module) | {name.replace("__", "."): copy for name, copy in copies.items()}
    return replace(catalog, parts=(replace(part, module=module),))


class TestWitnesses:
    def test_are_the_copies_of_what_is_trained(self, opened: Opened) -> None:
        found = witnesses(opened.catalog, opened.whole)
        trained = {name for name, source in opened.stored.items() if source.role == "trainable"}
        assert set(found) == trained != set(opened.stored)
        for name, (masters, copy) in found.items():
            assert masters is opened.stored[name].recipe
            assert copy == View(opened.catalog.module[name])
            assert (masters.dtype, copy.dtype) == (DType.F32, DType.BF16)

    def test_not_of_what_is_lost(self, opened: Opened) -> None:
        whole = dict(opened.whole)
        name = next(name for name, source in whole.items() if source.role == "trainable")
        del whole[name]
        assert name not in witnesses(opened.catalog, whole)

    def test_not_where_the_copy_is_in_pieces_or_of_another_shape(self, opened: Opened) -> None:
        found = witnesses(opened.catalog, opened.whole)
        name, copy = next((name, copy.tensor) for name, (_, copy) in found.items() if len(copy.tensor.shape) == 2)
        rows, width = copy.shape
        others = [
            replace(copy, shape=(width, rows), stride=(rows, 1)),
            replace(copy, stride=(1, rows)),
            replace(copy, storage=replace(copy.storage, big_endian=True)),
        ]
        for other in others:
            catalog = with_module(opened.catalog, **{name.replace(".", "__"): other})
            assert set(found) - set(witnesses(catalog, opened.whole)) == {name}

    def test_not_of_a_model_whose_ranks_hold_parts(self) -> None:
        """Their copies are in parts as well."""
        opened = open_to_convert(str(FIXTURES / "layouts/megatron_tp2_z1/checkpoint"), Options())
        assert opened.catalog.module
        assert witnesses(opened.catalog, opened.whole) == {}


class TestPlans:
    def test_only_what_is_cast_to_the_dtype_of_its_copy_has_one(self, opened: Opened) -> None:
        known = witnesses(opened.catalog, opened.whole)
        counts = {
            dtype: sum(plan.witness is not None for plan in tensor_plans(opened.stored, dtype, known))
            for dtype in (None, DType.F32, DType.F16, DType.BF16)
        }
        assert counts == {None: 0, DType.F32: 0, DType.F16: 0, DType.BF16: len(known)}
        assert all(plan.witness is None for plan in tensor_plans(opened.stored, DType.BF16))

    def test_only_the_masters_themselves_have_one(self, opened: Opened) -> None:
        """Not what a transformation, a mean or a change of names has made of them."""
        known = witnesses(opened.catalog, opened.whole)
        name, source = next((name, opened.stored[name]) for name in known)
        renamed = replace(source, recipe=Rows((source.recipe,), source.recipe.numel, ((0, 0, 1),)))
        (plan,) = tensor_plans({"other.name": source}, DType.BF16, known)
        assert plan.witness == known[name][1]
        (plan,) = tensor_plans({name: renamed}, DType.BF16, known)
        assert plan.witness is None
        (plan,) = tensor_plans({name: replace(source, keeps_dtype=True)}, DType.BF16, known)
        assert plan.witness is None
