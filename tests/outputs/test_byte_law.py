"""For the same tensors, our files are the files Hugging Face's own libraries write, byte for byte.

The oracles are the real libraries: safetensors for a file, huggingface_hub for the split, and for the index the
three lines of transformers' `save_pretrained` that make it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from folders import MEMORY
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from live_values import consolidate
from safetensors.torch import save, save_file
from zero_model import Run
from zero_model import save as save_checkpoint

from zeroconsolidate import options
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import BadOption
from zeroconsolidate.plan import layout

names = st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters=' ."\\/'), min_size=1, max_size=12
).filter(lambda name: name.isprintable() and name != "__metadata__")
module_names = names.filter(lambda name: not set(name) & set("/\\") and name.strip(".") and name not in "sfb")
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


class _Zeros:
    """The recipe of a tensor nobody reads: layouts are made from sizes alone."""

    is_plain = True

    def __init__(self, numel: int, dtype: DType) -> None:
        self.numel, self.dtype = numel, dtype

    def copies(self, start: int = 0, stop: int | None = None):
        return iter(())


def planned(tensors: dict[str, torch.Tensor]) -> list[layout.TensorPlan]:
    return [
        layout.TensorPlan(
            name=name,
            dtype=(dtype := DType.of(str(tensor.dtype).removeprefix("torch."))),
            shape=tuple(tensor.shape),
            recipe=_Zeros(tensor.numel(), dtype),
            is_parameter=True,
        )
        for name, tensor in tensors.items()
    ]


@given(st.dictionaries(names, st.tuples(st.sampled_from(list(DType)), shapes), max_size=8))
@settings(max_examples=200)
def test_the_header_is_that_of_safetensors(facts: dict[str, tuple[DType, tuple[int, ...]]]):
    tensors = {name: torch.zeros(shape, dtype=getattr(torch, d.torch_name)) for name, (d, shape) in facts.items()}
    theirs = save(tensors, metadata={"format": "pt"})
    ours = layout.lay_out("model.safetensors", planned(tensors))
    assert theirs[: len(ours.header)] == ours.header
    assert ours.size_bytes == len(theirs)
    assert not any(theirs[len(ours.header) :])
    starts = {tensor.name: start for tensor, start in zip(ours.tensors, ours.starts, strict=True)}
    length = int.from_bytes(theirs[:8], "little")
    header = json.loads(theirs[8 : 8 + length])
    assert starts == {n: 8 + length + e["data_offsets"][0] for n, e in header.items() if n != "__metadata__"}


def test_a_tensor_called_as_the_headers_metadata_is_refused():
    with pytest.raises(BadOption, match="cannot be called '__metadata__'"):
        layout.lay_out("model.safetensors", planned({"__metadata__": torch.zeros(1)}))


@given(
    st.dictionaries(names, st.tuples(st.sampled_from([torch.float32, torch.int8, torch.bfloat16]), shapes), min_size=1),
    st.integers(1, 400),
)
@settings(max_examples=300)
def test_the_split_is_that_of_huggingface_hub(facts: dict[str, tuple[torch.dtype, tuple[int, ...]]], limit_bytes: int):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in facts.items()}
    theirs = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=limit_bytes
    )
    ours = layout.split(planned(tensors), limit_bytes)
    assert {file.name: sorted(t.name for t in file.tensors) for file in ours} == {
        file: sorted(names) for file, names in theirs.filename_to_tensors.items()
    }
    index = layout.index_of(ours)
    if not theirs.is_sharded:
        assert index is None
        return
    content = {
        "metadata": {"total_parameters": sum(t.numel() for t in tensors.values()), **theirs.metadata},
        "weight_map": theirs.tensor_to_filename,
    }
    assert index is not None
    assert json.loads(index) == content
    if all(name.isascii() for name in tensors):
        assert index.decode() == json.dumps(content, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(data=st.data())
@settings(max_examples=30)
def test_a_converted_model_is_what_they_would_have_saved(dtype: torch.dtype, data: st.DataObject):
    """The whole way: a checkpoint with buffers, frozen parameters and a tie, split, against their files."""
    masters = {
        name: torch.randn(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2)))
        for name in data.draw(st.lists(module_names, min_size=1, max_size=8, unique=True))
    }
    buffers = {"b": torch.tensor([True, False]), "s": torch.tensor(3)}
    run = Run(
        stage=data.draw(st.sampled_from([1, 2, 3])),
        world_size=data.draw(st.integers(1, 4)),
        groups=[masters],
        frozen={"f": torch.randn(3, 2).bfloat16()},
        buffers=buffers,
    )
    limit_bytes = data.draw(st.integers(8, 300))
    parameters = {name: tensor.to(dtype) for name, tensor in (masters | run.frozen).items()}
    tensors = {name: parameters[name] if name in parameters else buffers[name] for name in run.names}
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=limit_bytes
    )
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        out, theirs = Path(folder) / "out", Path(folder) / "theirs"
        theirs.mkdir()
        for file, names_in_file in split.filename_to_tensors.items():
            save_file({name: tensors[name] for name in names_in_file}, theirs / file, metadata={"format": "pt"})
        if split.is_sharded:
            index = {
                "metadata": {"total_parameters": sum(t.numel() for t in parameters.values()), **split.metadata},
                "weight_map": split.tensor_to_filename,
            }
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (theirs / "model.safetensors.index.json").write_text(text)
        checkpoint = save_checkpoint(run, Path(folder) / "checkpoint")
        consolidate(checkpoint, out, dtype=str(dtype).removeprefix("torch."), max_shard_size=limit_bytes)
        ours = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "zeroconsolidate.json"}
        assert ours == {path.name: path.read_bytes() for path in theirs.iterdir()}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("5GB", 5 * 10**9), ("1TB", 10**12), ("200MB", 2 * 10**8), ("10kb", 10**4), (" 1.5 MB ", 1_500_000), (17, 17),
     ("9007199254740993B", 9007199254740993), ("5GiB", 5 << 30)],
)  # fmt: skip
def test_sizes_are_decimal(text: str | int, size_bytes: int):
    assert options.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "5", "0", "-1", "big", "GB", "0.5", "1e9", "5 5", 0, -3])
def test_other_sizes_are_refused(text: str | int):
    with pytest.raises(BadOption, match="a size"):
        options.parse_size(text)


def test_a_header_that_no_reader_takes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layout, "MAX_HEADER_BYTES", 100)
    with pytest.raises(BadOption, match="write more shards with --max-shard-size"):
        layout.lay_out("model.safetensors", planned({"a" * 100: torch.zeros(1)}))
