"""What every Hugging Face run needs: a configuration, a tokenizer, and a record."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from shared.folders import COPIED_SCRIPTS

from . import provenance, truth

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .cases import FlagEmbeddingCase, TrainerCase

PACKAGES = ("transformers", "accelerate", "safetensors")


def ds_config(stage: int) -> dict[str, Any]:
    """The config people pass to the Trainer: "auto" wherever it can fill in its own arguments."""
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": False, "stage3_param_persistence_threshold": 0}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # torch_adam, because DeepSpeed's own Adam is a C++ extension that would have to be compiled first.
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto", "torch_adam": True}},
        "zero_allow_untested_optimizer": True,
    }


def byte_level_bpe(corpus: Iterable[str], *, vocabulary: int, special_tokens: list[str]) -> Any:
    """Train a GPT-style byte-level tokenizer, as Qwen's is; returns a `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def record(engine: Any, written: Path, folder: Path) -> truth.Truth:
    """Move the Trainer's `written` checkpoint into `folder` and put the true values beside it.

    A collective. Returns the true values, complete on every rank. Call `seal` when all other files are in place.
    """
    values = truth.collect(engine, compute_dtype=torch.bfloat16, exclude_frozen=False)
    dist.barrier()
    if dist.get_rank() == 0:
        for script in COPIED_SCRIPTS:
            (written / script).unlink(missing_ok=True)
        shutil.move(written, folder / "checkpoint")
        save_file(values.tensors, folder / "expected.safetensors", metadata={"format": "pt"})
    return values


def seal(case: TrainerCase | FlagEmbeddingCase, engine: Any, values: truth.Truth, folder: Path) -> None:
    """Write the provenance of a finished fixture, on rank 0."""
    if dist.get_rank() == 0:
        facts = asdict(case)
        provenance.write(
            folder,
            case=facts.pop("name"),
            description=facts.pop("description"),
            packages=(*PACKAGES, *facts.pop("packages")),
            **facts,
            step=engine.global_steps,
            optimizer="torch.optim.AdamW",
            ds_config=ds_config(case.stage),
            **provenance.names(values),
        )
    dist.barrier()
