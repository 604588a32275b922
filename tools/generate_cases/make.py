"""Ranks that train cases: one after the other in the same processes, every parameter given a value of its own.

    python -m generate_cases.make FOLDER      (with FOLDER/<number>/case.json, world_size ranks each)

Nothing is computed: what a step leaves is a float32 master and its rounded copy, and both are set through DeepSpeed's
own accessors, for any module, whether it can run or not. A case folder then has

    base/                the original model
    ckpt/                what save_checkpoint wrote, and what a trainer puts beside it
    truth.safetensors    the engine's values: name in the engine -> float32 master, or frozen value, or buffer
    facts.json           which names were optimized, which are one parameter
    failed.txt           in their stead, if PEFT or DeepSpeed would not have the case
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixtures_lib import ranks

if TYPE_CHECKING:
    from .build import Built
    from .case import Case

TAG = "global_step1"


def engine_config(case: Case) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": case.stage}
    if case.stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
    precision = {"bf16": {"bf16": {"enabled": True}}, "fp16": {"fp16": {"enabled": True}}, "fp32": {}}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **precision[case.dtype],
    }


def work(folder: Path, numbers: list[int]) -> None:
    """Make the cases; runs on every rank."""
    import deepspeed
    import torch.distributed as dist
    from deepspeed.runtime.engine import DeepSpeedEngine

    deepspeed.init_distributed("gloo")
    DeepSpeedEngine._copy_recovery_script = lambda *_: None
    for number in numbers:
        _make(folder / str(number), dist)
        gc.collect()


def _make(folder: Path, dist: Any) -> None:
    from .build import build, save_base
    from .case import Case

    case = Case.from_json((folder / "case.json").read_text())
    try:
        if dist.get_rank() == 0:
            save_base(case, folder / "base")
        dist.barrier()
        built, problem = build(case, folder / "base"), ""
    except Exception as error:
        built, problem = None, f"{type(error).__name__}: {error}"
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if any(problems) or built is None:
        if dist.get_rank() == 0:
            (folder / "failed.txt").write_text(next(filter(None, problems)))
        return
    try:
        _train(case, built, folder, dist)
    except Exception:
        # The other rank may be waiting for this one: end, so that both are started anew with the next case.
        (folder / "failed.txt").write_text(traceback.format_exc())
        os._exit(3)


def _train(case: Case, built: Built, folder: Path, dist: Any) -> None:
    import deepspeed
    import torch
    from safetensors.torch import save_file

    optimizer = torch.optim.AdamW(built.optimized, lr=1e-3)
    engine, *_ = deepspeed.initialize(model=built.module, optimizer=optimizer, config=engine_config(case))
    try:
        truth, facts = set_masters(case, built, engine)
        engine.global_steps = 1
        engine.save_checkpoint(
            str(folder / "ckpt"), tag=TAG, exclude_frozen_parameters=case.exclude_frozen and case.stage > 0
        )
        dist.barrier()
        if dist.get_rank() == 0:
            save_file(truth, folder / "truth.safetensors", metadata={"format": "pt"})
            (folder / "facts.json").write_text(json.dumps(facts))
            _put_beside(case, built, truth, facts, folder)
    finally:
        engine.destroy()
    dist.barrier()


def set_masters(case: Case, built: Built, engine: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give every optimized parameter a master that its 16-bit copy is not; (values by name, facts)."""
    import deepspeed
    import torch
    import torch.distributed as dist
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param, safe_set_local_fp32_param

    generator = torch.Generator().manual_seed(case.seed)
    optimized = {id(parameter) for parameter in built.optimized}
    truth: dict[str, Any] = {}
    for name, parameter in engine.module.named_parameters():
        partitioned = [parameter] if hasattr(parameter, "ds_id") else []
        if id(parameter) not in optimized or not (parameter.ds_numel if partitioned else parameter.numel()):
            with deepspeed.zero.GatheredParameters(partitioned):
                truth[name] = parameter.detach().clone().contiguous()
            continue
        shape = parameter.ds_shape if partitioned else parameter.shape
        master = safe_get_full_fp32_param(parameter).reshape(shape)
        value = master + 0.05 * torch.randn(shape, generator=generator)
        if partitioned:
            # safe_set_full_fp32_param fails where ranks do not divide a parameter.
            numel, world_size = parameter.ds_tensor.ds_numel, dist.get_world_size()
            flat = torch.nn.functional.pad(value.flatten(), (0, numel * world_size - value.numel()))
            safe_set_local_fp32_param(parameter, flat[dist.get_rank() * numel :][:numel])
        else:
            safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value.to(parameter.dtype))
        truth[name] = safe_get_full_fp32_param(parameter).detach().reshape(shape).clone().contiguous()
        if not torch.equal(truth[name], value):
            raise ValueError(f"{name}: the engine does not have the value it was given")
    state = engine.module.state_dict(keep_vars=True)
    buffers = {name: value for name, value in state.items() if not isinstance(value, torch.nn.Parameter)}
    tensors = {name: value for name, value in buffers.items() if torch.is_tensor(value)}
    truth |= {f"buffer:{name}": value.detach().clone().contiguous() for name, value in tensors.items()}
    first: dict[int, str] = {}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
    facts = {
        "optimized": [name for name, p in engine.module.named_parameters() if id(p) in optimized],
        "trainable": [name for name, p in engine.module.named_parameters() if p.requires_grad],
        "names": {name: first[id(p)] for name, p in built.names.items() if id(p) in first},
    }
    return truth, facts


