"""How much of real models can be cloned, and in how many files: a table in docs/cloning.md.

    python tools/cloning_table.py                   markdown, for fp32
    python tools/cloning_table.py --groups 1        with all parameters in one param group
    python tools/cloning_table.py --dtype bf16      of the 16-bit module, as stages 1 and 2 save it

Pure arithmetic: the shapes are transformers' own, of models that are built without memory (torch's device `meta`), and
no checkpoint is needed. They are laid out as DeepSpeed does: in the Hugging Face Trainer's two param groups (weights,
and what has no weight decay), at stage 3 in sub-groups of a billion elements a rank, each a tensor of its own in the
rank's file, where torch aligns it to 64 bytes. The module in 16 bits has one storage for each param group.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor, contiguous
from zeroconsolidate.catalog.facts import stripe_numel
from zeroconsolidate.dtypes import DType
from zeroconsolidate.options import parse_size
from zeroconsolidate.options.convert import Options
from zeroconsolidate.plan.congruent import Sharing, congruent
from zeroconsolidate.plan.layout import TensorPlan
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.plan.zero3 import Stripes
from zeroconsolidate.plan.zero12 import FlatBuffer, Window

if TYPE_CHECKING:
    from zeroconsolidate.plan.pieces import Recipe

RANKS = (2, 3, 4, 6, 8, 16, 32, 64)
BLOCK_BYTES = 4096
FIRST_BYTE = 4096 + 64
"""Where the first storage of a rank's file begins. Only its distance to the others counts."""
GAP_BYTES = 128
"""Between two storages in a file of torch: a checksum, the next one's header, and padding."""
SUB_GROUP_NUMEL = 10**9
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "BGE-M3": ("XLMRobertaModel", {
        "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1}),
    "Qwen2.5-0.5B": ("Qwen2ForCausalLM", {
        "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": True}),
    "Qwen2.5-7B": ("Qwen2ForCausalLM", {
        "vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "tie_word_embeddings": False}),
    "Mistral-7B": ("MistralForCausalLM", {
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336}),
    "Llama-3-8B": ("LlamaForCausalLM", {
        "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336}),
    "Qwen2.5-32B": ("Qwen2ForCausalLM", {
        "vocab_size": 152064, "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "intermediate_size": 27648, "tie_word_embeddings": False}),
    "Llama-3-70B": ("LlamaForCausalLM", {
        "vocab_size": 128256, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 28672}),
}  # fmt: skip
"""As their config.json on the hub says."""


def shapes_of(model: str) -> dict[str, tuple[int, ...]]:
    """The parameters in the order of the module; a tied one once."""
    import torch
    import transformers

    kind, settings = MODELS[model]
    cls = getattr(transformers, kind)
    with torch.device("meta"):
        built = cls(cls.config_class(**settings))
    return {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}


def located(rank: int, start: int, numel: int) -> LocatedTensor:
    storage = LocatedStorage(file=str(rank), key="", start=start, numel=numel, dtype=DType.F32, big_endian=False)
    return contiguous(storage, (numel,))


def members_of(shapes: dict[str, tuple[int, ...]], groups: int) -> list[list[str]]:
    """The names in each param group."""
    decayed = {name for name, shape in shapes.items() if len(shape) > 1}
    return [list(shapes)] if groups == 1 else [
        [name for name in shapes if name in decayed], [name for name in shapes if name not in decayed]
    ]  # fmt: skip


def recipes(shapes: dict[str, tuple[int, ...]], stage: int, ranks: int, groups: int) -> dict[str, Recipe]:
    """Where each parameter lies."""
    found: dict[str, Recipe] = {}
    start = FIRST_BYTE
    for names in members_of(shapes, groups):
        for part in _sub_groups(names, shapes, ranks) if stage == 3 else [names]:
            numels = {name: math.prod(shapes[name]) for name in part}
            if stage == 3:
                held = sum(stripe_numel(numel, ranks) for numel in numels.values())
            else:  # `nccl_start_alignment_factor`: two elements a rank
                held = -(-sum(numels.values()) // (2 * ranks)) * 2
            partitions = tuple(located(rank, start, held) for rank in range(ranks))
            buffer = FlatBuffer(partitions, tuple(rank * held for rank in range(ranks + 1)))
            first = 0
            for name, numel in numels.items():
                found[name] = Stripes(partitions, first, numel) if stage == 3 else Window(buffer, first, numel)
                first += stripe_numel(numel, ranks) if stage == 3 else numel
            start += -(-(held * 4 + GAP_BYTES) // 64) * 64
    return {name: found[name] for name in shapes}


def _sub_groups(names: list[str], shapes: dict[str, tuple[int, ...]], ranks: int) -> list[list[str]]:
    """As `_create_fp16_sub_groups` in deepspeed/runtime/zero/stage3.py cuts a param group."""
    cut: list[list[str]] = [[]]
    size = 0
    for name in names:
        if size >= SUB_GROUP_NUMEL:
            cut.append([])
            size = 0
        cut[-1].append(name)
        size += stripe_numel(math.prod(shapes[name]), ranks)
    return cut


def module_recipes(shapes: dict[str, tuple[int, ...]], groups: int) -> dict[str, Recipe]:
    """Where the 16-bit copy of each parameter lies."""
    found: dict[str, Recipe] = {}
    start = FIRST_BYTE
    for names in members_of(shapes, groups):
        numel = sum(math.prod(shapes[name]) for name in names)
        storage = LocatedStorage(file="", key="", start=start, numel=numel, dtype=DType.BF16, big_endian=False)
        first = 0
        for name in names:
            view = contiguous(storage, (numel,))
            found[name] = View(replace(view, offset=first, shape=(math.prod(shapes[name]),)))
            first += math.prod(shapes[name])
        start += -(-(numel * 2 + GAP_BYTES) // 64) * 64
    return {name: found[name] for name in shapes}


def cell(shapes: dict[str, tuple[int, ...]], found: dict[str, Recipe]) -> str:
    """Share of the bytes, and files."""
    tensors = [
        TensorPlan(name=name, dtype=recipe.dtype, shape=shapes[name], recipe=recipe, is_parameter=True)
        for name, recipe in found.items()
    ]
    sharing = Sharing(block_bytes=BLOCK_BYTES, apart=frozenset(), insisted=False)
    made = congruent(tensors, parse_size(str(Options.max_shard_size)), sharing, name="model.safetensors")
    if made is None:
        return "copied"
    share = 100 * made.shared_bytes / sum(tensor.nbytes for tensor in tensors)
    return f"{share:.{0 if share > 99.95 else 1}f} % in {len(made.files)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, choices=(1, 2), default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--only", choices=MODELS, nargs="*", default=list(MODELS))
    options = parser.parse_args()
    if options.dtype == "bf16":
        print("| model | two param groups | one |\n|---|--:|--:|")
        for model in options.only:
            shapes = shapes_of(model)
            print(f"| {model} |", " | ".join(cell(shapes, module_recipes(shapes, n)) for n in (2, 1)), "|", flush=True)
        return
    print("| model | stage |", " | ".join(f"{ranks} ranks" for ranks in RANKS), "|")
    print("|---|--:|" + "--:|" * len(RANKS))
    for model in options.only:
        shapes = shapes_of(model)
        for stage in (2, 3):
            cells = [cell(shapes, recipes(shapes, stage, ranks, options.groups)) for ranks in RANKS]
            print(f"| {model if stage == 2 else ''} | {stage} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
