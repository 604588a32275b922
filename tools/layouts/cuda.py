"""A CPU under the name of a GPU, for DeepSpeed releases that know no other device (before 0.9).

Streams and events do nothing, the current device is "cpu", typed constructors give CPU tensors, and a CPU tensor says
the type name of its GPU twin (old releases sort gradients into buckets by that name). What is computed and saved stays
what those releases compute and save.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist


class Stream:
    """Also an event: everything has always happened already."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exc: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: 0


def stand_in() -> None:
    """Call before `import deepspeed`; there is no way back."""
    # Looks up torch.cuda's functions by identity when it is imported, which must be before they are replaced.
    import torch._dynamo

    cuda = torch.cuda
    cuda.current_device = lambda: "cpu"
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 8
    cuda.set_device = cuda.synchronize = cuda.empty_cache = cuda.manual_seed_all = lambda *_args, **_kwargs: None
    cuda.get_device_name = lambda *_args: "cpu"
    cuda.get_device_capability = lambda *_args: (7, 0)
    cuda.Stream = cuda.Event = Stream
    cuda.current_stream = cuda.default_stream = lambda *_args: Stream()
    cuda.stream = lambda _stream: contextlib.nullcontext()
    for kind in ("allocated", "reserved", "cached"):
        for prefix in ("memory_", "max_memory_", "reset_max_memory_"):
            setattr(cuda, prefix + kind, lambda *_args, **_kwargs: 0)
    cuda.reset_peak_memory_stats = lambda *_args: None
    cuda.memory_stats = lambda *_args: {"num_alloc_retries": 0}
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *_args: None
    for name in (
        "FloatTensor",
        "HalfTensor",
        "DoubleTensor",
        "ByteTensor",
        "BFloat16Tensor",
        "IntTensor",
        "LongTensor",
    ):
        setattr(cuda, name, make_constructor(getattr(torch, name)))
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_args, **_kwargs: self
    torch.Tensor.pin_memory = torch.Tensor.record_stream = lambda self, *_args, **_kwargs: self
    torch.Tensor.is_cuda = property(lambda _self: True)
    plain_type = torch.Tensor.type

    def type_of(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return plain_type(self, *args, **kwargs)
        return plain_type(self).replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = type_of
    to = torch.Tensor.to

    def to_cpu(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args = tuple("cpu" if on_gpu(arg) else arg for arg in args)
        return to(self, *args, **{key: "cpu" if on_gpu(value) else value for key, value in kwargs.items()})

    torch.Tensor.to = to_cpu
    module_to = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *args, **_kw: module_to(self, *("cpu" if on_gpu(arg) else arg for arg in args))
    for name in ("zeros", "ones", "empty", "full", "tensor", "arange", "zeros_like", "ones_like", "empty_like"):
        setattr(torch, name, on_cpu(getattr(torch, name)))
    init = dist.init_process_group
    dist.init_process_group = lambda *_args, **kwargs: init(**{**kwargs, "backend": "gloo"})


def on_gpu(value: Any) -> bool:
    return (isinstance(value, str) and value.startswith("cuda")) or (
        isinstance(value, torch.device) and value.type == "cuda"
    )


def on_cpu(factory: Any) -> Any:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if on_gpu(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return make


def make_constructor(cpu_class: Any) -> Any:
    """Old code writes `torch.cuda.FloatTensor([1.0])`; a plain function would break isinstance checks elsewhere."""

    class Constructor:
        def __new__(cls, *args: Any) -> torch.Tensor:
            return cpu_class(*args)

    return Constructor
