"""Makes tests/fixtures/sentence_transformers: models of several modules, trained by that library's own Trainers.

    python tools/make_sentence_transformers_fixtures.py              every case (half a minute each on two cores)
    python tools/make_sentence_transformers_fixtures.py dense_z3

Needs the environment of tools/envs/flagembedding.txt. A case folder has

    checkpoint/            the Trainer's checkpoint-N as written, without random states and copied scripts
    expected.safetensors   live parameter name -> float32 master, which rounded is what the live module computes with
    answers.safetensors    what the model, with those masters in float32, makes of the probe texts
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

from shared.cpu_ranks import convince_accelerate, free_port
from shared.folders import COPIED_SCRIPTS, RECORD, digests

TOOLS = Path(__file__).resolve().parent
FIXTURES = TOOLS.parent / "tests" / "fixtures"
ROOT = FIXTURES / "sentence_transformers"
BASE = FIXTURES / "models" / "_bases" / "xlmr"
CASES = {
    "dense_z3": ("dense", 3),
    "router_z3": ("router", 3),
    "sparse_z2": ("sparse", 2),
    "sparse_z3": ("sparse", 3),
    "cross_encoder_z2": ("cross_encoder", 2),
    "cross_encoder_z3": ("cross_encoder", 3),
}
"""No Dense at stage 2: sentence-transformers 6.2 cannot save it there (its weights are views of one flat tensor)."""
STEPS, RANKS, SEED = 3, 2, 1
PACKAGES = ("torch", "deepspeed", "transformers", "accelerate", "sentence-transformers", "safetensors")
LEFT_OUT = (*COPIED_SCRIPTS, "rng_state_*.pth")


def deepspeed_config(stage: int) -> dict[str, Any]:
    """The Trainer's own AdamW; at stage 3 nothing is gathered for a save, so that its weights are empty."""
    return {
        "zero_optimization": {
            "stage": stage,
            "stage3_gather_16bit_weights_on_model_save": False,
            "stage3_param_persistence_threshold": 0,
        },
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def build(what: str) -> Any:
    """The untrained model of a case."""
    import torch
    from transformers import set_seed

    set_seed(SEED)
    if what == "cross_encoder":
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(BASE), num_labels=1, device="cpu")
    if what == "sparse":
        from sentence_transformers import SparseEncoder
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sparse_encoder.modules import SpladePooling

        transformer = Transformer(str(BASE), transformer_task="fill-mask")
        return SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    def encoder() -> list[Any]:
        return [Transformer(str(BASE)), Pooling(16, "mean")]

    if what == "router":
        set_seed(SEED + 1)
        modules = [Router.for_query_document([*encoder(), Dense(16, 8)], [*encoder(), Dense(16, 8, bias=False)])]
    else:
        modules = [*encoder(), Dense(16, 8, activation_function=torch.nn.Tanh()), LayerNorm(8)]
    return SentenceTransformer(modules=modules, device="cpu")


def answers(what: str, model: Any) -> dict[str, Any]:
    """What a model makes of the probe texts."""
    import torch
    from model_fixtures.outputs import PAIRS, TEXTS

    if what == "cross_encoder":
        return {"scores": torch.as_tensor(model.predict(PAIRS, convert_to_tensor=True)).float().cpu()}
    if what == "router":
        return {
            "queries": model.encode_query(TEXTS, convert_to_tensor=True).cpu(),
            "documents": model.encode_document(TEXTS, convert_to_tensor=True).cpu(),
        }
    found = model.encode(TEXTS, convert_to_tensor=True)
    return {"embeddings": (found.to_dense() if found.is_sparse else found).float().cpu()}


