"""A Hugging Face Trainer fine-tune of a tiny Qwen2 with tied embeddings: the checkpoint most people have in hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from shared.cpu_ranks import convince_accelerate

from . import huggingface

if TYPE_CHECKING:
    from torch import Tensor

    from .cases import TrainerCase

# Few enough to be learnt by heart by a model of 13,000 parameters.
CONVERSATIONS = [
    ("What does ZeRO-1 split?", "The optimizer states."),
    ("What does ZeRO-2 split?", "The optimizer states and the gradients."),
    ("What does ZeRO-3 split?", "The optimizer states, the gradients and the parameters."),
    ("Where are the fp32 weights?", "In the optimizer files, one piece a rank."),
    ("Can I load them?", "Yes, once they are consolidated."),
    ("Who are you?", "A tiny model trained on two ranks."),
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

BASE = Path("tiny-qwen2")  # relative, because the Trainer writes paths into its checkpoint
RUN = Path("run")


def train(case: TrainerCase, folder: Path) -> None:
    """Write checkpoint/, expected, logits and provenance of `case` into the existing `folder`. Runs on every rank."""
    convince_accelerate()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Trainer, TrainingArguments

    os.chdir(folder.parent)
    # Constructed before the model: this is what makes from_pretrained partition it as it loads under ZeRO-3.
    arguments = TrainingArguments(
        output_dir=str(RUN),
        deepspeed=huggingface.ds_config(case.stage),
        bf16=True,
        max_steps=case.steps,
        save_steps=case.steps,
        per_device_train_batch_size=len(CONVERSATIONS) // case.world_size,
        learning_rate=case.learning_rate,
        logging_steps=case.steps,
        report_to=[],
        seed=case.seed,
        disable_tqdm=True,
    )
    if dist.get_rank() == 0:
        make_base(case.seed)
    dist.barrier()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    model.generation_config = GenerationConfig.from_pretrained(BASE)
    examples = encode(tokenizer)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples, data_collator=collate, processing_class=tokenizer
    )
    trainer.train()

    engine = trainer.model_wrapped
    values = huggingface.record(engine, RUN / f"checkpoint-{case.steps}", folder)
    logits = live_logits(engine, values.tensors, values.ties, torch.tensor([examples[0]["input_ids"][:12]]))
    if dist.get_rank() == 0:
        save_file(logits, folder / "logits.safetensors", metadata={"format": "pt"})
    huggingface.seal(case, engine, values, folder)


def make_base(seed: int) -> None:
    """Write the "pretrained" model and its tokenizer to BASE."""
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    corpus = [text for pair in CONVERSATIONS for text in pair] * 4
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=huggingface.byte_level_bpe(corpus, vocabulary=300, special_tokens=special),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=128,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(BASE)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=20,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(seed)
    model = pretrain(Qwen2ForCausalLM(config), collate(encode(tokenizer)))
    model.generation_config = GenerationConfig(max_new_tokens=40, do_sample=False, **ids)
    model.save_pretrained(BASE)


def pretrain(model: Any, batch: dict[str, Tensor], *, steps: int = 300) -> Any:
    """Teach `model` its conversations in fp32 without DeepSpeed, which is much cheaper than with it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
    return model


def encode(tokenizer: Any) -> list[dict[str, list[int]]]:
    """Every conversation as input ids of one length; padding is not learnt."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for question, answer in CONVERSATIONS
    ]
    batch = tokenizer(texts, padding=True)
    return [
        {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": [token if keep else -100 for token, keep in zip(ids, mask, strict=True)],
        }
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def collate(examples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return {key: torch.tensor([example[key] for example in examples]) for key in examples[0]}


def live_logits(engine: Any, masters: dict[str, Tensor], ties: dict[str, str], input_ids: Tensor) -> dict[str, Tensor]:
    """What the trained model answers: bf16 from the live engine, fp32 from its masters in a model of their own.

    input_ids: int64 [1, tokens]. Logits: [1, tokens, vocabulary]. A collective under ZeRO-3. A model loaded from the
    consolidated weights must equal logits_fp32. logits_bf16 too after ZeRO-2, but not to the last bit after ZeRO-3,
    whose engine replaces torch's linear by a product, rounded, and then an added bias, rounded again.
    """
    from transformers import Qwen2ForCausalLM

    engine.eval()
    twin = Qwen2ForCausalLM(engine.module.config).float().eval()
    twin.load_state_dict({**masters, **{alias: masters[name] for alias, name in ties.items()}})
    with torch.no_grad():
        return {
            "input_ids": input_ids,
            "logits_bf16": engine(input_ids=input_ids).logits.contiguous(),
            "logits_fp32": twin(input_ids=input_ids).logits.contiguous(),
        }
