"""Makes tests/fixtures/several: engines that train more than one model, which config.json describes one of.

    python tools/make_several_fixtures.py              every case (a quarter of a minute each on two cores)

Needs the environment that `sh tools/test.sh` makes. A case folder has

    checkpoint/            DeepSpeed's save on two ranks, and the config.json of one of the models
    expected.safetensors   live parameter name -> float32 master, or the frozen value in its own dtype
    provenance.json        versions and digests
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared.cpu_ranks import free_port
from shared.folders import COPIED_SCRIPTS, RECORD, digests

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent / "tests" / "fixtures" / "several"
CASES = {"distillation_z3": ("distillation", 3), "actor_critic_z2": ("actor_critic", 2)}
STEPS, RANKS = 2, 2
PACKAGES = ("torch", "deepspeed", "transformers")
SMALL = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def build(what: str) -> Any:
    """A module with two models in it, and the configuration that lies beside the checkpoint as `config`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(3)
    config = LlamaConfig(**SMALL, tie_word_embeddings=False)
    module = torch.nn.Module()
    if what == "distillation":
        module.student = LlamaForCausalLM(config)
        module.teacher = LlamaForCausalLM(LlamaConfig(**SMALL | {"hidden_size": 24, "num_hidden_layers": 3}))
        module.teacher.requires_grad_(False)
        config.architectures = ["LlamaForCausalLM"]
    else:
        module.actor = LlamaForCausalLM(config)
        module.critic = LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1))
        config.architectures = ["LlamaForCausalLM"]
    module.config = config
    return module


def loss_of(what: str, module: Any, ids: Any) -> Any:
    """Every parameter that is trained has a part in it."""
    import torch

    if what == "distillation":
        with torch.no_grad():
            wanted = module.teacher(ids).logits.softmax(-1)
        return torch.nn.functional.cross_entropy(module.student(ids).logits.flatten(0, 1), wanted.flatten(0, 1))
    return module.actor(ids, labels=ids).loss + module.critic(ids).logits.square().mean()


def work(what: str, stage: int, output: str) -> None:
    """One rank: train, save, and have the first one write the values that the engine holds."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import torch
    import torch.distributed as dist
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param
    from safetensors.torch import save_file

    deepspeed.init_distributed("gloo")
    module = build(what)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    forward = type("Both", (torch.nn.Module,), {"forward": lambda self, ids: loss_of(what, self, ids)})()
    for name, child in module.named_children():
        forward.add_module(name, child)
    engine, *_ = deepspeed.initialize(model=forward, optimizer=optimizer, config=config)
    for step in range(STEPS):
        torch.manual_seed(10 * step + dist.get_rank())
        engine.backward(engine(torch.randint(3, 64, (2, 12))))
        engine.step()
    engine.save_checkpoint(output)
    values: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with GatheredParameters([parameter]):
            working = parameter.detach().clone()
        values[name] = working
        if parameter.requires_grad:
            values[name] = safe_get_full_fp32_param(parameter).detach().reshape(working.shape).clone()
            if not torch.equal(values[name].to(working.dtype), working):
                raise ValueError(f"{name}: the master, rounded, is not what the live module computes with")
    if dist.get_rank() == 0:
        module.config.to_json_file(f"{output}/config.json")
        save_file({name: value.contiguous() for name, value in values.items()}, f"{output}/../expected.safetensors")
    dist.barrier()
    os._exit(0)  # engines on the CPU may hang in interpreter shutdown; everything of value is on disk


def make(name: str) -> None:
    """Train one case and keep it."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"PYTHONPATH": str(TOOLS), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
        command += ["--master-port", str(free_port()), str(Path(__file__).resolve()), "--work", name, "run"]
        done = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        folder = ROOT / name
        if done.returncode or not Path(scratch, "expected.safetensors").exists():
            raise RuntimeError(f"{name}: exit code {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(scratch, "run"), folder / "checkpoint", ignore=shutil.ignore_patterns(*COPIED_SCRIPTS))
        shutil.move(Path(scratch, "expected.safetensors"), folder / "expected.safetensors")
    record = {
        "command": f"python tools/make_several_fixtures.py {name}",
        "ranks": RANKS,
        "versions": {
            package: importlib.metadata.version(package) for package in ("torch", "deepspeed", "transformers")
        },
        "sha256": digests(folder),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    print(f"{name}: {sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1000:.0f} KB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*CASES[sys.argv[2]], sys.argv[3])
    else:
        for each in sys.argv[1:] or CASES:
            make(each)
