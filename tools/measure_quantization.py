"""How far a quantized model's answers are from those of the same weights in fp32: the table in docs/quantize.md.

    python tools/measure_quantization.py        (in the environment that sh tools/test_quantize.sh makes)

The bundled fine-tunes are tiny, and were trained for three steps. transformers loads both, on a CPU, and dequantizes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.quantization_config import CompressedTensorsConfig

from zeroconsolidate import consolidate

MODELS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "models"
EMBEDDERS = {"m3_z3": "BGE-M3 fine-tune", "embedder_z3": "embedder fine-tune"}
DECODERS = {"llm_untied_z3": "Llama fine-tune", "mixtral_z3": "Mixtral fine-tune"}
SEQUENCES, TOKENS = 512, 24


def loaded(kind: Any, directory: Path, *, quantized: bool) -> torch.nn.Module:
    """The model in fp32."""
    config = CompressedTensorsConfig(dequantize=True) if quantized else None
    model: torch.nn.Module = kind.from_pretrained(directory, dtype=torch.float32, quantization_config=config).eval()
    return model


def answers(model: Any, *, embeds: bool) -> torch.Tensor:
    """Normalised vectors of the first token, or logits at every position, for random tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (SEQUENCES, TOKENS), generator=generator)
    with torch.no_grad():
        found = model(input_ids=ids)
    return torch.nn.functional.normalize(found.last_hidden_state[:, 0].double(), dim=-1) if embeds else found.logits


def line(case: str, scheme: str, folder: Path) -> str:
    """A row of the table."""
    embeds = case in EMBEDDERS
    kind = transformers.AutoModel if embeds else transformers.AutoModelForCausalLM
    source = MODELS / case / "checkpoint"
    consolidate(source, folder / "plain", overwrite=True)
    consolidate(source, folder / scheme, quantize=scheme, overwrite=True)
    before = answers(loaded(kind, folder / "plain", quantized=False), embeds=embeds)
    after = answers(loaded(kind, folder / scheme, quantized=True), embeds=embeds)
    if embeds:
        cosine = (before.double() * after.double()).sum(dim=-1)
        nearest = [(v @ v.T).fill_diagonal_(-1).argmax(dim=-1) for v in (before, after)]
        agree = (nearest[0] == nearest[1]).float().mean()
        return f"| {EMBEDDERS[case]} | `{scheme}` | {1 - cosine.mean():.1e} | {1 - cosine.min():.1e} | {agree:.1%} |"
    logs = [x.log_softmax(dim=-1) for x in (before, after)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1).mean()
    agree = (before.argmax(dim=-1) == after.argmax(dim=-1)).float().mean()
    return f"| {DECODERS[case]} | `{scheme}` | {agree:.1%} | {divergence:.1e} |"


def main() -> None:
    """Print both tables."""
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        print("| model | | 1 - cosine, mean | largest | same nearest neighbour |\n|---|---|--:|--:|--:|")
        for case in EMBEDDERS:
            for scheme in ("fp8", "int8"):
                print(line(case, scheme, Path(folder) / case))
        print("\n| model | | same next token | KL divergence |\n|---|---|--:|--:|")
        for case in DECODERS:
            for scheme in ("fp8", "int8"):
                print(line(case, scheme, Path(folder) / case))


if __name__ == "__main__":
    main()
