"""What `inspect` says of a checkpoint, from facts in memory."""

from __future__ import annotations

import json

from catalogs import tied

from zeroconsolidate.opening.info import TensorInfo, describe


def test_what_inspect_sums_up():
    info = describe(tied())
    assert info.counts == {"trainable": 2, "frozen": 1, "buffer": 1, "tie": 1}
    assert info.parameters == {"trainable": 9, "frozen": 2, "buffer": 2}
    assert info.output_bytes == {"float32": 4 * 11 + 8, "bfloat16": 2 * 11 + 8}
    assert info.flat_groups == (9,)
    assert info.tensors[-1] == TensorInfo(name="t", shape=(3, 2), dtype="float32", role="tie", tied_to="a")
    assert info.tensors[0].numel == 6
    assert json.loads(json.dumps(info.to_dict()))["stage"] == 2
