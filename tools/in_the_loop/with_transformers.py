"""A training with the Hugging Face Trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from fixtures_lib import huggingface
from fixtures_lib.trainer import CONVERSATIONS, collate, encode
from shared.cpu_ranks import convince_accelerate

from .common import Times, die_in_the_middle_of, note_truth

if TYPE_CHECKING:
    from .common import Plan


def train(plan: Plan) -> None:
    """Runs on every rank."""
    convince_accelerate()
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    from zeroconsolidate import ConsolidateCallback

    os.chdir(plan.out)
    arguments = TrainingArguments(
        output_dir="run",
        deepspeed=huggingface.ds_config(plan.stage),
        bf16=True,
        max_steps=plan.steps,
        save_steps=plan.save_every,
        save_total_limit=plan.limit,
        per_device_train_batch_size=len(CONVERSATIONS) // dist.get_world_size()
        if dist.is_initialized()
        else len(CONVERSATIONS) // int(os.environ["WORLD_SIZE"]),
        learning_rate=1e-2,
        logging_steps=plan.steps,
        report_to=[],
        seed=7,
        disable_tqdm=True,
    )
    if dist.get_rank() == 0:
        make_base(plan.width)
    dist.barrier()
    tokenizer = AutoTokenizer.from_pretrained("base")
    model = AutoModelForCausalLM.from_pretrained("base")
    times = Times()

    class Watching(TrainerCallback):
        """Notes the truth at each save, and step times."""

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            note_truth(getattr(model, "module", model), plan.out, state.global_step)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.end()

    ours = [] if plan.options is None else [ConsolidateCallback(**plan.options)]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encode(tokenizer) * 8,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[*ours, Watching()],
    )
    if plan.die_at is not None and dist.get_rank() == 1:
        die_in_the_middle_of(plan.die_at)
    trainer.train(resume_from_checkpoint=plan.resume)
    times.write(plan.out)
    if dist.get_rank() == 0:
        trainer.state.save_to_json("state.json")


def make_base(width: int) -> None:
    """A model that has learnt nothing, and its tokenizer."""
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    corpus = [text for pair in CONVERSATIONS for text in pair] * 4
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=huggingface.byte_level_bpe(corpus, vocabulary=300, special_tokens=special),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=128,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )
    tokenizer.save_pretrained("base")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(7)
    Qwen2ForCausalLM(config).save_pretrained("base")
