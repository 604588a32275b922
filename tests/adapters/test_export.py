"""The files of adapters, planned in memory."""

from __future__ import annotations

from catalogs import BF16, stage2

from zeroconsolidate.adapters.export import AdapterFile, build_adapters
from zeroconsolidate.plan.sources import sources


def test_adapters_have_a_file_each():
    source = sources(stage2())["a"]
    adapters = [
        AdapterFile(adapter=name, folder=folder, tensors={"w": source})
        for name, folder in (("default", ""), ("x", "x"))
    ]
    plan = build_adapters(adapters, left_out=("z",), dtype=BF16, padding_bytes=3)
    assert [file.name for file in plan.files] == ["adapter_model.safetensors", "x/adapter_model.safetensors"]
    assert {tensor.dtype for tensor in plan.tensors()} == {BF16}
    assert (plan.index, plan.left_out, plan.padding_bytes) == (None, ("z",), 3)
