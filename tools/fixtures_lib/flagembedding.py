"""A FlagEmbedding BGE-M3 fine-tune, run by FlagEmbedding's own runner on a tiny XLM-R.

Its Trainer is given a wrapper module, so every name in the checkpoint carries the wrapper's `model.`, beside the two
heads (`colbert_linear`, `sparse_linear`) that do not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from shared.cpu_ranks import convince_accelerate

from . import huggingface

if TYPE_CHECKING:
    from .cases import FlagEmbeddingCase

PASSAGES = {
    "What is a rank?": "One of the processes that train a model together.",
    "What is a partition?": "The part of a parameter that one rank holds.",
    "What is a shard?": "One output file of a model that is split.",
    "What is a buffer?": "A tensor of the model that no optimizer changes.",
    "What is a tie?": "A second name of the same parameter.",
    "What is a tag?": "The folder of one training step.",
}

BASE = Path("tiny-xlm-roberta")  # relative, because the Trainer writes paths into its checkpoint
RUN = Path("run")


def train(case: FlagEmbeddingCase, folder: Path) -> None:
    """Write checkpoint/, expected and provenance of `case` into the existing `folder`. Runs on every rank."""
    convince_accelerate()
    from FlagEmbedding.finetune.embedder.encoder_only.m3 import (
        EncoderOnlyEmbedderM3DataArguments,
        EncoderOnlyEmbedderM3ModelArguments,
        EncoderOnlyEmbedderM3Runner,
        EncoderOnlyEmbedderM3TrainingArguments,
    )

    os.chdir(folder.parent)
    training_arguments = EncoderOnlyEmbedderM3TrainingArguments(
        output_dir=str(RUN),
        deepspeed=huggingface.ds_config(case.stage),
        bf16=True,
        max_steps=case.steps,
        save_steps=case.steps,
        per_device_train_batch_size=2,
        dataloader_drop_last=True,
        learning_rate=case.learning_rate,
        report_to=[],
        seed=case.seed,
        disable_tqdm=True,
        unified_finetuning=True,
        use_self_distill=True,
        kd_loss_type="m3_kd_loss",
    )
    data = Path("train.jsonl")
    if dist.get_rank() == 0:
        make_base(case.seed)
        data.write_text("".join(f"{json.dumps(line)}\n" for line in triplets()))
    dist.barrier()
    runner = EncoderOnlyEmbedderM3Runner(
        model_args=EncoderOnlyEmbedderM3ModelArguments(model_name_or_path=str(BASE)),
        data_args=EncoderOnlyEmbedderM3DataArguments(
            train_data=[str(data)], train_group_size=2, query_max_len=24, passage_max_len=24
        ),
        training_args=training_arguments,
    )
    runner.run()

    engine = runner.trainer.model_wrapped
    values = huggingface.record(engine, RUN / f"checkpoint-{case.steps}", folder)
    huggingface.seal(case, engine, values, folder)


def triplets() -> list[dict[str, str | list[str]]]:
    passages = list(PASSAGES.values())
    return [
        {"query": query, "pos": [passage], "neg": [other for other in passages if other != passage]}
        for query, passage in PASSAGES.items()
    ]


def make_base(seed: int) -> None:
    """Write the "pretrained" encoder and a unigram tokenizer with XLM-R's special tokens to BASE."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        [text for pair in PASSAGES.items() for text in pair] * 4,
        trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=32,
    )
    wrapped.save_pretrained(BASE)
    config = XLMRobertaConfig(
        vocab_size=len(wrapped),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=34,  # XLM-R counts positions from pad_token_id + 1
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    XLMRobertaModel(config).save_pretrained(BASE)
