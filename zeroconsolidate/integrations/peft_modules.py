"""A module with an adapter other than LoRA -> its tensors after PEFT's own merge. Runs in a process of its own.

    python -m zeroconsolidate.integrations.peft_modules MODEL_DIRECTORY ADAPTER_DIRECTORY ADAPTER DTYPE

Run as a process of its own, which the executor talks to through pipes: it writes a module's tensors, and reads what
they have become. The model is built on the meta device from MODEL_DIRECTORY/config.json, so that only the module in
hand has values. A message is a line of JSON, `{"module": …, "tensors": [[name, dtype, shape], …]}`, and the tensors'
bytes one after the other. Base tensors are called `base_layer.weight` and so on, as in PEFT's wrapper. The answer has
the same form; an error is `{"error": …}`.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from typing import IO, TYPE_CHECKING, Any

from .architecture import model_class, read_config

if TYPE_CHECKING:
    import torch


def main(model_directory: str, adapter_directory: str, adapter: str, dtype: str) -> int:
    """Answer requests until the input ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print must not come between
    try:
        model = load(model_directory, adapter_directory, adapter, dtype)
        _send(answers, {"ready": True}, {})
    except Exception as error:  # noqa: BLE001  (whatever PEFT or transformers raise is the answer)
        _send(answers, {"error": f"{type(error).__name__}: {error!s:.500}"}, {})
        return 1
    while line := requests.readline():
        header = json.loads(line)
        tensors = {name: _receive(requests, dtype, shape) for name, dtype, shape in header["tensors"]}
        try:
            if "vectors" in header:
                merged = answered(model, header["module"], tensors, adapter, header["vectors"])
            else:
                merged = merge(model, header["module"], tensors, adapter)
        except Exception as error:  # noqa: BLE001
            _send(answers, {"error": f"{type(error).__name__}: {error!s:.500}"}, {})
            return 1
        _send(answers, {}, merged)
    return 0


def load(model_directory: str, adapter_directory: str, adapter: str, dtype: str) -> Any:
    """The wrapped model, its base in `dtype`, all of it on the meta device."""
    import peft
    import torch
    import transformers

    config = read_config(model_directory)
    build: Any = model_class(config) or transformers.AutoModel.from_config
    with torch.device("meta"):
        model = build(config).to(getattr(torch, dtype))
    return peft.get_peft_model(model, peft.PeftConfig.from_pretrained(adapter_directory), adapter_name=adapter)


def _module(model: Any, path: str) -> Any:
    """The wrapper at `path`, in a model that may have been built as another class than it was trained as."""
    inner = model.get_base_model()
    wrappers = {name: module for name, module in inner.named_modules() if hasattr(module, "base_layer")}
    if path in wrappers:
        return wrappers[path]
    similar = [name for name in wrappers if name.endswith(f".{path}") or path.endswith(f".{name}")]
    if len(similar) != 1:
        raise KeyError(f"the model has no adapted module {path}")
    return wrappers[similar[0]]


def merge(model: Any, path: str, tensors: dict[str, torch.Tensor], adapter: str) -> dict[str, torch.Tensor]:
    """The module's own tensors after PEFT's `merge`."""
    import torch

    module = _filled(model, path, tensors, adapter)
    with torch.no_grad():
        module.merge(safe_merge=False, adapter_names=[adapter])
    merged = {
        f"base_layer.{name}": tensor.detach().clone() for name, tensor in module.get_base_layer().state_dict().items()
    }
    module.merged_adapters.clear()
    module.to("meta")
    return merged


def answered(
    model: Any, path: str, tensors: dict[str, torch.Tensor], adapter: str, most: int
) -> dict[str, torch.Tensor]:
    """The outputs of the module with its unmerged adapter for unit vectors, minus its output for zeros; and which rows
    or columns of its weight these are. Empty for a module that is not linear."""
    import torch
    from transformers.pytorch_utils import Conv1D

    module = _filled(model, path, tensors, adapter)
    base = module.get_base_layer()
    module.eval()
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        if isinstance(base, (torch.nn.Linear, Conv1D)):
            width = base.in_features if isinstance(base, torch.nn.Linear) else base.weight.shape[0]
            numbers = torch.tensor(sorted({number * (width - 1) // max(most - 1, 1) for number in range(most)}))
            vectors = torch.zeros(len(numbers) + 1, width, dtype=base.weight.dtype)
            vectors[torch.arange(len(numbers)), numbers] = 1
            answer = module(vectors)
            axis = "columns" if isinstance(base, torch.nn.Linear) else "rows"
            found = {axis: numbers, "answers": answer[:-1] - answer[-1]}
    module.to("meta")
    return found


def _filled(model: Any, path: str, tensors: dict[str, torch.Tensor], adapter: str) -> Any:
    """The wrapper at `path` with values.

    Each of `tensors` is cast to what PEFT would keep it in: base and copies of it as the base, adapters as float32.
    """
    import torch

    module = _module(model, path)
    dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    kept = {name: tensor.to(dtypes.get(name, tensor.dtype)) for name, tensor in tensors.items()}
    ranks, ranked = f"ranknum.{adapter}", kept.get(f"lora_E.{adapter}")
    if ranks in dtypes and ranks not in kept and ranked is not None:
        # AdaLoRA's parameter that is never trained, so that a save may lack it: how many ranks there are.
        kept[ranks] = torch.full((1,), float(len(ranked)), dtype=dtypes[ranks])
    result = module.load_state_dict(kept, strict=False, assign=True)
    if result.unexpected_keys or result.missing_keys:
        odd = [*result.unexpected_keys, *result.missing_keys]
        raise KeyError(f"the module's parameters are not those of this version of PEFT: {', '.join(odd[:4])}")
    _fill_constants(module, model.peft_config[adapter], adapter)
    return module


def _fill_constants(module: Any, config: Any, adapter: str) -> None:
    """Give values to buffers that are no part of the state dict (OFT's positions in a triangle), as PEFT makes them.

    Without values PEFT may merge nothing at all, and not say so. Raises ValueError if any tensor is left without.
    """
    import peft
    import torch

    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if empty:
        holder = torch.nn.ModuleDict({"layer": copy.deepcopy(module.get_base_layer()).to_empty(device="cpu")})
        alone = copy.copy(config)
        alone.target_modules = ["layer"]
        layer: Any = peft.inject_adapter_in_model(alone, holder, adapter_name=adapter).layer
        made = dict(layer.named_buffers())
        for name in empty:
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner).register_buffer(last, made[name], persistent=False)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if left:
        raise ValueError(f"the module has tensors without values: {', '.join(left[:4])}")


def _receive(stream: IO[bytes], dtype: str, shape: list[int]) -> torch.Tensor:
    import torch

    kind = getattr(torch, dtype)
    numel = math.prod(shape)
    data = bytearray(stream.read(numel * torch.empty(0, dtype=kind).element_size()))
    return torch.frombuffer(data, dtype=kind).reshape(shape) if numel else torch.empty(shape, dtype=kind)


def _send(stream: IO[bytes], header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    import torch

    listed = [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()]
    stream.write(json.dumps(header | {"tensors": listed}).encode() + b"\n")
    for tensor in tensors.values():
        stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
