"""reassemble(partition(x)) == x, for every layout DeepSpeed can produce: the oracle cuts, zeroconsolidate joins.

Besides the bytes: the pieces of a tensor cover it once, no input byte is used twice, and what is used and what is
named as padding are together all bytes of the flat groups.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from folders import MEMORY
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from zero_model import Run, save

import zeroconsolidate
from zeroconsolidate.archive.discover import discover
from zeroconsolidate.archive.load import load
from zeroconsolidate.catalog.read import read
from zeroconsolidate.plan.build import build, padding_bytes, select, sources
from zeroconsolidate.plan.pieces import covers_once
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.reader import reader

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


shapes = st.one_of(
    st.just(()),
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    st.sampled_from([(0,), (0, 4), (3, 0)]),
    st.integers(1, 70).map(lambda n: (n,)),
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    stage = draw(st.sampled_from([1, 2, 3]))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def randn(shape: tuple[int, ...]) -> torch.Tensor:
        # Through the compute dtype's range only: fp16 masters do not overflow in real runs.
        return torch.randn(shape, generator=generator)

    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    groups = [
        {f"g{g}.p{i}": randn(draw(shapes)) for i in range(count)} | {f"g{g}.last": randn((draw(st.integers(1, 5)),))}
        for g, count in enumerate(counts)
    ]
    frozen = {f"frozen.{i}": randn(draw(shapes)).to(dtype) for i in range(draw(st.integers(0, 3)))}
    trained = [name for group in groups for name, tensor in group.items() if tensor.numel()]
    tied = trained + [name for name, tensor in frozen.items() if tensor.numel()]
    ties = {f"alias.{i}": draw(st.sampled_from(tied)) for i in range(draw(st.integers(0, 2)))}
    buffers = {"steps": torch.tensor(2**40 + 1), "table": randn((2, 3)), "mask": torch.rand(4) > 0.5}
    names = [n for g in groups for n in g] + [*frozen, *ties, *buffers]
    aligned, old = draw(st.booleans()), draw(st.booleans())
    empties = any(not tensor.numel() for group in groups for tensor in group.values())
    return Run(
        stage=stage,
        world_size=draw(st.integers(1, 12)),
        groups=groups,
        compute_dtype=dtype,
        frozen=frozen,
        buffers=buffers,
        ties=ties,
        order=draw(st.permutations(names)),
        round_robin=draw(st.booleans()),
        parameter_alignment=aligned,
        sub_group_numel=draw(st.none() | st.integers(1, 20)),
        strips_tail=draw(st.booleans()),
        records_paddings=aligned or draw(st.booleans()),
        # Nothing says what a parameter without elements looks like if the frozen ones are left out at stage 3.
        exclude_frozen=draw(st.booleans()) and (old or stage != 3 or not empties),
        empties_are_optimized=old,
        # Nothing tells two names of a frozen parameter apart if neither is recorded anywhere (stage 1).
        records_ties=stage == 3 or any(name in frozen for name in ties.values()) or draw(st.booleans()),
    )


@given(runs())
@settings(max_examples=120)
def test_what_was_cut_apart_is_put_together(run: Run):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root = save(run, Path(folder) / "checkpoint")
        out = Path(folder) / "model"
        report = zeroconsolidate.consolidate(root, out, names="stored", ties="copy", check="all")
        written = load_file(out / "model.safetensors")
        truth = run.truth
        ties = {alias: name for alias, name in run.ties.items() if name in truth}
        assert set(written) == set(truth) | set(ties)
        for name, tensor in written.items():
            expected = truth[run.ties.get(name, name)]
            expected = expected if name in run.buffers else expected.float()
            assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape), name
            assert bits(tensor) == bits(expected), name
        checkpoint = zeroconsolidate.open_checkpoint(root)
        assert dict(checkpoint.ties) == ties
        assert list(checkpoint) == [name for name in run.names if name in truth or name in ties]
        for name, view in checkpoint.items():
            assert bits(view.load()) == bits(truth[run.ties.get(name, name)]), name
        if run.stage != 3:
            assert report.checked == sum(
                truth[run.ties.get(name, name)].numel()
                for name in checkpoint
                if run.ties.get(name, name) not in run.frozen and name not in run.buffers
            )


@given(runs())
@settings(max_examples=60)
def test_every_input_byte_is_used_once_or_is_padding(run: Run):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        catalog = read(discover(save(run, Path(folder))), load)
        plan = build(
            select(catalog, sources(catalog), copy_ties=False, wanted=lambda _name, _source: True),
            dtype=None,
            max_shard_bytes=None,
            padding_bytes=padding_bytes(catalog),
        )
        used: set[tuple[str, int]] = set()
        numel = 0
        trained = {member.name for group in catalog.groups for member in group.members}
        for tensor in plan.tensors():
            covers_once(tensor.recipe)
            name = catalog.ties.get(tensor.name, tensor.name)
            if name not in trained:
                continue
            for copy in tensor.recipe.copies():
                assert copy.count == 1
                used.update((copy.file, copy.file_start + 4 * i) for i in range(copy.run_numel))
            numel += tensor.numel
        assert len(used) == numel
        held = {(p.file, p.start + 4 * i) for group in catalog.groups for p in group.partitions for i in range(p.numel)}
        assert used <= held
        assert 4 * len(held - used) == plan.padding_bytes


@given(runs(), st.data())
@settings(max_examples=60)
def test_any_interval_of_a_tensor_can_be_read_alone(run: Run, data: st.DataObject):
    """What the executor does block by block must not depend on where blocks begin and end."""
    import numpy as np

    from zeroconsolidate.run.cast import STORAGE

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Inputs() as inputs:
        stored = sources(read(discover(save(run, Path(folder))), load))
        truth = run.truth
        for name, source in stored.items():
            start = data.draw(st.integers(0, source.recipe.numel))
            stop = data.draw(st.integers(start, source.recipe.numel))
            block = np.empty(stop - start, STORAGE[source.recipe.dtype])
            reader(source.recipe, inputs).fill(start, stop, block)
            owner = run.ties.get(name, name)
            whole = bits(truth[owner])
            itemsize = source.recipe.dtype.itemsize
            assert block.tobytes() == whole[start * itemsize : stop * itemsize], name
