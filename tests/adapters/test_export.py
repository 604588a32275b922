"""The files of adapters, planned in memory."""

from __future__ import annotations

from adapted import PEFT, config, lora, trained
from catalogs import BF16, stage2

from zeroconsolidate.adapters.export import AdapterFile, adapter_files, build_adapters
from zeroconsolidate.adapters.wrapping import take_apart, ties_of_model
from zeroconsolidate.plan.sources import sources


def test_adapters_have_a_file_each():
    source = sources(stage2())["a"]
    adapters = [
        AdapterFile(adapter=name, folder=folder, tensors={"w": source})
        for name, folder in (("default", ""), ("x", "x"))
    ]
    plan = build_adapters(adapters, left_out=("z",), dtype=BF16, padding_bytes=3)
    assert [file.name for file in plan.files] == ["adapter_model.safetensors", "x/adapter_model.safetensors"]
    assert {tensor.dtype for tensor in plan.tensors()} == {BF16}
    assert (plan.index, plan.left_out, plan.padding_bytes) == (None, ("z",), 3)


def test_trained_tokens_of_an_embedding_that_the_wrapper_names_first():
    """PEFT saves them once, under the embedding's name in its own model, not under the head's that is tied to it."""
    rows, where = trained(3, 4), "token_adapter.trainable_tokens_delta.default"
    wrapped, embedding, head = f"embed.{where}", f"model.{PEFT}embed_tokens.{where}", f"model.{PEFT}lm_head.{where}"
    named = {f"model.{name}": source for name, source in lora("q_proj", 4, 4).items()}
    named |= dict.fromkeys((wrapped, embedding, head), rows)
    stored = {embedding: wrapped, head: wrapped}
    parts = take_apart(named, ("lora_",))
    ties = ties_of_model(parts, stored)
    assert ties == {wrapped: embedding, head: embedding}
    configs = {"default": config(trainable_token_indices=[1, 2, 3])}
    ((file,), outside) = adapter_files(named, parts, ties, configs)
    tokens = [name for name in file.tensors if "tokens" in name]
    assert tokens == [f"{PEFT}embed_tokens.token_adapter.trainable_tokens_delta"]
    assert outside == ()


def test_trained_tokens_of_a_head_that_comes_before_its_embedding():
    """As in XLMRobertaForMaskedLM: PEFT saves those of the input embedding, whichever name the tied tensor has."""
    rows, where = trained(3, 4), "token_adapter.trainable_tokens_delta.default"
    head, embedding = f"{PEFT}lm_head.decoder.{where}", f"{PEFT}roberta.word_embeddings.{where}"
    named = lora("query", 4, 4) | dict.fromkeys((head, embedding), rows)
    parts = take_apart(named, ("lora_",))
    configs = {"default": config(trainable_token_indices=[1, 2, 3])}
    ((file,), outside) = adapter_files(named, parts, {embedding: head}, configs)
    tokens = [name for name in file.tensors if "tokens" in name]
    assert tokens == [f"{PEFT}roberta.word_embeddings.token_adapter.trainable_tokens_delta"]
    assert outside == ()


def test_a_tie_inside_of_the_model_stays_as_it_is():
    parts = take_apart([f"{PEFT}a.weight", f"{PEFT}b.weight", f"{PEFT}q.lora_A.default.weight", "outside"], ("lora_",))
    ties = {f"{PEFT}b.weight": f"{PEFT}a.weight", "lost": "outside"}
    assert ties_of_model(parts, ties) == ties
