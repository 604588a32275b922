"""Names of a state dict -> weights that bitsandbytes quantized, and the tensors that belong to them.

`Params4bit` and `Int8Params` are integers; what they stand for is in tensors that a state dict has beside them
(`bitsandbytes/functional.py`, `QuantState.as_dict`; `nn/modules.py`, `Linear8bitLt._save_to_state_dict`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_OF_WEIGHT = re.compile(r"\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.[^.]+)$")
_OF_MODULE = re.compile(r"\.(?:SCB|weight_format)$")


def companions(names: Collection[str]) -> dict[str, str]:
    """Those of `names` that belong to a quantized weight -> that weight.

    >>> companions(["q.weight", "q.weight.absmax", "k.weight", "k.SCB", "absmax"])
    {'q.weight.absmax': 'q.weight', 'k.SCB': 'k.weight'}
    """
    known = set(names)
    found = {}
    for name in names:
        weight, count = _OF_WEIGHT.subn("", name)
        if not count:
            weight, count = _OF_MODULE.subn(".weight", name)
        if count and weight in known:
            found[name] = weight
    return found
