"""One rank of one training run: `torchrun -m model_fixtures.worker CASE OUTPUT`, started in the fixtures' folder.

The paths it is given are relative, because trainers write them into the checkpoint.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ranks

ranks.install()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config  # noqa: E402

from .bases import sentences  # noqa: E402
from .cases import CASES, SEED, Case, training_arguments  # noqa: E402
from .truth import TruthCallback, is_first_rank  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

FLAG_RUNNERS = {
    "m3": "embedder.encoder_only.m3",
    "embedder": "embedder.encoder_only.base",
    "llm_embedder": "embedder.decoder_only.base",
    "reranker": "reranker.encoder_only.base",
    "llm_reranker": "reranker.decoder_only.base",
}
MAX_LENGTH = 24
"""Tokens a text is cut to in FlagEmbedding's training."""


def train_causal(case: Case, output: str) -> tuple[Trainer, TruthCallback, Callable[[], torch.nn.Module], Any]:
    """Fine-tune with the Hugging Face Trainer, all weights or a peft adapter."""
    # Before the model: under stage 3 it makes from_pretrained load straight into partitions.
    args = TrainingArguments(**training_arguments(case, output))
    base = f"_bases/{case.base}"
    tokenizer = AutoTokenizer.from_pretrained(base)

    def build() -> torch.nn.Module:
        set_seed(SEED)
        model = AutoModelForCausalLM.from_pretrained(base)
        if case.adapter is None:
            return model
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **case.adapter))

    rows = [tokenizer(text)["input_ids"][:16] for text in sentences(64, seed=2)]
    rows = [row for row in rows if len(row) == 16]

    def collate(batch: list[list[int]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor(batch)
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    truth = TruthCallback(case, tokenizer)
    trainer = Trainer(
        model=build(),
        args=args,
        train_dataset=rows,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[truth],
    )
    return trainer, truth, build, tokenizer


def train_flag(case: Case, output: str) -> tuple[Trainer, TruthCallback, Callable[[], torch.nn.Module], Any]:
    """Fine-tune with FlagEmbedding's own runner, given the arguments its command line takes."""
    module = importlib.import_module(f"FlagEmbedding.finetune.{FLAG_RUNNERS[case.recipe]}.__main__")
    # The classes are whatever that __main__ would parse its command line with.
    kinds = {
        kind: next(
            value
            for name, value in vars(module).items()
            if name.endswith(f"{kind}Arguments") and isinstance(value, type)
        )
        for kind in ("Model", "Data", "Training")
    }
    runner_class = next(value for name, value in vars(module).items() if name.endswith("Runner"))
    arguments: dict[str, Any] = {
        **training_arguments(case, output),
        "model_name_or_path": f"_bases/{case.base}",
        "train_data": ["train.jsonl"],
        "train_group_size": 2,
        "query_max_len": MAX_LENGTH,
        "passage_max_len": MAX_LENGTH,
        "dataloader_drop_last": True,
        **case.flags,
    }
    if "embedder" in case.recipe or case.recipe == "m3":
        pooling = "last_token" if case.recipe == "llm_embedder" else "cls"
        arguments |= {"sentence_pooling_method": pooling, "normalize_embeddings": True, "temperature": 0.02}
    parsed = HfArgumentParser(tuple(kinds.values())).parse_dict(arguments)
    runner = runner_class(*parsed)
    truth = TruthCallback(case, runner.tokenizer)
    runner.trainer.add_callback(truth)

    def build() -> torch.nn.Module:
        set_seed(SEED)
        return runner.load_tokenizer_and_model()[1]

    return runner.trainer, truth, build, runner.tokenizer


def main() -> None:
    """Train, let the callback gather, and have the first rank write the truth beside the checkpoint."""
    name, output = sys.argv[1:]
    case = CASES[name]
    train = train_causal if case.recipe == "causal" else train_flag
    trainer, truth, build, tokenizer = train(case, output)
    trainer.train()
    dist.barrier()
    if is_first_rank():
        # From here on models are built plainly, not partitioned.
        unset_hf_deepspeed_config()
        notes = truth.write(Path(output), build, tokenizer)
        Path(output, "notes.json").write_text(json.dumps(notes))
    dist.barrier()
    # Engines on the CPU may hang or fail in interpreter shutdown; everything of value is on disk.
    os._exit(0)


if __name__ == "__main__":
    main()