def work(what: str, stage: int, output: str) -> None:
    """One rank: train, take the masters at the save, and have the first rank write them beside the checkpoint."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    convince_accelerate()
    import sentence_transformers as st
    import torch
    import torch.distributed as dist
    from datasets import Dataset
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param
    from model_fixtures.bases import sentences
    from safetensors.torch import save_file
    from transformers import TrainerCallback
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    masters: dict[str, torch.Tensor] = {}

    class Truth(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step != STEPS:
                return
            for name, parameter in model.named_parameters():
                with GatheredParameters([parameter]):
                    working = parameter.detach().clone()
                master = safe_get_full_fp32_param(parameter).detach().reshape(working.shape).clone()
                if not torch.equal(master.to(working.dtype), working):
                    raise ValueError(f"{name}: the master, rounded, is not what the live module computes with")
                masters[name] = master

    arguments = {
        "output_dir": output, "deepspeed": deepspeed_config(stage), "per_device_train_batch_size": 4,
        "max_steps": STEPS, "save_steps": STEPS, "logging_steps": 1, "learning_rate": 2e-2, "optim": "adamw_torch",
        # At stage 3 a Router's modules are of two dtypes in bf16, which DeepSpeed refuses.
        "bf16": not (what == "router" and stage == 3), "seed": SEED, "report_to": "none",
    }  # fmt: skip
    texts = sentences(96, seed=1)
    if what == "cross_encoder":
        rows = {"query": texts[::2], "answer": texts[1::2], "label": [float(n % 2) for n in range(48)]}
        args: Any = st.CrossEncoderTrainingArguments(**arguments)
        model = build(what)
        trainer: Any = st.CrossEncoderTrainer(
            model=model, args=args, train_dataset=Dataset.from_dict(rows), callbacks=[Truth()]
        )
    else:
        rows = {"anchor": texts[::2], "positive": texts[1::2]}
        kind = "SparseEncoder" if what == "sparse" else "SentenceTransformer"
        if what == "router":
            arguments["router_mapping"] = {"anchor": "query", "positive": "document"}
        args = getattr(st, f"{kind}TrainingArguments")(**arguments)
        model = build(what)
        if what == "sparse":
            from sentence_transformers.sparse_encoder import losses as sparse_losses

            loss: Any = sparse_losses.SpladeLoss(
                model, sparse_losses.SparseMultipleNegativesRankingLoss(model), document_regularizer_weight=1e-3
            )
        else:
            from sentence_transformers.sentence_transformer import losses

            loss = losses.MultipleNegativesRankingLoss(model)
        trainer = getattr(st, f"{kind}Trainer")(
            model=model, args=args, train_dataset=Dataset.from_dict(rows), loss=loss, callbacks=[Truth()]
        )
    trainer.train()
    dist.barrier()
    if dist.get_rank() == 0:
        unset_hf_deepspeed_config()
        copy = build(what).float()
        own = dict(copy.named_parameters())
        short = {name.removeprefix("model.") if name not in own else name: value for name, value in masters.items()}
        with torch.no_grad():
            for name, value in short.items():
                own[name].copy_(value)
        assert len(short) == len(own)
        save_file({name: value.contiguous() for name, value in masters.items()}, f"{output}/expected.safetensors")
        found = {name: value.contiguous() for name, value in answers(what, copy.eval()).items()}
        save_file(found, f"{output}/answers.safetensors")
    dist.barrier()
    os._exit(0)  # engines on the CPU may hang in interpreter shutdown; everything of value is on disk


def make(name: str) -> None:
    """Train one case and keep it."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {
            "PYTHONPATH": str(TOOLS), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
        command += ["--master-port", str(free_port()), str(Path(__file__).resolve()), "--work", name, "run"]
        done = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        run, folder = Path(scratch, "run"), ROOT / name
        if done.returncode or not (run / "answers.safetensors").exists():
            raise RuntimeError(
                f"{name} failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / f"checkpoint-{STEPS}", folder / "checkpoint", ignore=shutil.ignore_patterns(*LEFT_OUT))
        for file in ("expected.safetensors", "answers.safetensors"):
            shutil.move(run / file, folder / file)
    record = {
        "command": f"python tools/make_sentence_transformers_fixtures.py {name}",
        "ranks": RANKS,
        "seed": SEED,
        "deepspeed_config": deepspeed_config(CASES[name][1]),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
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
