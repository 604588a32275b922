"""What DeepSpeed needs to be imported and to train on a CPU, old releases included.

Nothing here touches how a checkpoint is written: names that newer torch and numpy dropped, stream and event objects
that a CPU does not have, and the claim that fp16 is supported (it is, slowly).
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import logging
import os
import sys
import types
from typing import Any


def before_import() -> None:
    """Call before `import deepspeed`."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not os.environ.get("LAYOUTS_OLD_DEEPSPEED"):
        return
    import collections.abc

    import numpy as np
    import torch
    import torch.distributed.elastic.agent.server.api as elastic

    for name in ("Mapping", "MutableMapping", "Iterable", "Sequence"):
        setattr(collections, name, getattr(collections.abc, name))
    six = types.ModuleType("torch._six")
    six.inf, six.string_classes, six.int_classes = float("inf"), (str,), int
    six.container_abcs = collections.abc
    sys.modules.setdefault("torch._six", six)
    for name, value in {"bool": bool, "int": int, "float": float, "object": object, "BUFSIZE": 8192}.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    if not hasattr(elastic, "log"):
        elastic.log = logging.getLogger("torch.elastic")
    if not hasattr(elastic, "_get_socket_with_port"):
        elastic._get_socket_with_port = None
    # Releases before 0.14 take these two packages' presence for the definition of a CPU accelerator.
    for name in ("intel_extension_for_pytorch", "oneccl_bindings_for_pytorch"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__version__ = "0"
        module._C = types.SimpleNamespace(_has_xpu=lambda: False)
        sys.modules[name] = module
    torch.Tensor.record_stream = lambda self, stream: None
    if before_accelerators():
        from . import cuda

        tensorboard = types.ModuleType("tensorboardX")
        tensorboard.SummaryWriter = object
        sys.modules.setdefault("tensorboardX", tensorboard)
        cuda.stand_in()


def gather_one_by_one(
    _backend: object, outputs: list[Any], inputs: list[Any], group: object = None, async_op: bool = False
) -> types.SimpleNamespace | None:
    """Gathers that gloo cannot coalesce."""
    import torch.distributed as dist

    for output, piece in zip(outputs, inputs, strict=True):
        dist.all_gather_into_tensor(output, piece, group=group)
    return types.SimpleNamespace(wait=lambda: None) if async_op else None


def before_accelerators() -> bool:
    """Whether the release knows GPUs only."""
    release = os.environ.get("LAYOUTS_OLD_DEEPSPEED")
    return bool(release) and tuple(int(part) for part in release.split(".")) < (0, 9)


def after_import() -> None:
    """Call once deepspeed is imported, before a process group exists."""
    if before_accelerators():
        # The same two functions in Python, instead of a C++ extension to be compiled.
        import torch
        from deepspeed.ops.op_builder import UtilsBuilder

        UtilsBuilder.load = lambda self, verbose=True: types.SimpleNamespace(
            flatten=torch._utils._flatten_dense_tensors, unflatten=torch._utils._unflatten_dense_tensors
        )
        return
    from deepspeed.accelerator import get_accelerator

    accelerator = type(get_accelerator())
    accelerator.is_fp16_supported = lambda self: True
    if not os.environ.get("LAYOUTS_OLD_DEEPSPEED"):
        return

    from .cuda import Stream

    accelerator.Event = accelerator.Stream = Stream
    accelerator.current_stream = accelerator.default_stream = lambda self, *_: Stream()
    accelerator.memory_stats = lambda self, *_: {"num_alloc_retries": 0}
    accelerator.stream = lambda self, _stream: contextlib.nullcontext()
    # Shared-memory collectives are a C++ extension to be compiled; gloo's own do. Not by `import ... as`, which gives
    # the `torch` that deepspeed.comm imported.
    backend = sys.modules["deepspeed.comm.torch"]
    backend.build_shm_op = lambda: None
    backend.TorchBackend.all_gather_coalesced = gather_one_by_one
    accelerator.communication_backend_name = lambda self: "gloo"