def _put_beside(case: Case, built: Built, truth: dict[str, Any], facts: dict[str, Any], folder: Path) -> None:
    """What trainers leave beside the checkpoint's folder."""
    import torch
    from safetensors.torch import save_file

    checkpoint = folder / "ckpt"
    model = built.model
    if case.adapter is not None:
        for name, config in model.peft_config.items():  # type: ignore[union-attr,operator]
            config.base_model_name_or_path = "base"
            if config.task_type is None:
                kind = built.trained_class
                config.auto_mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
            config.save_pretrained(checkpoint if name == "default" else checkpoint / name)
        model = model.get_base_model()  # type: ignore[operator]
    if case.config == "own" and hasattr(model, "config"):
        model.config.architectures = [built.trained_class.__name__]
        model.config.save_pretrained(checkpoint)
    elif case.config == "base" and (folder / "base" / "config.json").exists():
        (checkpoint / "config.json").write_bytes((folder / "base" / "config.json").read_bytes())
    if case.weights == "empty":
        names = {name: torch.zeros(0, dtype=torch.bfloat16) for name in facts["names"]}
        save_file(names, checkpoint / "model.safetensors", metadata={"format": "pt"})
    elif case.weights == "half" and case.config == "own" and hasattr(model, "save_pretrained"):
        values = {name: truth[owner].bfloat16() for name, owner in facts["names"].items()}
        model.save_pretrained(checkpoint, state_dict=values)


def main(folder: Path) -> None:
    """Make every case in `folder` that is not made, restarting the ranks where a case ends them."""
    ranks.prepare()
    ranks.import_deepspeed()
    import peft  # noqa: F401
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    while left := _left(folder):
        world_size = max(left)
        numbers = left[world_size]
        # A rank ended itself over a case, and said so in its folder: the others are still to be made.
        with contextlib.suppress(RuntimeError, torch.multiprocessing.ProcessExitedException):
            ranks.run(work, folder, numbers, world_size=world_size, log=folder / "log.txt", timeout_seconds=1800)
        if numbers and _left(folder).get(world_size) == numbers:
            (folder / str(numbers[0]) / "failed.txt").write_text("the ranks ended without a word; see log.txt")


def _left(folder: Path) -> dict[int, list[int]]:
    """World size -> cases that were neither made nor failed."""
    left: dict[int, list[int]] = {}
    for path in sorted(folder.glob("*/case.json"), key=lambda path: int(path.parent.name)):
        if not (path.parent / "facts.json").exists() and not (path.parent / "failed.txt").exists():
            left.setdefault(json.loads(path.read_text())["world_size"], []).append(int(path.parent.name))
    return left


if __name__ == "__main__":
    main(Path(sys.argv[1]))
